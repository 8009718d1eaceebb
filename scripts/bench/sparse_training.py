#!/usr/bin/env python3
"""Training rates of masked execution and of `--execution auto`, in turns within one run.

Each turn trains every row with --execution masked and then with auto on random examples (MNIST on its own), and takes the
rate of the launches after the first from --profile. Build with `cargo build --release`. Writes results/sparse_training.json and
.md.
"""
import argparse
import statistics
import tempfile

import bench

RANDOM = ["--data", "synthetic", "--set", "train.eval_batch_size=16"]
# Name: what to train, iterations of a launch, and launches.
ROWS = {
    "MNIST preset, 98 %, batch 100": (["mnist-rigl"], 600, 5),
    "WRN-22-2, ERK 90 %, batch 128": (["cifar10-rigl", *RANDOM, "--set", "data.examples=512"], 4, 3),
    "WRN-22-2, ERK 95 %, batch 128": (
        ["cifar10-rigl", *RANDOM, "--set", "data.examples=512", "--sparsity", "0.95"], 4, 3),
    "ResNet-50, ERK 80 %, batch 16": (
        ["resnet50-rigl-erk-0.8", *RANDOM, "--set", "data.examples=64", "--batch-size", "16"], 2, 3),
    "MobileNet-v1, uniform 90 %, batch 16": (
        ["mobilenet-v1-rigl", *RANDOM, "--set", "data.examples=64", "--batch-size", "16", "--distribution", "uniform",
         "--sparsity", "0.9"], 2, 3),
    "ResNet-50, uniform 90 %, batch 16": (
        ["resnet50-rigl", *RANDOM, "--set", "data.examples=64", "--batch-size", "16", "--distribution", "uniform",
         "--sparsity", "0.9"], 2, 3),
    "ResNet-50, uniform 90 %, batch 32": (
        ["resnet50-rigl", *RANDOM, "--set", "data.examples=64", "--batch-size", "32", "--distribution", "uniform",
         "--sparsity", "0.9"], 2, 3),
    "ResNet-50, uniform 95 %, batch 16": (
        ["resnet50-rigl", *RANDOM, "--set", "data.examples=64", "--batch-size", "16", "--distribution", "uniform",
         "--sparsity", "0.95"], 2, 3),
}  # fmt: skip


def command(row, execution, out):
    what, length, launches = ROWS[row]
    steps = length * (launches + 1)
    return [
        bench.BINARY, "train", *what, "--execution", execution, "--steps", str(steps), "--steps-per-launch", str(length),
        "--set", f"train.eval_interval={steps}", "--set", f"train.checkpoint_interval={steps}",
        "--profile", str(launches), "--out", out, "--overwrite", "--json",
    ]  # fmt: skip


def rate(row, execution):
    """Iterations per second of the launches after the first."""
    with tempfile.TemporaryDirectory() as out:
        record = bench.run_json(command(row, execution, out))
    profile = record["profile"]
    launch = next(phase for phase in profile["phases"] if phase["phase"] == "launch")
    return profile["iterations"] / launch["total_s"], record["peak_rss_mb"]


def table(record):
    machine = record["machine"]
    lines = [
        "# Training steps, masked and from connections alone",
        "",
        f"{bench.processor(machine)}, float32, load {machine['load_average_before'][0]} before the run, {machine['date']}, "
        f"revision {machine['revision']}. Medians of {record['turns']} turns; the ratio is the median of the turns' ratios.",
        *record["notes"],
        "",
        "| network | masked, iterations/s | auto, iterations/s | auto over masked | peak MB, masked | peak MB, auto |",
        "|---|---|---|---|---|---|",
    ]
    for row, turns in record["rows"].items():
        masked, auto = ([turn[execution][0] for turn in turns] for execution in ("masked", "auto"))
        memory = [max(turn[execution][1] for turn in turns) for execution in ("masked", "auto")]
        ratio = statistics.median(b / a for a, b in zip(masked, auto))
        rates = [f"{statistics.median(rates):.3g}" for rates in (masked, auto)]
        lines.append(f"| {row} | {' | '.join(rates)} | {ratio:.2f} | {memory[0]:.0f} | {memory[1]:.0f} |")
    lines += ["", "Commands:", "", *(f"    {bench.shown(command(row, 'auto', 'OUT'))}" for row in record["rows"])]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--row", action="append", help="part of the names of the rows to run; default all")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the results, such as on the load")
    args = parser.parse_args()
    names = [name for name in ROWS if not args.row or any(part in name for part in args.row)]
    machine, rows = bench.machine(), {}
    for name in names:
        turns = range(args.turns)
        rows[name] = [{execution: rate(name, execution) for execution in ("masked", "auto")} for _ in turns]
        # After each row, as all take long.
        record = {"machine": machine, "notes": args.note, "turns": args.turns, "rows": rows}
        bench.save("sparse_training", record, table(record))


if __name__ == "__main__":
    main()
