#!/usr/bin/env python3
"""Predictions of sparse networks from connections alone, beside our own masked ones on the CPU.

Both take turns of about a second in one process (`cargo bench --bench networks -- executions`), with the same random weights and
masks; medians count. Sparse ones start from pixels on the host, masked ones from pixels on the device. Build with `cargo build
--release --bin rigl-xla --bench networks`. Writes results/sparse_predictions.json and .md.
"""
import argparse
import glob
import os
import statistics
import sys

import bench

# Network, preset, distribution, sparsities.
NETWORKS = [
    ("mnist-fc", "mnist-rigl", "erk", (0.98,)),
    ("wrn-22-2", "cifar10-rigl", "uniform", (0.9, 0.95)),
    ("mobilenet-v1", "mobilenet-v1-rigl", "uniform", (0.9,)),
    ("resnet50", "resnet50-rigl-erk-0.8", "uniform", (0.8, 0.9, 0.95)),
]
BATCHES = (1, 8, 64)


def measure(args, network, preset, distribution, sparsity, batch):
    command = [
        args.binary, "executions", preset, str(batch), str(args.rounds), f"sparsity.target={sparsity}",
        f"sparsity.distribution={distribution}",
    ]  # fmt: skip
    record = bench.run_json(command)
    masked, sparse = (statistics.median(record[way]) for way in ("masked", "sparse"))
    ratio = statistics.median(a / b for a, b in zip(record["masked"], record["sparse"]))
    print(f"{network} {sparsity} {batch}: {batch / masked:.1f} {batch / sparse:.1f} {ratio:.2f}", file=sys.stderr, flush=True)
    return {
        "network": network,
        "sparsity": sparsity,
        "images_per_s": [batch / masked, batch / sparse],
        "ratio": ratio,
        "command": bench.shown(command),
        **record,
    }


def table(record):
    machine = record["machine"]
    lines = [
        "# Predictions from connections alone",
        "",
        f"{bench.processor(machine)}, f32, load {machine['load_average_before'][0]} before the run, {machine['date']}, revision "
        f"{machine['revision']}; medians of {record['rounds']} turns of each, the ratio that of neighbouring turns.",
        "",
        *([record["note"], ""] if record["note"] else []),
        "Density: share of the dense network's multiply-adds. Ready: seconds until a network can predict, masked (compiled anew or "
        "from the cache) and sparse. Difference: of logits, over the largest one.",
        "",
        "| network | sparsity | density | batch | masked, images/s | sparse, images/s | sparse over masked | ready | difference |",
        "|---" * 9 + "|",
    ]
    for row in record["rows"]:
        masked, sparse = row["images_per_s"]
        ready = " / ".join(f"{seconds:.2f}" for seconds in row["ready_s"])
        lines.append(
            f"| {row['network']} | {row['sparsity']} | {row['density']:.3f} | {row['batch']} | {masked:.1f} | {sparse:.1f} | "
            f"{row['ratio']:.2f} | {ready} | {row['difference']:.0e} |"
        )
    lines += ["", "Commands:", "", *(f"    {row['command']}" for row in record["rows"]), ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found = glob.glob(os.path.join(bench.ROOT, "target", "release", "deps", "networks-*"))
    found = [path for path in found if os.access(path, os.X_OK) and not path.endswith(".d")]
    parser.add_argument("--binary", default=max(found, key=os.path.getmtime, default=None))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--network", choices=[network for network, *_ in NETWORKS])
    parser.add_argument("--note", default="", help="a sentence for the results, such as what else ran")
    parser.add_argument("--name", default="sparse_predictions")
    args = parser.parse_args()
    if args.binary is None:
        parser.error("build with cargo build --release --bench networks, or give --binary")
    machine = bench.machine()
    chosen = [row for row in NETWORKS if args.network in (None, row[0])]
    record = {"machine": machine, "rounds": args.rounds, "note": args.note, "rows": []}
    for network, preset, distribution, sparsities in chosen:
        for sparsity in sparsities:
            record["rows"] += [measure(args, network, preset, distribution, sparsity, batch) for batch in BATCHES]
        # After each network, as all take long.
        bench.save(args.name, record, table(record))


if __name__ == "__main__":
    main()
