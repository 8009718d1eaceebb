#!/usr/bin/env python3
"""Cost of an ordinary step with RigL, compared with static masks.

Launches of both alternate within one process (`cargo bench --bench networks -- pair`), so that a slow spell of the machine
meets both; a round is one launch of three steps of each, and counts by its ratio. Build with `cargo build --release --bin
rigl-xla --bench networks`. Writes results/rigl_static.json and .md.
"""
import argparse
import math
import statistics

import bench
import networks


def interval(ratios):
    """A 95 % confidence interval of the median, from the ranks that the binomial distribution gives."""
    ordered, count = sorted(ratios), len(ratios)
    low = max(0, math.floor((count - 1.96 * math.sqrt(count)) / 2))
    return ordered[low], ordered[count - 1 - low]


def table(record):
    machine = record["machine"]
    lines = [
        "# An ordinary step with RigL and with static masks",
        "",
        f"{bench.processor(machine)}, float32, load "
        f"{machine['load_average_before'][0]} before the run, {machine['date']}, revision {machine['revision']}.",
        *record["notes"],
        "",
        "| network | batch | rounds | RigL, s | static, s | median of the ratios | 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for network, row in record["rows"].items():
        turns = [row["method"], row["static"]]
        ratios = [a / b for a, b in zip(*turns)]
        cells = [f"{statistics.median(seconds):.3f}" for seconds in turns]
        low, high = interval(ratios)
        lines.append(
            f"| {network} | {row['batch']} | {len(ratios)} | {' | '.join(cells)} | {statistics.median(ratios):.3f} | "
            f"{low:.3f} to {high:.3f} |"
        )
    lines += ["", "Commands:", "", *(f"    {row['command']}" for row in record["rows"].values())]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--binary", default=networks.built(), help="the networks bench")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the results, such as on the load")
    args = parser.parse_args()
    machine, rows = bench.machine(), {}
    for network in ("resnet50", "mobilenet-v1", "wrn-22-2"):
        rigl, _, batch = networks.NETWORKS[network]
        command = [args.binary, "pair", rigl, str(batch), str(args.rounds), *networks.VALUES.get(network, [])]
        rows[network] = {**bench.run_json(command), "command": bench.shown(command)}
    record = {"machine": machine, "notes": args.note, "rows": rows}
    bench.save("rigl_static", record, table(record))


if __name__ == "__main__":
    main()
