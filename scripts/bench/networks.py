#!/usr/bin/env python3
"""Training steps and predictions of ResNet-50, MobileNet-v1 and WideResNet-22-2 on the CPU, against JAX, PyTorch and TF 1.15,
or with `--device gpu` training steps of ResNet-50 on a GPU with activations in bf16, against JAX and PyTorch.

Ours run by the launch program of `train` (`cargo bench --bench networks`), with RigL's masks and dense; the peers are
dense, but for compile times, where JAX has RigL's update too. All take turns in the same run; medians count. Run
`setup.sh` first and build with `cargo build --release --bin rigl-xla --bench networks`. On a GPU the peers are those of
`--python`, by default the interpreter that runs this, and $RIGL_XLA_PLUGIN names the plugin where none is to be fetched, such
as the one of that JAX. Writes results/networks.json and .md, or networks_gpu.
"""
import argparse
import glob
import os
import statistics
import subprocess
import sys
import tempfile

import bench

PEER = os.path.join(bench.HERE, "peer_networks.py")
PEERS = {"jax": "venv", "torch": "torch", "tf1": "tf1"}
TITLES = {"jax": "JAX", "torch": "PyTorch", "tf1": "TF 1.15"}
# Network, our presets with masks and dense, training batch on the CPU.
NETWORKS = {
    "resnet50": ("resnet50-rigl-erk-0.8", "resnet50-dense", 8),
    "mobilenet-v1": ("mobilenet-v1-rigl", "mobilenet-v1-dense", 16),
    "wrn-22-2": ("cifar10-rigl", "cifar10-dense", 128),
    "wrn-22-2-dropout": ("cifar10-rigl", "cifar10-dense", 128),
}
VALUES = {"wrn-22-2": ["model.dropout=0"]}
# Calls of a few milliseconds take twice as long until some tens of them have run, ours and the peers'.
STEPS = {"train": 2, "predict": 8, "predict one": 100}
# ResNet-50's on a GPU, and the steps that peers take there before they wait: as many as a launch of ours has.
GPU_BATCH, GPU_LAUNCH = 256, 10
# Size and type of the matrix product that measures the peak rate of a device.
PRODUCT = {"cpu": (3072, "float32"), "gpu": (16384, "bfloat16")}


def values(args, network):
    """Settings that override our presets."""
    device = [] if args.device == "cpu" else [f"device.kind={args.device}"]
    return [*device, *([] if args.precision == "f32" else [f"train.precision={args.precision}"]), *VALUES.get(network, [])]


def peers(args):
    """Library to the Python that has it."""
    if args.device == "gpu":
        return {library: args.python for library in ("jax", "torch")}
    found = {library: os.path.join(bench.WORK, environment, "bin", "python") for library, environment in PEERS.items()}
    missing = {library for library, python in found.items() if not os.path.exists(python)}
    missing |= {"tf1"} if args.precision != "f32" else set()
    if missing:
        print(f"left out: {', '.join(sorted(missing))}", file=sys.stderr)
    return {library: python for library, python in found.items() if library not in missing}


def peer(args, library, what, network, batch, steps):
    """Command of a peer. On a GPU its steps follow each other without waiting, as ours do within a launch."""
    command = [args.peers[library], PEER, library, what, network, str(batch), str(steps)]
    launch = ["--launch", str(GPU_LAUNCH)] if args.device == "gpu" and what == "train" else []
    return [*command, *launch, *([] if args.precision == "f32" else ["--precision", args.precision])]


def commands(args, network, what, batch):
    """Name to command; `rigl`, `static` (its masks, which gradients do not move) and `dense` are ours."""
    found, count = {}, STEPS["predict one" if (what, batch) == ("predict", 1) else what]
    rigl, dense, _ = NETWORKS[network]
    for name, preset, method in (("rigl", rigl, []), ("static", rigl, ["method.name=static"]), ("dense", dense, [])):
        if what == "train" or name == "rigl":
            found[name] = [args.binary, what, preset, str(batch), str(count), *method, *values(args, network)]
    for library in args.peers:
        found[library] = peer(args, library, what, network, batch, count)
    return found


def gflop(network, preset, batch):
    """Multiplications and additions of a forward pass of the dense network, by `cost`."""
    command = [bench.BINARY, "cost", preset, "--json"]
    cost = bench.run_json(command)
    return cost["total"]["inference_flops"]["plain"]["dense"] * batch / 1e9


def seconds(record):
    """Seconds of a step within a launch of several if that was measured, otherwise of a call."""
    return record.get("in_launch_s") or statistics.median(record["seconds"])


def measure(args, network, what, batch):
    programs = commands(args, network, what, batch)
    runs = {name: [] for name in programs}
    for _ in range(args.rounds):
        for name, command in programs.items():
            runs[name].append(bench.run_json(command))
            print(f"{network} {what} {batch} {name}: {seconds(runs[name][-1]):.3f} s", file=sys.stderr, flush=True)
    return {
        "network": network,
        "what": what,
        "batch": batch,
        "gflop": gflop(network, NETWORKS[network][0], batch) * (3 if what == "train" else 1),
        "seconds": {name: statistics.median(map(seconds, rounds)) for name, rounds in runs.items()},
        "runs": runs,
        "commands": {name: bench.shown(command) for name, command in programs.items()},
    }


def limit(args):
    """GFLOP/s of one large matrix product on the whole device, in JAX."""
    size, dtype = PRODUCT[args.device]
    program = (
        f"import time, numpy, jax, jax.numpy as jnp; n = {size}; x = jnp.asarray(numpy.random.rand(n, n), jnp.{dtype});"
        "f = jax.jit(lambda a, b: a @ b); f(x, x).block_until_ready(); best = 1e9\n"
        "for _ in range(12):\n"
        "    start = time.perf_counter(); f(x, x).block_until_ready(); best = min(best, time.perf_counter() - start)\n"
        "print(2 * n**3 / best / 1e9)"
    )
    result = subprocess.run([args.peers["jax"], "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    return float(result.stdout)


def table(record):
    machine, names = record["machine"], record["peers"]
    size, dtype = PRODUCT[record["device"]]
    where = "the CPU" if record["device"] == "cpu" else "a GPU"
    lines = [
        f"# Networks on {where}",
        "",
        f"{record['chip']}, {record['precision']}, load "
        f"{machine['load_average_before'][0]} before the run, {machine['date']}, revision {machine['revision']}; median of "
        f"{record['rounds']} alternating rounds. A {dtype} matrix product of {size} reaches {record['limit_gflops']:.0f} "
        "GFLOP/s.",
        *record["notes"],
        "",
        "Images per second. Ours with RigL's masks, and dense; the others dense. A training step is one of a launch of "
        "the preset's length, as `train` runs it; the last column is the share of the matrix product's rate, a "
        "training step counted as three forward passes.",
        "",
        f"| network | batch | pass | ours, RigL | ours, dense | {' | '.join(TITLES[name] for name in names)} | "
        f"{' | '.join('over ' + TITLES[name] for name in names)} | of limit |",
        "|---" * (6 + 2 * len(names)) + "|",
    ]
    for row in record["rows"]:
        rate = {name: row["batch"] / value for name, value in row["seconds"].items()}
        cells = [f"{rate[name]:.1f}" if name in rate else "" for name in ("rigl", "dense", *names)]
        ratios = [f"{rate['rigl'] / rate[name]:.2f}" if name in rate else "" for name in names]
        share = row["gflop"] / row["seconds"]["rigl"] / record["limit_gflops"]
        lines.append(f"| {row['network']} | {row['batch']} | {row['what']} | {' | '.join(cells + ratios)} | {share:.2f} |")
    if any(row["what"] == "train" for row in record["rows"]):
        lines += ["", "| training step | ours, RigL | ours, static masks | ours, dense | JAX |", "|---|---|---|---|---|"]
    for row in record["rows"]:
        if row["what"] == "train":
            runs = row["runs"]
            for title, field in (
                *([("peak memory, MB", "peak_rss_mb")] if record["device"] == "cpu" else []),
                (f"step in a launch of {runs['rigl'][0]['launch']}, s", "in_launch_s"),
                ("step with mask update, s", "with_update_s"),
                ("step alone in a launch, s", None),
            ):
                cells = []
                for name in ("rigl", "static", "dense", "jax"):
                    value = (
                        statistics.median([statistics.median(run["seconds"]) for run in runs[name]])
                        if field is None
                        else bench.median(runs[name], field)
                    ) if name in runs else None
                    cells.append("" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}")
                lines.append(f"| {row['network']}: {title} | {' | '.join(cells)} |")
    if record["compile_s"]:
        lines += ["", "| ResNet-50's training program | seconds to compile |", "|---|---|"]
        lines += [f"| {name} | {statistics.median(values):.1f} |" for name, values in record["compile_s"].items()]
    lines += ["", "Commands:", ""]
    for row in record["rows"]:
        lines += [f"    {command}" for command in row["commands"].values()]
    return "\n".join(lines) + "\n"


def compile_times(args, batch):
    """Seconds to compile ResNet-50's training programs, dense and with RigL's update, and JAX's of the same kind."""
    rigl, dense, _ = NETWORKS["resnet50"]
    plugin = bench.doctor("--device", args.device)["path"]
    jax = peer(args, "jax", "train", "resnet50", batch, 0)
    seconds = {"ours, RigL": [], "ours, dense": [], "JAX, RigL": [], "JAX, dense": [], "from the cache": []}

    def ours(preset, environment):
        record = bench.run_json([args.binary, "train", preset, str(batch), "0", *values(args, "resnet50")], environment)
        return record["graph_s"] + record["compile_s"]

    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "RIGL_XLA_CACHE": cache, "RIGL_XLA_PLUGIN": plugin}
            # oneDNN comes into the empty cache before the clock starts.
            bench.doctor("--device", args.device, environment=environment)
            seconds["ours, RigL"].append(ours(rigl, environment))
            seconds["from the cache"].append(ours(rigl, environment))
            seconds["ours, dense"].append(ours(dense, environment))
        for name, flags in (("JAX, RigL", ["--rigl"]), ("JAX, dense", [])):
            seconds[name].append(bench.run_json([*jax, *flags])["compile_s"])
        print({name: round(runs[-1], 1) for name, runs in seconds.items()}, file=sys.stderr, flush=True)
    return seconds


def built():
    """The newest build of the networks bench; none where there is none."""
    found = glob.glob(os.path.join(bench.ROOT, "target/release/deps/networks-*[0-9a-f]"))
    return max(found, key=os.path.getmtime, default=None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--binary", default=built(), help="the networks bench")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the results, such as on the load")
    parser.add_argument("--device", choices=sorted(PRODUCT), default="cpu")
    parser.add_argument("--precision", choices=["f32", "bf16"], help="of activations [default: bf16 on a GPU]")
    parser.add_argument("--batch", type=int, help="of training [default: 256 on a GPU]")
    parser.add_argument("--python", default=sys.executable, help="with JAX and PyTorch for GPUs")
    parser.add_argument("--only", help="one network, without compile times [default: resnet50 on a GPU]")
    parser.add_argument("--what", choices=["train", "predict"], help="one of the passes, without compile times [default: both]")
    parser.add_argument("--name", help="of the results")
    args = parser.parse_args()
    on_gpu = args.device == "gpu"
    args.precision = args.precision or ("bf16" if on_gpu else "f32")
    args.peers = peers(args)
    machine, rows = bench.machine(args.device), []
    gflops = limit(args)
    for network, (_, _, batch) in NETWORKS.items():
        if network == args.only or (args.only is None and (network == "resnet50" or not on_gpu)):
            batch = args.batch or (GPU_BATCH if on_gpu else batch)
            if args.what != "predict":
                rows.append(measure(args, network, "train", batch))
            sizes = () if args.what == "train" or on_gpu or network.endswith("-dropout") else (1, batch)  # dropout has no predictions of its own
            rows += [measure(args, network, "predict", size) for size in sizes]
    record = {
        "machine": machine,
        "device": args.device,
        "chip": bench.gpu() if on_gpu else bench.processor(machine),
        "precision": args.precision,
        "peers": list(args.peers),
        "rounds": args.rounds,
        "limit_gflops": max(gflops, limit(args)),
        "notes": args.note,
        "compile_s": compile_times(args, rows[0]["batch"]) if args.only is None and args.what is None else {},
        "rows": rows,
    }
    name = args.name or ("networks_gpu" if on_gpu else "networks")
    bench.save(name, record, table(record))


if __name__ == "__main__":
    main()
