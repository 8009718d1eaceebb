#!/usr/bin/env python3
"""Test accuracy on the full MNIST recipe: our program compared with the twin of the original's algorithm.

Runs our binary for every method and seed, one JSON line each in results/mnist_accuracy.jsonl (a run that is already there is
not repeated), and tabulates them with results/mnist_twin.jsonl into results/mnist_accuracy.json and .md. The twin's lines
come from `mnist_twin.py --method M --seeds 0,1,2 --out results/mnist_twin.jsonl`.
"""
import argparse
import json
import math
import os
import statistics
import sys

import bench

METHODS = ("rigl", "set", "scratch", "dense")
OURS = os.path.join(bench.RESULTS, "mnist_accuracy.jsonl")
TWIN = os.path.join(bench.RESULTS, "mnist_twin.jsonl")
TOLERANCE_POINTS = 0.15
STEPS = 120000  # of the full recipe


def lines(path):
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [json.loads(line) for line in file if line.strip()]


def run_missing(args):
    """Our runs that the results file does not hold yet."""
    done = {(record["method"], record["seed"]) for record in lines(OURS) if record["steps"] == args.steps}
    for method in args.methods.split(","):
        for seed in map(int, args.seeds.split(",")):
            if (method, seed) in done:
                continue
            out = os.path.join(bench.WORK, "runs", f"accuracy-{method}-{seed}")
            command = bench.train_command(method, args.steps, seed, out, args.binary, args.ours)
            made_by = {field: bench.machine()[field] for field in ("revision", "plugin")}
            record = {**bench.run_json(command), "seed": seed, "command": bench.shown(command), **made_by}
            print(f"{method} seed {seed}: {record['eval']['top1']:.4f}", file=sys.stderr, flush=True)
            with open(OURS, "a") as file:
                file.write(json.dumps(record) + "\n")


def summary(values):
    """Mean, standard deviation and count of accuracies, in percent."""
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(100 * statistics.mean(values), 4), "sd": round(100 * deviation, 4), "runs": len(values)}


def compare(ours, twin, steps):
    """Per method: both summaries, the difference of means in points and its standard error."""
    rows = {}
    for method in METHODS:
        mine = [record["eval"]["top1"] for record in ours if record["method"] == method and record["steps"] == steps]
        theirs = [record["top1"] for record in twin if record["method"] == method and record["iterations"] == steps]
        row = {"ours": summary(mine), "twin": summary(theirs)}
        if mine and theirs:
            a, b = row["ours"], row["twin"]
            row["difference_points"] = round(a["mean"] - b["mean"], 4)
            row["standard_error"] = round(math.sqrt(a["sd"] ** 2 / a["runs"] + b["sd"] ** 2 / b["runs"]), 4)
        rows[method] = row
    return rows


def table(rows, machine, steps):
    def cell(part):
        return f"{part['mean']:.2f} ± {part['sd']:.2f} ({part['runs']})" if part else "not run"

    text = [
        "# Test accuracy, MNIST 784-300-100-10",
        "",
        f"{steps} iterations, accuracy after the last, in percent: mean ± standard deviation (runs). The twin is the original's",
        f"algorithm written independently (`mnist_twin.py`). Each run's own command, revision and plugin stand in `mnist_accuracy.jsonl`.",
        "",
        "| method | ours | twin | difference, points | its standard error |",
        "|---|---|---|---|---|",
    ]
    for method, row in rows.items():
        difference = (f"{row['difference_points']:+.3f}", f"{row['standard_error']:.3f}") if "standard_error" in row else ("", "")
        text.append(f"| {method} | {cell(row['ours'])} | {cell(row['twin'])} | {difference[0]} | {difference[1]} |")
    return "\n".join(text + ["", f"Asked: rigl at most {TOLERANCE_POINTS} points from the twin.", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--binary", default=bench.BINARY)
    parser.add_argument("--ours", nargs=argparse.REMAINDER, default=[], help="the rest: further flags of our program")
    args = parser.parse_args()
    if os.path.exists(args.binary):
        run_missing(args)
    else:
        print(f"{args.binary}: not built; only what is recorded is tabulated", file=sys.stderr)
    machine = bench.machine()
    rows = compare(lines(OURS), lines(TWIN), args.steps)
    bench.save("mnist_accuracy", {"machine": machine, "iterations": args.steps, "methods": rows}, table(rows, machine, args.steps))


if __name__ == "__main__":
    main()
