#!/usr/bin/env python3
"""Predictions of sparse networks from connections alone, of our own masked ones, and of other engines, in turns on the CPU.

All engines are started for a network and a batch, then take turns of about a second, in which the others wait; medians count.
Ours (`cargo bench --bench networks -- executions`) have the same random weights and masks; sparse ones start from pixels on the
host, masked ones from pixels on the device. Peers are named with the Python of an environment that has them, and predict the same
network with random weights of the same sparsity (peer_predictions.py):

    sparse_predictions.py --peer onnxruntime=PYTHON --peer openvino=PYTHON --peer deepsparse=PYTHON --onnx PYTHON

Build with `cargo build --release --bin rigl-xla --bench networks`. Writes results/sparse_predictions.json and .md.
"""
import argparse
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile

import bench

# Network, preset, settings of a density of 1, distribution, sparsities. Peers have no networks but those of pictures of 224 pixels.
NETWORKS = [
    ("resnet50", "resnet50-rigl-erk-0.8", "uniform", (0.0, 0.8, 0.9, 0.95)),
    ("mobilenet-v1", "mobilenet-v1-rigl", "uniform", (0.0, 0.9)),
    ("wrn-22-2", "cifar10-rigl", "uniform", (0.0, 0.9, 0.95)),
    ("mnist-fc", "mnist-rigl", "erk", (0.0, 0.98)),
]
PEERED = ("mobilenet-v1", "resnet50")
BATCHES = (1, 8, 64)
# What tells rows apart.
KEYS = ("network", "sparsity", "batch")


class Engine:
    """A process that predicts for about a second whenever it is asked to, and answers with the seconds of one call."""

    def __init__(self, command):
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self.child.stdout.readline().strip()
        while self.ready and self.ready != "ready" and not self.ready.startswith("{"):
            self.ready = self.child.stdout.readline().strip()
        if not self.ready:
            raise SystemExit(f"{bench.shown(command)}: no answer")

    def turn(self, what):
        self.child.stdin.write(what + "\n")
        self.child.stdin.flush()
        return float(self.child.stdout.readline())

    def stop(self):
        self.child.stdin.close()
        self.child.wait()


def peers(args, network, sparsity, batch, folder):
    if network not in PEERED or not args.peer:
        return {}
    script = os.path.join(bench.HERE, "peer_predictions.py")
    path = os.path.join(folder, f"{network}-{sparsity}.onnx")
    if not os.path.exists(path):
        subprocess.run([args.onnx, script, "make", network, str(sparsity), path], check=True)
    pairs = (peer.split("=", 1) for peer in args.peer)
    return {name: [python, script, "serve", name, path, str(batch)] for name, python in pairs}


def measure(args, network, preset, distribution, sparsity, batch, folder):
    settings = [f"sparsity.target={sparsity}", f"sparsity.distribution={distribution}"]
    command = [args.binary, "executions", preset, str(batch), *settings, *([] if sparsity else ["method.name=dense"])]
    ours = Engine(command)
    others = {name: Engine(words) for name, words in peers(args, network, sparsity, batch, folder).items()}
    seconds = {name: [] for name in ("masked", "sparse", *others)}
    for _ in range(args.rounds):
        for way in ("masked", "sparse"):
            seconds[way].append(ours.turn(way))
        for name, engine in others.items():
            seconds[name].append(engine.turn(""))
    for engine in (ours, *others.values()):
        engine.stop()
    ratios = {
        name: statistics.median(a / b for a, b in zip(times, seconds["sparse"]))
        for name, times in seconds.items() if name != "sparse"
    }  # fmt: skip
    rates = {name: batch / statistics.median(times) for name, times in seconds.items()}
    shown = {name: round(rate, 1) for name, rate in rates.items()}
    print(f"{network} {sparsity} {batch}: {shown} sparse over {ratios}", file=sys.stderr, flush=True)
    return {
        "network": network,
        "sparsity": sparsity,
        "images_per_s": rates,
        "sparse_over": ratios,
        "seconds": seconds,
        "revision": args.revision,
        "command": bench.shown(command),
        **json.loads(ours.ready),
    }


def table(record):
    machine = record["machine"]
    names = [peer.split("=")[0] for peer in record["peers"]]
    lines = [
        "# Predictions from connections alone",
        "",
        f"{bench.processor(machine)}, f32, load {machine['load_average_before'][0]} before the run, {machine['date']}; "
        f"medians of {record['rounds']} turns of each in images/s; ratios are medians of those of "
        "neighbouring turns.",
        "",
        *([record["note"], ""] if record["note"] else []),
        "Density: share of the dense network's multiply-adds. Ready: seconds until a network can predict, masked (compiled anew or "
        "from the cache) and sparse. Difference: of logits, over the largest one.",
        "",
        "| " + " | ".join([
            "network", "sparsity", "density", "batch", "masked", "sparse", *names, "sparse over masked",
            *(f"over {name}" for name in names), "ready", "difference", "revision",
        ]) + " |",
        "|---" * (9 + 2 * len(names)) + "|",
    ]  # fmt: skip
    for row in record["rows"]:
        rates, over = row["images_per_s"], row["sparse_over"]
        ready = " / ".join(f"{seconds:.2f}" for seconds in row["ready_s"])
        cells = [
            row["network"], row["sparsity"], f"{row['density']:.3f}", row["batch"],
            *(f"{rates[name]:.1f}" if name in rates else "" for name in ("masked", "sparse", *names)),
            *(f"{over[name]:.2f}" if name in over else "" for name in ("masked", *names)),
            ready, f"{row['difference']:.0e}", row["revision"],
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "![images per second by sparsity](sparse_predictions.svg)"]
    lines += ["", "Commands, each asked for its turns on standard input:", ""]
    lines += [f"    {row['command']}" for row in record["rows"]]
    return "\n".join(lines) + "\n"


def draw(name, record):
    """Images per second over sparsity at a batch of 1, a network per panel."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rigl-xla"
    import matplotlib.pyplot as plt

    networks = list(dict.fromkeys(row["network"] for row in record["rows"]))
    figure, axes = plt.subplots(1, len(networks), figsize=(4.2 * len(networks), 4), squeeze=False)
    for axis, network in zip(axes[0], networks):
        rows = [row for row in record["rows"] if row["network"] == network and row["batch"] == 1]
        for engine in dict.fromkeys(engine for row in rows for engine in row["images_per_s"]):
            points = [(100 * row["sparsity"], row["images_per_s"][engine]) for row in rows if engine in row["images_per_s"]]
            axis.plot(*zip(*points), marker="o", label={"masked": "ours, masked", "sparse": "ours, sparse"}.get(engine, engine))
        axis.set_title(f"{network}, batch 1")
        axis.set_xlabel("sparsity, %")
        axis.set_ylim(bottom=0)
        axis.grid(True, alpha=0.3)
    axes[0][0].set_ylabel("images/s")
    axes[0][-1].legend()
    figure.tight_layout()
    figure.savefig(os.path.join(bench.RESULTS, f"{name}.svg"), metadata={"Date": None, "Creator": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found = glob.glob(os.path.join(bench.ROOT, "target", "release", "deps", "networks-*"))
    found = [path for path in found if os.access(path, os.X_OK) and not path.endswith(".d")]
    parser.add_argument("--binary", default=max(found, key=os.path.getmtime, default=None))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--network", action="append", choices=[network for network, *_ in NETWORKS])
    parser.add_argument("--sparsity", action="append", type=float)
    parser.add_argument("--batch", action="append", type=int)
    parser.add_argument("--peer", action="append", default=[], metavar="ENGINE=PYTHON")
    parser.add_argument("--onnx", default=sys.executable, help="Python with onnx, for the peers' networks")
    parser.add_argument("--note", default="", help="a sentence for the results, such as what else ran")
    parser.add_argument("--name", default="sparse_predictions")
    parser.add_argument("--merge", action="store_true", help="keep the rows of earlier results that are not measured now")
    parser.add_argument("--draw", action="store_true", help="draw what was measured, with matplotlib")
    args = parser.parse_args()
    if args.draw:
        with open(os.path.join(bench.RESULTS, f"{args.name}.json")) as file:
            draw(args.name, json.load(file))
        return
    if args.binary is None:
        parser.error("build with cargo build --release --bench networks, or give --binary")
    machine = bench.machine()
    args.revision = machine["revision"]
    chosen = [row for row in NETWORKS if not args.network or row[0] in args.network]
    record = {
        "machine": machine,
        "rounds": args.rounds,
        "note": args.note,
        "peers": [peer.split("=")[0] for peer in args.peer],
        "rows": [],
    }
    if args.merge:
        with open(os.path.join(bench.RESULTS, f"{args.name}.json")) as file:
            record["rows"] = json.load(file)["rows"]
    with tempfile.TemporaryDirectory() as folder:
        for network, preset, distribution, sparsities in chosen:
            for sparsity in args.sparsity or sparsities:
                for batch in args.batch or BATCHES:
                    row = measure(args, network, preset, distribution, sparsity, batch, folder)
                    places = {tuple(r[key] for key in KEYS): i for i, r in enumerate(record["rows"])}
                    at = places.get(tuple(row[key] for key in KEYS), len(record["rows"]))
                    record["rows"][at:at + 1] = [row]
                # After each sparsity, as all take long.
                bench.save(args.name, record, table(record))


if __name__ == "__main__":
    main()
