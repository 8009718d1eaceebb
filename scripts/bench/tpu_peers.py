#!/usr/bin/env python3
"""Training steps compiled for TPUs that are not here, beside JAX's of the same networks by the same libtpu: writes
results/tpu_peers.json, .md and .svg.

    cargo build --release && target/bench/venv/bin/python scripts/bench/tpu_peers.py [--only TEXT]

JAX's networks are those of peer_networks.py: as users write them, dense and with RigL's masks and update in one program (where
ours updates masks in a program of its own). A row that the JSON file holds already is not made again, so the script can be
stopped and started. FLOPs, bytes accessed and cycles are the compiler's, bytes of main memory are counted in the optimised
program, for both by `rigl-xla compile --by-layer`; of a loop they are those of one turn.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time

import bench

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
OURS = {
    "resnet50": ["resnet50-dense", "resnet50-rigl-erk-0.8"],
    "mobilenet-v1": ["mobilenet-v1-dense", "mobilenet-v1-rigl"],
    "mobilenet-v2": ["mobilenet-v2-dense", "mobilenet-v2-rigl"],
    "wrn-22-2": ["cifar10-dense", "cifar10-rigl"],
}
# JAX's programs neither augment nor drop out.
PLAIN = {"wrn-22-2": ["--set", "model.dropout=0", "--set", "data.augment=false"]}
TRIED = [
    "Tried on v5e, bf16, 64 per chip, and not kept:",
    "",
    "* joint gradients also of convolutions to twice the channels: MobileNet-v1 accesses 11.80 GB instead of 11.33, although HBM falls from "
    "5.05 to 4.72 GB and cycles from 24.7 to 24.1 M (before images were cut into halves);",
    "* halves of ResNet-50's 56 x 56 images: 32.42 GB instead of 29.24, HBM 12.37 instead of 11.37 GB. Most of its arrays have 256 channels "
    "there, and the compiler lays out the others alike, with channels in the lanes, which halves do not fill;",
    "* halves whose borders are slices of normalised images (in JAX, MobileNet-v1's first four blocks): 6.82 GB instead of 6.53, as normalised "
    "images and gradients are then stored; slices are now taken before the normalisation;",
    "* libtpu's own pass of this kind (`--xla_tpu_run_space_to_batch=true`): it takes no convolution with a batch of 64.",
]
PROGRAMS = ["ours, dense", "JAX, dense", "ours, RigL", "JAX, RigL"]
FIGURES = ["flops", "bytes_accessed", "main_memory_bytes", "cycles", "memory_bytes"]
GENERATIONS = ["v5e:1x1", "v4:1x1x1", "v5p:1x1x1", "v6e:1x1", "tpu7x:1x1x1"]


def rows():
    """Network, precision, batch per device, topology and program; the most informative first."""
    for network in OURS:
        for program in PROGRAMS[:3]:
            yield network, "bf16", 64, "v5e:1x1", program
    yield "wrn-22-2", "bf16", 64, "v5e:1x1", "JAX, RigL"
    for program in PROGRAMS[:2]:
        yield "wrn-22-2", "bf16", 64, "v5e:2x2", program
        for network in ["wrn-22-2", "mobilenet-v1", "resnet50"]:
            for batch in [128, 256]:
                yield network, "bf16", batch, "v5e:1x1", program
            for topology in GENERATIONS[1:]:
                yield network, "bf16", 64, topology, program
            yield network, "f32", 64, "v5e:1x1", program


def counted(path, topology):
    """What `compile --compiled` counts in a compiled program."""
    found = bench.run_json([bench.BINARY, "compile", "--compiled", path, "--by-layer", "--topology", topology, "--json"])
    total = found["by_layer"]["total"]
    kept = {key: total[key] for key in ("main_memory_bytes", "cycles")}
    return {**kept, "instructions": found["instructions"], "collective_bytes": found["collective_bytes"]}


def memory(found):
    return sum(found[f"{kind}_bytes"] for kind in ("argument", "output", "temp")) - found["alias_bytes"]


def ours(network, precision, batch, topology, program):
    preset = OURS[network][program.endswith("RigL")]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "step.hlo")
        command = [
            bench.BINARY, "compile", preset, "--topology", topology, "--precision", precision, "--batch-per-device", str(batch),
            *PLAIN.get(network, []), "--json",
        ]  # fmt: skip
        found = bench.run_json([*command, "--save-hlo", path])
        row = {key: found[key] for key in ("flops", "bytes_accessed")}
        row |= {"memory_bytes": memory(found["memory"]), "compile_s": round(found["compile_s"], 1), **counted(path, topology)}
        return {**row, "plugin": found["plugin"], "command": bench.shown(command)}


def jax_step(network, precision, batch, topology, program, path):
    """Compiles JAX's program, in a process of its own; the optimised program goes to `path`."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import numpy as np
    from jax.experimental import topologies

    import peer_networks

    devices = topologies.get_topology_desc(topology, "tpu").devices
    mesh = jax.sharding.Mesh(np.array(devices), ("replica",))
    ahead = mesh if len(devices) > 1 else jax.sharding.SingleDeviceSharding(devices[0])
    model, batch = peer_networks.NETWORKS[network], batch * len(devices)
    images, labels = np.zeros((batch, model[1], model[1], 3), np.float32), np.zeros(batch, np.int32)
    started = time.perf_counter()
    compiled = peer_networks.with_jax(
        model, images, labels, True, 0, 1, bf16=precision == "bf16", rigl=program.endswith("RigL"), ahead=ahead
    )
    seconds, costs, used = time.perf_counter() - started, compiled.cost_analysis(), compiled.memory_analysis()
    with open(path, "wb") as file:
        file.write(compiled.runtime_executable().hlo_modules()[0].as_serialized_hlo_module_proto())
    used = {f"{kind}_bytes": getattr(used, f"{kind}_size_in_bytes") for kind in ("argument", "output", "alias", "temp")}
    row = {"flops": costs["flops"], "bytes_accessed": costs["bytes accessed"], "memory_bytes": memory(used)}
    print(json.dumps({**row, "compile_s": round(seconds, 1)}))


def jax(plugin, *row):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "step.hlo")
        command = [sys.executable, os.path.abspath(__file__), "--jax", json.dumps([*row, path])]
        environment = {**os.environ, "TPU_LIBRARY_PATH": plugin}
        found = bench.run_json(command, environment)
        found = {key: found[key] for key in ("flops", "bytes_accessed", "memory_bytes", "compile_s")}
        return {**found, **counted(path, row[3])}


def pairs(found):
    """Rows of ours with JAX's of the same kind."""
    by = {tuple(row["row"]): row for row in found}
    for key, row in by.items():
        peer = by.get((*key[:4], key[4].replace("ours", "JAX")))
        if key[4].startswith("ours") and peer:
            yield key, row, peer


def ratio(row, peer, figure):
    return row[figure] / peer[figure] if row.get(figure) and peer.get(figure) else math.nan


def table(record):
    machine = record["machine"]
    lines = [
        "# Training steps compiled for TPUs that are not here, beside JAX's",
        "",
        f"By `scripts/bench/tpu_peers.py`, {record['plugin']} for both and JAX {record['jax']}; {machine['date']}. Figures are per "
        "device and step. *Accessed* is libtpu's own count of bytes, in which arrays that it fetches into on-chip memory count up "
        "to five times; *HBM* are bytes of main memory; *cycles* are libtpu's estimates for its kernels. Compile times are those of "
        "a machine with other work. JAX's RigL program holds the mask update too.",
        "",
        "| network | precision | batch | topology | program | FLOPs | accessed | HBM | cycles | memory | collective bytes | instructions | compile s |",
        "|---|---|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in sorted(record["rows"], key=lambda row: [list(OURS).index(row["row"][0]), *map(str, row["row"][1:])]):
        network, precision, batch, topology, program = row["row"]
        lines.append(
            f"| {network} | {precision} | {batch} | {topology} | {program} | {row['flops']:.4g} | {row['bytes_accessed'] / 1e9:.3f} GB "
            f"| {row['main_memory_bytes'] / 1e9:.3f} GB | {row['cycles'] / 1e6:.2f} M | {row['memory_bytes'] / 1e9:.3f} GB "
            f"| {row['collective_bytes']} | {row['instructions']} | {row['compile_s']} |"
        )
    lines += ["", "Ours over JAX's:", "", "| network | precision | batch | topology | program | FLOPs | accessed | HBM | cycles | memory | compile |"]
    lines += ["|---|---|--:|---|---|--:|--:|--:|--:|--:|--:|"]
    for key, row, peer in pairs(record["rows"]):
        cells = [f"{ratio(row, peer, figure):.3f}" for figure in [*FIGURES, "compile_s"]]
        lines.append(f"| {' | '.join(map(str, [*key[:4], key[4].split(', ')[1], *cells]))} |")
    for figure, name in [("bytes_accessed", "accessed"), ("main_memory_bytes", "HBM"), ("cycles", "cycles")]:
        found = [
            (ratio(row, peer, figure), " ".join(map(str, key[:4])))
            for key, row, peer in pairs(record["rows"])
            if key[4].endswith("dense") and key[1] == "bf16" and not math.isnan(ratio(row, peer, figure))
        ]
        if found:
            mean = math.exp(sum(math.log(r) for r, _ in found) / len(found))
            worst = max(found)
            lines += ["", f"{name}, dense, bf16: {mean:.3f} in the geometric mean of {len(found)} rows, worst {worst[0]:.3f} ({worst[1]})."]
    lines += ["", *TRIED]
    commands = [row["command"] for row in record["rows"] if "command" in row]
    return "\n".join([*lines, "", "Commands:", "", *(f"    {command}" for command in commands)]) + "\n"


def plot(record, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "tpu_peers"
    from matplotlib import pyplot

    found = [(key, row, peer) for key, row, peer in pairs(record["rows"]) if key[4].endswith("dense")]
    figure, axes = pyplot.subplots(figsize=(8, 0.35 * len(found) + 1.5))
    for offset, (name, label) in zip((-0.25, 0, 0.25), (("bytes_accessed", "bytes accessed"), ("main_memory_bytes", "bytes of HBM"), ("cycles", "cycles"))):
        axes.barh([i + offset for i in range(len(found))], [ratio(row, peer, name) for _, row, peer in found], 0.25, label=label)
    axes.set_yticks(range(len(found)), [" ".join(map(str, key[:4])) for key, _, _ in found])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("ours over JAX's, dense training step")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose network, precision, batch, topology and program contain this")
    parser.add_argument("--jax", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.jax:
        return jax_step(*json.loads(args.jax))
    path = os.path.join(bench.RESULTS, "tpu_peers")
    record = json.load(open(path + ".json")) if os.path.exists(path + ".json") else {"rows": []}
    record["machine"] = bench.machine()
    import importlib.metadata

    record["jax"] = importlib.metadata.version("jax")
    have = {tuple(row["row"]) for row in record["rows"]}
    plugin = None
    for row in dict.fromkeys(rows()):
        if row in have or args.only not in " ".join(map(str, row)):
            continue
        print(*row, file=sys.stderr)
        if row[4].startswith("ours"):
            found = ours(*row)
            plugin = found.pop("plugin")
            # The folder is called after package and version.
            record["plugin"] = plugin.split(os.sep)[-3]
        else:
            if plugin is None:
                plugin = bench.run_json([bench.BINARY, "compile", "mnist-dense", "--topology", "v5e:1x1", "--json"])["plugin"]
            found = jax(plugin, *row)
        record["rows"].append({"row": list(row), **found})
        with open(path + ".json", "w") as file:
            json.dump(record, file, indent=1)
            file.write("\n")
    with open(path + ".md", "w") as file:
        file.write(table(record))
    plot(record, path + ".svg")


if __name__ == "__main__":
    main()
