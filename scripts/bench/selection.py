#!/usr/bin/env python3
"""Exact selection over the 54 kernels of ResNet-50 by each form of `--select`, alternating in one process.

Writes results/selection.json and .md from `cargo bench --bench selection`.
"""
import argparse

import bench


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    machine = bench.machine()
    command = ["cargo", "bench", "--bench", "selection", "--", str(args.rounds)]
    record = bench.run_json(command)
    lines = [
        "# Exact selection, ResNet-50",
        "",
        f"{record['scores']} scores in {record['layers']} layers, a fifth of each selected; {machine['cpu']} (family/model "
        f"{machine['cpu_family_model']}), {machine['cores']} cores, load {machine['load_average_before'][0]} before the "
        f"run, {machine['date']}, revision {machine['revision']}; median of {args.rounds} alternating rounds.",
        "",
        "| form | seconds | times the bits |",
        "|---|---|---|",
    ]
    for form, seconds in record["median_s"].items():
        lines.append(f"| {form} | {seconds:.3f} | {record['times_the_bits'][form]:.1f} |")
    lines += [
        "",
        "`topk` is a full ranking and a scatter, as in the original; the ranking is emitted as a stable sort, since not every",
        "plugin's own top-k keeps the order of ties when it ranks everything.",
    ]
    lines += ["", f"Command: `{bench.shown(command)}`. Asked: the full top-k at least 15 times the bits.", ""]
    bench.save("selection", {"machine": machine, **record}, "\n".join(lines))


if __name__ == "__main__":
    main()
