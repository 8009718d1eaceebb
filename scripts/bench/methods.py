#!/usr/bin/env python3
"""Every method on MNIST and Fashion-MNIST: test accuracy, three seeds each, against sparsity and against training FLOPs.

Runs our binary for each row and seed of the plan below, one JSON line each in results/methods.jsonl (a run that is already
there is not repeated). `methods_table.py` makes the tables and plots from those lines.
"""
import argparse
import itertools
import json
import os
import sys

import accuracy
import bench

OUT = os.path.join(bench.RESULTS, "methods.jsonl")
FIELDS = ("data", "method", "sparsity", "multiplier", "seed")
SPARSE = ("scratch", "static", "set", "snfs", "snip", "prune", "rigl")
# A fifth of the recipe: 40 epochs and shorter schedules. For Fashion-MNIST, and the base of 1x, 2x and 5x training.
SHORT = 0.2
SAME = ["mask_update.frequency_steps=100", "mask_update.drop_fraction=0.3", "mask_update.end_step=50000"]
# Rows that are a method with settings over it: why RigL is not ahead of SET.
VARIANTS = {
    "rigl-averaged": ("rigl", ["method.gradient_batches=100"]),
    "rigl-tracked": ("rigl-itop", SAME),
    "set-tracked": ("set-itop", SAME),
}


def plan(seeds):
    """Runs in order of importance: (data, method, sparsity, multiplier, seed)."""
    rows = [
        ("mnist", "dense", 0.0, 1.0),
        *itertools.product(["mnist"], SPARSE, [0.98], [1.0]),
        ("fashion-mnist", "dense", 0.0, SHORT),
        *itertools.product(["fashion-mnist"], SPARSE, [0.95, 0.98], [SHORT]),
        *itertools.product(["mnist"], ["rigl"], [0.98], [SHORT, 2 * SHORT]),
        *itertools.product(["mnist"], ["rigl"], [0.8, 0.9, 0.95, 0.99], [SHORT]),
        *itertools.product(["mnist"], ["scratch", "set"], [0.98, 0.99], [SHORT]),
        *itertools.product(["mnist"], VARIANTS, [0.98], [SHORT]),
        *itertools.product(["fashion-mnist"], ["rigl-averaged"], [0.95, 0.98], [SHORT]),
        *itertools.product(["mnist"], ["rigl"], [0.8, 0.9, 0.95, 0.99], [1.0]),
    ]
    return [(*row, seed) for row in rows for seed in seeds]


def recorded():
    """Lines of earlier runs; those of `accuracy.py` are runs of the same recipe."""
    full = [line for line in accuracy.lines(accuracy.OURS) if line["steps"] == accuracy.STEPS]
    same = [{"data": "mnist", "multiplier": 1.0, **line} for line in full]
    return same + accuracy.lines(OUT)


def command(binary, data, method, sparsity, multiplier, seed):
    name = f"{data}-{method}-{sparsity}-{multiplier}x-{seed}"
    out = os.path.join(bench.WORK, "runs", name)
    method, settings = VARIANTS.get(method, (method, []))
    settings = [word for setting in ["train.checkpoint_interval=1000000", *settings] for word in ("--set", setting)]
    sparsity = [] if method == "dense" else ["--sparsity", str(sparsity)]
    return [
        binary, "train", f"mnist-{method}", "--data", data, *sparsity, "--multiplier", str(multiplier),
        "--seed", str(seed), "--out", out, "--overwrite", "--json", *settings,
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--binary", default=bench.BINARY)
    parser.add_argument("--methods", default=",".join(["dense", *SPARSE, *VARIANTS]))
    args = parser.parse_args()
    done = {tuple(record[field] for field in FIELDS) for record in recorded()}
    made_by = {field: bench.machine()[field] for field in ("revision", "plugin")}
    for row in plan([int(seed) for seed in args.seeds.split(",")]):
        if row in done or row[1] not in args.methods.split(","):
            continue
        train = command(args.binary, *row)
        record = {**bench.run_json(train), **dict(zip(FIELDS, row)), "command": bench.shown(train), **made_by}
        print(*row, f"{record['eval']['top1']:.4f}", file=sys.stderr, flush=True)
        with open(OUT, "a") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
