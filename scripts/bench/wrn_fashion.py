#!/usr/bin/env python3
"""WideResNet-22-2 on clothes at 32x32x3, RigL at 90 % and dense: two epochs over the first 10000 pictures, with the curve.

Runs with JAX's environment of `setup.sh` (for matplotlib), after `cargo build --release`. Writes results/wrn_fashion.jsonl,
one line of a run's metrics each with the method's name, .md and .svg; `--draw` redraws from the recorded lines.
"""
import argparse
import json
import os
import struct

import bench

TRAIN, TEST, STEPS = 10000, 2000, 156
RECIPE = [
    "--steps", str(STEPS), "--seed", "0", "--steps-per-launch", "13",
    "--set", "train.unit=iterations", "--set", "learning_rate.boundaries=[80,120,140]",
    "--set", "train.eval_interval=39", "--set", "train.checkpoint_interval=1000",
]  # fmt: skip
UPDATES = ["--set", "mask_update.frequency_steps=20", "--set", "mask_update.end_step=120"]
LINES = os.path.join(bench.RESULTS, "wrn_fashion.jsonl")


def part(source, folder):
    """The first examples of both sets, as IDX files."""
    os.makedirs(folder, exist_ok=True)
    for split, count in (("train", TRAIN), ("t10k", TEST)):
        for name, head, size in (("images-idx3-ubyte", 16, 784), ("labels-idx1-ubyte", 8, 1)):
            with open(os.path.join(source, f"{split}-{name}"), "rb") as file:
                data = file.read(head + count * size)
            with open(os.path.join(folder, f"{split}-{name}"), "wb") as file:
                file.write(data[:4] + struct.pack(">I", count) + data[8:])


def run(method, folder):
    """The metrics of one run."""
    out = os.path.join(bench.WORK, "runs", f"wrn-{method}")
    updates = UPDATES if method == "rigl" else []
    where = ["--data", "fashion-mnist", "--set", f"data.dir={folder}", "--out", out, "--overwrite", "--json"]
    bench.run_json([bench.BINARY, "train", f"cifar10-{method}", *where, *RECIPE, *updates])
    with open(os.path.join(out, "metrics.jsonl")) as file:
        return [{"method": method, **json.loads(line)} for line in file]


def draw(lines):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (losses, scores) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for method in ("dense", "rigl"):
        of = [line for line in lines if line["method"] == method]
        trained = [line for line in of if "cross_entropy" in line]
        losses.plot([l["iteration"] for l in trained], [l["cross_entropy"] for l in trained], label=method)
        tested = [line for line in of if "eval" in line]
        scores.plot([l["iteration"] for l in tested], [l["eval"]["top1"] for l in tested], "o-", label=method)
    losses.set(xlabel="iteration", ylabel="training cross entropy")
    scores.set(xlabel="iteration", ylabel="top-1 on the test part")
    losses.legend()
    figure.savefig(os.path.join(bench.RESULTS, "wrn_fashion.svg"), metadata={"Date": None, "Creator": None})


def table(lines, machine, note):
    rows = []
    for method in ("dense", "rigl"):
        tested = [line for line in lines if line["method"] == method and "eval" in line]
        rows.append(f"| {method} | " + " | ".join(f"{line['eval']['top1']:.4f}" for line in tested) + " |")
    steps = [str(l["iteration"]) for l in lines if l["method"] == "rigl" and "eval" in l]
    return "\n".join(
        [
            "# WideResNet-22-2 on Fashion-MNIST at 32x32x3",
            "",
            f"{bench.processor(machine)}, {machine['date']}, revision "
            f"{machine['revision']}. The first {TRAIN} training pictures twice, {STEPS} iterations of 128; RigL at 90 %, "
            f"Erdős–Rényi-kernel, with a mask update every 20 steps to step 120, else the CIFAR-10 recipe with its drops at 80, "
            f"120 and 140. Top-1 on the first {TEST} test pictures, by iteration, seed 0. A sign of learning, no accuracy to "
            "compare with: the recipe's 250 epochs would take days on this machine.",
            *note,
            "",
            f"| method | {' | '.join(steps)} |",
            "|---" * (len(steps) + 1) + "|",
            *rows,
            "",
            "![curve](wrn_fashion.svg)",
            "",
            "Command: `target/bench/venv/bin/python scripts/bench/wrn_fashion.py --source FOLDER`, with Fashion-MNIST's IDX files.",
            "",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="folder with Fashion-MNIST's IDX files")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the results")
    parser.add_argument("--draw", action="store_true", help="do not train")
    args = parser.parse_args()
    if not args.draw:
        folder = os.path.join(bench.WORK, "fashion-part")
        part(args.source, folder)
        lines = [line for method in ("rigl", "dense") for line in run(method, folder)]
        with open(LINES, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    with open(LINES) as file:
        lines = [json.loads(line) for line in file]
    draw(lines)
    with open(os.path.join(bench.RESULTS, "wrn_fashion.md"), "w") as file:
        file.write(table(lines, bench.machine(), args.note))


if __name__ == "__main__":
    main()
