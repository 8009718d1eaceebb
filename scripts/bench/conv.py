#!/usr/bin/env python3
"""Tables of the results of `cargo bench --bench conv`: convolutions in each form, and whole networks as built and lowered.

Reads the files of JSON lines that the bench printed; writes results/NAME.json and .md.
"""
import argparse
import json

import bench

CONVOLUTION = "Convolution"


def read(paths):
    records = []
    for path in paths:
        with open(path) as file:
            records += [json.loads(line) for line in file]
    return records


def form(record, name):
    ms = record["ms"].get(name)
    return "" if ms is None else f"{ms:.2f} ({record['gflop'] / ms * 1e3:.0f})"


def sides(values):
    return "×".join(str(value) for value in values)


def layer_tables(records):
    lines = []
    for title in ["input", "prepared", "kernel gradient", "depthwise", "depthwise kernel gradient"]:
        rows = [record for record in records if record["pass"] == title]
        names = [name for name in FORMS if any(name in row["ms"] for row in rows)]
        if not rows:
            continue
        lines += [f"## {TITLES[title]}", "", f"| network | channels | image | window | stride | {' | '.join(names)} |"]
        lines += ["|---" * (5 + len(names)) + "|"]
        for row in rows:
            head = [row["network"], f"{row['batch']} · {row['channels']} → {row['filters']}", sides(row["image"])]
            head += [sides(row["window"]), sides(row["stride"])]
            lines.append("| " + " | ".join(head + [form(row, name) for name in names]) + " |")
        lines.append("")
    return lines


FORMS = [
    form + phases
    for form in [CONVOLUTION, "Ordered", "Taps", "Patches", "Positions", "Columns", "Direct"]
    for phases in ["", "/phases"]
]  # fmt: skip
TITLES = {
    "input": "Forward, and gradients of inputs",
    "prepared": "In inference, kernels made ready once",
    "kernel gradient": "Gradients of kernels",
    "depthwise": "Depthwise: forward, and gradients of inputs",
    "depthwise kernel gradient": "Depthwise: gradients of kernels",
}


def network_table(records):
    if not records:
        return []
    lines = ["## Whole networks", "", "| network | batch | graph | as built, s | lowered, s | with the library, s | times |"]
    lines.append("|---|---|---|---|---|---|---|")
    for r in records:
        lines.append(
            f"| {r['network']} | {r['batch']} | {r['graph']} | {r['as_built_s']:.3f} | {r['lowered_s']:.3f} "
            f"| {r['with_library_s']:.3f} | {r['speedup']:.2f} |"
        )
    return lines + [""]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", help="what the bench printed")
    parser.add_argument("--name", default="conv_lowering", help="of the results' files")
    args = parser.parse_args()
    machine, records = bench.machine(), read(args.records)
    layers = [record for record in records if "ms" in record]
    networks = [record for record in records if "graph" in record]
    lines = [
        "# Convolutions on the CPU",
        "",
        f"{bench.processor(machine)}, {machine['date']}, "
        f"revision {machine['revision']}.",
        "",
        "**The machine was shared** with others while this was measured. Each figure is the least of many short repetitions "
        "that alternate "
        "between the forms, of kernels made ready once the median, so ratios of neighbours mean something and single "
        "figures do not; where a form has a figure far "
        "out of line, it was dropped after a few disturbed repetitions. `Direct` is oneDNN's. The rules of "
        "`lowering/src/choose.rs` for a host with it were made from such runs.",
        "",
        *network_table(networks),
        "Below: milliseconds, and GFLOP/s in parentheses, of each form that a convolution has. Channels are "
        "`batch · channels → filters` as the operator has them (a gradient of kernels takes channels for examples), strides "
        "count dilations too.",
        "",
        *layer_tables(layers),
        "Commands: `cargo bench --bench conv -- layers NETWORK BATCH`, `… -- prepared NETWORK BATCH` and "
        "`… -- networks NETWORK BATCH`, their output given to "
        "`scripts/bench/conv.py`.",
        "",
    ]
    bench.save(args.name, {"machine": machine, "layers": layers, "networks": networks}, "\n".join(lines))


if __name__ == "__main__":
    main()
