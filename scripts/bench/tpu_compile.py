"""Which programs compile for which TPUs, and what they need: writes results/tpu_compile.json and .md.

    cargo build --release && python3 scripts/bench/tpu_compile.py [--only TEXT]

Needs no TPU. A row that the JSON file holds already is not made again, so the script can be stopped and started; a row that
does not compile holds the compiler's words. Batches are per device: the devices' parts of the recipe's, or for ImageNet what
its batch of 4096 leaves each of 32 cores.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "scripts/bench/results"
PROGRAM = ROOT / "target/release/rigl-xla"
GENERATIONS = ["v2:2x2", "v3:2x2", "v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"]
MNIST = ["dense", "scratch", "static", "set", "snfs", "prune", "snip", "dnw", "rigl-inverted", "rigl-itop", "set-itop"]


def rows():
    """Preset, batch per device (None: the recipe's, shared), graph, topology and effort; the most informative first."""
    for topology in GENERATIONS:
        yield "mnist-rigl", None, "step", topology, None
    # On v3:4x4, 32 devices share the paper's batch of 4096.
    for topology in ["v5e:2x2", "v3:4x4", "v4:2x2x1"]:
        for preset in ["resnet50-rigl-erk-0.8", "resnet50-dense"]:
            yield preset, 128, "step", topology, 0
    for method in MNIST:
        yield f"mnist-{method}", None, "step", "v5e:2x2", None
    for graph in ["update", "eval", "train"]:
        yield "mnist-rigl", None, graph, "v5e:2x2", None
    for preset in ["cifar10-rigl", "mobilenet-v1-rigl"]:
        yield preset, 128, "step", "v5e:2x2", 0
    yield "resnet50-rigl-erk-0.8", None, "update", "v5e:2x2", 0


def compiled(preset, batch, graph, topology, effort):
    command = [PROGRAM, "compile", preset, "--topology", topology, "--graph", graph, "--json"]
    if batch:
        command += ["--batch-per-device", str(batch)]
    if effort is not None:
        command += ["--effort", str(effort)]
    done = subprocess.run(command, capture_output=True, text=True)
    row = {"preset": preset, "graph": graph, "topology": topology, "command": " ".join(map(str, ["rigl-xla", *command[1:]]))}
    if done.returncode:
        return row | {"compiles": False, "error": done.stderr.strip().splitlines()[-1]}
    return row | json.loads(done.stdout)


def table(found):
    made = {(row["preset"], row["graph"], row["topology"]) for row in found}
    missing = [f"{preset} {graph} on {topology}" for preset, _, graph, topology, _ in rows() if (preset, graph, topology) not in made]
    lines = [
        "# Programs compiled ahead of time for TPUs",
        "",
        "By `scripts/bench/tpu_compile.py`, with the package `libtpu` and no TPU; `tpu_compile.json` holds every figure and",
        "command. A step or a launch has a replica on every device and gradients that are reduced over all of them. Figures are",
        "the compiler's, per device and execution; of a loop it counts one turn. The share is of a device's memory. Effort is",
        "how hard the compiler was told to try; `-` is its own choice. Arrays are f32.",
        "",
        "| preset | graph | topology | devices | batch | effort | compiles | peak bytes | share | FLOPs | bytes accessed | collective bytes |",
        "|---|---|---|--:|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in found:
        head = f"| {row['preset']} | {row['graph']} | {row['topology']} |"
        if not row["compiles"]:
            lines.append(f"{head} | | | no | | | | | |")
            continue
        share = row["peak_bytes"] / row["device_bytes"]
        effort = "-" if row["effort"] is None else row["effort"]
        lines.append(
            f"{head} {row['devices']} | {row.get('batch_per_device', row.get('batch'))} | {effort} | yes | {row['peak_bytes']} | {share:.2%} "
            f"| {row['flops']:.5g} | {row['bytes_accessed']:.4g} | {row['collective_bytes']} |"
        )
    if missing:
        lines += ["", f"Not compiled for this table: {', '.join(missing)}."]
    return "\n".join(lines + [""] + overheads(found)) + "\n"


def overheads(found):
    """Cost of masks, and of mask updates where they were compiled, on top of the dense step."""
    by = {(r["preset"], r["graph"], r["topology"]): r for r in found if r["compiles"]}
    lines = []
    for topology in dict.fromkeys(r["topology"] for r in found):
        sparse, dense = (by.get((preset, "step", topology)) for preset in ["resnet50-rigl-erk-0.8", "resnet50-dense"])
        update = by.get(("resnet50-rigl-erk-0.8", "update", topology))
        if not sparse or not dense:
            continue
        flops, memory = (sparse[key] / dense[key] - 1 for key in ["flops", "peak_bytes"])
        lines.append(f"* ResNet-50 on {topology}: RigL's step has {flops:.3%} more FLOPs and {memory:.2%} more peak memory than the dense one.")
        if update:
            # At most 32 turns of each inner loop of an update, in at most 12 of the loop over layers of one size; an update
            # comes every 100 steps.
            flops = (sparse["flops"] + 12 * 32 * update["flops"] / 100) / dense["flops"] - 1
            memory = max(sparse["peak_bytes"], update["peak_bytes"]) / dense["peak_bytes"] - 1
            lines.append(f"  With a mask update every 100 steps: at most {flops:.3%} and {memory:.2%}.")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows whose preset, graph and topology contain this")
    parser.add_argument("--program", type=Path, default=PROGRAM)
    args = parser.parse_args()
    globals()["PROGRAM"] = args.program
    path = RESULTS / "tpu_compile.json"
    found = json.loads(path.read_text()) if path.exists() else []
    have = {(r["preset"], r["graph"], r["topology"]) for r in found}
    for preset, batch, graph, topology, effort in rows():
        title = f"{preset} {graph} {topology}"
        if (preset, graph, topology) in have or args.only not in title:
            continue
        print(title, file=sys.stderr)
        found.append(compiled(preset, batch, graph, topology, effort))
        path.write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "tpu_compile.md").write_text(table(found))


if __name__ == "__main__":
    main()
