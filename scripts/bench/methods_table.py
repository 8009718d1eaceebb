#!/usr/bin/env python3
"""Tables and plots of the runs that `methods.py` recorded: results/methods.md, .json and two SVG files.

Needs matplotlib (`requirements.txt`), and our binary for the training FLOPs of each row (`rigl-xla cost`).
"""
import argparse
import json
import os
import statistics
import subprocess

import bench
import methods

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first
from matplotlib.ticker import NullFormatter  # noqa: E402

COLOURS = {
    "dense": "#444444", "scratch": "#999999", "static": "#c9a227", "set": "#2a7fba", "snfs": "#7b4fa6",
    "snip": "#5a9e4b", "prune": "#b8552f", "rigl": "#d62c5a", "rigl-averaged": "#f0a0b8",
}  # fmt: skip


def training_flops(binary, row):
    """Floating-point operations of a whole run, by the plain convention."""
    data, method, sparsity, multiplier = row
    method, settings = methods.VARIANTS.get(method, (method, []))
    settings = [word for setting in settings for word in ("--set", setting)]
    sparsity = [] if method == "dense" else ["--sparsity", str(sparsity)]
    command = [binary, "cost", f"mnist-{method}", "--data", data, *sparsity, "--multiplier", str(multiplier), *settings, "--json"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output)["total"]["training_run_flops"]["plain"]["sparse"]


def rows(binary):
    """Per (data, method, sparsity, multiplier): accuracies in percent, their mean and deviation, training FLOPs."""
    found = {}
    for record in methods.recorded():
        key = tuple(record[field] for field in methods.FIELDS[:-1])
        found.setdefault(key, {})[record["seed"]] = record
    result = {}
    for key, by_seed in sorted(found.items()):
        values = [100 * record["eval"]["top1"] for record in by_seed.values()]
        explored = [record["explored"] for record in by_seed.values() if record.get("explored") is not None]
        result[key] = {
            "runs": len(values),
            "explored": round(statistics.mean(explored), 4) if explored else None,
            "mean": round(statistics.mean(values), 3),
            "sd": round(statistics.stdev(values), 3) if len(values) > 1 else 0.0,
            "training_flops": training_flops(binary, key),
        }
    return result


def cell(row):
    return f"{row['mean']:.2f} ± {row['sd']:.2f} ({row['runs']})" if row else "not run"


def method_table(found, data, sparsities, multiplier):
    lines = ["| method | " + " | ".join(f"{100 * s:g} %" for s in sparsities) + " | training FLOPs |", "|---|" + "---|" * (len(sparsities) + 1)]
    for method in ("dense", *methods.SPARSE):
        of = [found.get((data, method, 0.0 if method == "dense" else s, multiplier)) for s in sparsities]
        shown = [cell(of[0])] + [""] * (len(of) - 1) if method == "dense" else [cell(row) for row in of]
        flops = [f"{row['training_flops']:.2e}" for row in of if row]
        lines.append(f"| {method} | " + " | ".join(shown) + f" | {', '.join(dict.fromkeys(flops))} |")
    return lines


def difference(found, data, sparsity, multiplier, better, worse):
    """Points between two methods, and the standard error of their difference."""
    a, b = (found.get((data, method, sparsity, multiplier)) for method in (better, worse))
    if not a or not b:
        return "not run"
    error = (a["sd"] ** 2 / a["runs"] + b["sd"] ** 2 / b["runs"]) ** 0.5
    return f"{a['mean'] - b['mean']:+.2f} ± {error:.2f}"


def flops(row):
    return f"{row['training_flops']:.2e}" if row else ""


def evidence(found):
    """Why RigL is not ahead of SET: how many weights each explores, and the effect of a less noisy gradient. All at 40 epochs."""
    columns = [("mnist", 0.98), ("mnist", 0.99), ("fashion-mnist", 0.95), ("fashion-mnist", 0.98)]
    names = [f"{data}, {100 * sparsity:g} %" for data, sparsity in columns]
    lines = ["| method | " + " | ".join(names) + " | weights ever active, mnist, 98 % |", "|---|" + "---|" * (len(names) + 1)]
    for method, tracked in (("scratch", None), ("set", "set-tracked"), ("rigl", "rigl-tracked"), ("rigl-averaged", None)):
        of = [found.get((data, method, sparsity, methods.SHORT)) for data, sparsity in columns]
        tried = found.get(("mnist", tracked, 0.98, methods.SHORT))
        share = f"{100 * tried['explored']:.1f} %" if tried and tried["explored"] else ""
        lines.append(f"| {method} | " + " | ".join(cell(row) if row else "" for row in of) + f" | {share} |")
    return lines


def report(found, machine):
    short = methods.SHORT
    lines = [
        "# Accuracy of the methods on MNIST and Fashion-MNIST",
        "",
        "784-300-100-10 by the published MNIST recipe: layer 2 at 0.9 of the sparsity, layer 3 dense. Test accuracy after the",
        "last iteration, in percent: mean ± standard deviation (runs; one seed each). Every run stands in `methods.jsonl` and",
        "`mnist_accuracy.jsonl` with its command, revision and plugin. FLOPs are those of the whole run by the plain convention",
        "(two per multiply-add of the connections).",
        "",
        f"Made by `scripts/bench/methods.py` and `methods_table.py`; tabulated {machine['date']}.",
        "",
        "## MNIST, 200 epochs",
        "",
        *method_table(found, "mnist", [0.98], 1.0),
        "",
        "## RigL on MNIST by sparsity",
        "",
        "| sparsity | 40 epochs | training FLOPs | 200 epochs | training FLOPs |",
        "|---|---|---|---|---|",
    ]
    for sparsity in (0.8, 0.9, 0.95, 0.98, 0.99):
        short_row, full = (found.get(("mnist", "rigl", sparsity, multiplier)) for multiplier in (short, 1.0))
        lines.append(f"| {100 * sparsity:g} % | {cell(short_row)} | {flops(short_row)} | {cell(full)} | {flops(full)} |")
    lines += [
        "",
        "## RigL on MNIST at 98 % by length of training",
        "",
        "1x is 40 epochs here, so that 5x is the published 200.",
        "",
        "| length | epochs | accuracy | training FLOPs |",
        "|---|---|---|---|",
    ]
    for times in (1, 2, 5):
        row = found.get(("mnist", "rigl", 0.98, short * times))
        lines.append(f"| {times}x | {40 * times} | {cell(row)} | {flops(row)} |")
    lines += ["", "## Fashion-MNIST, 40 epochs", "", *method_table(found, "fashion-mnist", [0.95, 0.98], short), ""]
    lines += ["## The order of the methods", "", "Differences in points, with the standard error of the difference.", ""]
    lines += ["| | RigL - SET | SET - scratch | RigL - scratch |", "|---|---|---|---|"]
    for data, sparsity, multiplier in (
        ("mnist", 0.98, 1.0), ("mnist", 0.98, short), ("mnist", 0.99, short),
        ("fashion-mnist", 0.95, short), ("fashion-mnist", 0.98, short),
    ):  # fmt: skip
        order = (("rigl", "set"), ("set", "scratch"), ("rigl", "scratch"))
        pairs = [difference(found, data, sparsity, multiplier, *pair) for pair in order]
        epochs = round(200 * multiplier)
        lines.append(f"| {data}, {100 * sparsity:g} %, {epochs} epochs | " + " | ".join(pairs) + " |")
    lines += ["", "## What RigL and SET try", "", "40 epochs. `rigl-averaged` grows by the mean gradient of 100 batches instead of that of one.", ""]
    lines += evidence(found)
    lines += ["", *remarks()]
    return "\n".join([*lines, "", "![by sparsity](methods_sparsity.svg)", "", "![by training FLOPs](methods_flops.svg)", ""])


def remarks():
    """Conclusions from the figures, written by hand."""
    path = os.path.join(bench.RESULTS, "methods_remarks.md")
    with open(path) as file:
        return file.read().splitlines()


def plot(name, xlabel, panels, log):
    """One panel per data set; `panels` has title and points (x, row, method, multiplier). Lines join runs of one length."""
    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.2), squeeze=False)
    for axis, (title, points) in zip(axes[0], panels):
        for method, colour in COLOURS.items():
            label = method
            for length in sorted({times for _, _, of, times in points if of == method}):
                own = sorted((x, row["mean"], row["sd"]) for x, row, *of in points if of == [method, length])
                x, mean, deviation = zip(*own)
                axis.errorbar(x, mean, deviation, label=label, color=colour, marker="o", capsize=3, linewidth=1.2)
                label = None
        axis.set_title(title)
        axis.set_xlabel(xlabel)
        axis.grid(alpha=0.3)
        if log:
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
    axes[0][0].set_ylabel("test accuracy, %")
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    # Neither dates nor random identifiers, so that the same results give the same file.
    figure.savefig(os.path.join(bench.RESULTS, name), metadata={"Date": None, "Creator": None})
    plt.close(figure)


def plots(found):
    matplotlib.rcParams["svg.hashsalt"] = "rigl-xla"
    titles = {"mnist": ("MNIST, 200 epochs", 1.0), "fashion-mnist": ("Fashion-MNIST, 40 epochs", methods.SHORT)}
    by_sparsity, by_flops = [], []
    for data, (title, multiplier) in titles.items():
        own = [(key, row) for key, row in found.items() if key[0] == data]
        by_sparsity.append((title, [(100 * key[2], row, key[1], key[3]) for key, row in own if key[3] == multiplier]))
        by_flops.append((title.split(",")[0], [(row["training_flops"], row, key[1], key[3]) for key, row in own]))
    plot("methods_sparsity.svg", "sparsity, %", by_sparsity, log=False)
    plot("methods_flops.svg", "training FLOPs", by_flops, log=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=bench.BINARY)
    args = parser.parse_args()
    found, machine = rows(args.binary), bench.machine()
    shown = [{**dict(zip(methods.FIELDS, key)), **row} for key, row in found.items()]
    bench.save("methods", {"machine": machine, "rows": shown}, report(found, machine))
    plots(found)


if __name__ == "__main__":
    main()
