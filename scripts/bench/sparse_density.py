#!/usr/bin/env python3
"""Gain of sparse over masked execution by sparsity, layer by layer: the basis of `--execution auto`.

Runs `rigl-xla cost --measured` of networks with uniform sparsity. Writes results/sparse_density.json and .md with the median gain of
every kind of layer next to the rule's, and sparse_density.svg with the sum over all layers of each network. Build with `cargo build
--release`; the plot needs matplotlib (requirements.txt). `--draw` rewrites table and plot from the recorded figures.
"""
import argparse
import json
import os
import statistics
import sys

import bench

# Name: preset and batch of a training step.
NETWORKS = {
    "ResNet-50, batch 16": ("resnet50-rigl", 16),
    "MobileNet-v1, batch 16": ("mobilenet-v1-rigl", 16),
    "WRN-22-2, batch 128": ("cifar10-rigl", 128),
    "MNIST, batch 100": ("mnist-rigl", 100),
}
SPARSITIES = (0.0, 0.3, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99)
KINDS = ("1x1", "window", "dense")


def run(what, preset, batch, sparsity):
    return [
        bench.BINARY, what, preset, "--distribution", "uniform", "--sparsity", str(sparsity), "--batch-size", str(batch), "--json",
    ]  # fmt: skip


def command(preset, batch, sparsity):
    return [*run("cost", preset, batch, sparsity), "--measured"]


def kind(shape):
    if len(shape) == 2:
        return "dense"
    return "1x1" if shape[:2] == [1, 1] else "window"


def gains(layers, which):
    """Masked over sparse time of all layers together."""
    times = [layer[which] for layer in layers if layer[which]]
    return sum(time["masked"] for time in times) / sum(time["sparse"] for time in times)


def by_kind(record):
    """Kind and sparsity to the gains of training steps of distinct layers."""
    found = {}
    for row in record["rows"]:
        for layer in {(tuple(layer["shape"]), tuple(layer["output"])): layer for layer in row["layers"]}.values():
            # Layers that the distribution keeps dense.
            if layer["training"] and abs(layer["density"] - (1 - row["sparsity"])) < 0.02:
                time = layer["training"]
                found.setdefault((kind(layer["shape"]), row["sparsity"]), []).append(time["masked"] / time["sparse"])
    return found


def rules(sparsity):
    """Kind to the gain that `plan` expects of its layers at this sparsity."""
    found = {}
    for preset, batch in NETWORKS.values():
        for layer in bench.run_json(run("plan", preset, batch, sparsity))["layers"]:
            # Layers that the distribution keeps dense.
            if abs(layer["sparsity"] - sparsity) < 0.02 and "expected_gain" in layer:
                found.setdefault(kind(layer["shape"]), []).append(layer["expected_gain"])
    return {name: statistics.median(some) for name, some in found.items()}


def table(record):
    machine, found = record["machine"], by_kind(record)
    lines = [
        "# Gain of sparse execution by sparsity",
        "",
        f"{bench.processor(machine)}, f32, load {machine['load_average_before'][0]} before the run, {machine['date']}, revision "
        f"{machine['revision']}. Masked over sparse time of single layers (medians of turns).",
        "",
        *([record["note"], ""] if record["note"] else []),
        "Training steps (forward pass and both gradients) by kind of layer: median, least and largest gain of distinct layers, and "
        "the rule of `--execution auto`, which computes a layer sparsely from an expected gain of 1.2 on.",
        "",
        "| sparsity | " + " | ".join(f"{name} | rule" for name in KINDS) + " |",
        "|---" * (1 + 2 * len(KINDS)) + "|",
    ]
    for sparsity in SPARSITIES:
        cells, expected = [f"{sparsity:.2f}"], rules(sparsity)
        for name in KINDS:
            some = found.get((name, sparsity))
            cells.append(f"{statistics.median(some):.2f} ({min(some):.2f} to {max(some):.2f})" if some else "")
            cells.append(f"{expected[name]:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Sums over the layers of a network: training steps, and predictions of one example.",
        "",
        "| network | sparsity | training, masked ms | sparse ms | gain | prediction, masked ms | sparse ms | gain |",
        "|---" * 8 + "|",
    ]
    for row in record["rows"]:
        cells = [row["network"], f"{row['sparsity']:.2f}"]
        for which in ("training", "prediction"):
            times = [layer[which] for layer in row["layers"] if layer[which]]
            cells += [f"{1e3 * sum(time[way] for time in times):.2f}" for way in ("masked", "sparse")]
            cells.append(f"{gains(row['layers'], which):.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    shown = bench.shown(command("PRESET", "BATCH", "SPARSITY"))
    return "\n".join([*lines, "", "![gain by sparsity](sparse_density.svg)", "", f"Command: `{shown}`", ""])


def draw(record):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rigl-xla"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, which in zip(axes, ("training", "prediction")):
        for network in NETWORKS:
            rows = [row for row in record["rows"] if row["network"] == network]
            axis.plot(
                [100 * row["sparsity"] for row in rows], [gains(row["layers"], which) for row in rows], marker="o", label=network
            )
        axis.axhline(1, color="#888888", linewidth=0.8)
        axis.set_yscale("log")
        axis.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
        axis.set_xlabel("sparsity, %")
        axis.set_title("training step" if which == "training" else "prediction of one example")
        axis.grid(True, alpha=0.3)
    axes[0].set_ylabel("masked over sparse time, all masked layers")
    axes[0].legend()
    figure.tight_layout()
    path = os.path.join(bench.RESULTS, "sparse_density.svg")
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--note", default="", help="a sentence for the results, such as what else ran")
    parser.add_argument("--draw", action="store_true")
    args = parser.parse_args()
    if args.draw:
        with open(os.path.join(bench.RESULTS, "sparse_density.json")) as file:
            record = json.load(file)
        bench.save("sparse_density", record, table(record))
        return draw(record)
    record = {"machine": bench.machine(), "note": args.note, "rows": []}
    for network, (preset, batch) in NETWORKS.items():
        for sparsity in SPARSITIES:
            found = bench.run_json(command(preset, batch, sparsity))
            shapes = {layer["name"]: layer for layer in found["layers"]}
            layers = [{**{k: shapes[layer["name"]][k] for k in ("shape", "output")}, **layer} for layer in found["measured"]]
            record["rows"].append({"network": network, "sparsity": sparsity, "layers": layers})
            rates = ", ".join(f"{which} {gains(layers, which):.2f}" for which in ("training", "prediction"))
            print(f"{network} {sparsity}: {rates}", file=sys.stderr, flush=True)
    bench.save("sparse_density", record, table(record))
    draw(record)


if __name__ == "__main__":
    main()
