#!/usr/bin/env python3
"""Sparse layers and whole sparse predictions of the crate `cpu`, in turns with PyTorch's dense layers and with SparseProp.

Writes results/sparse_layers.json and .md from `cargo bench -p rigl-cpu`. With `--threads 1` all times are of one thread on a processor,
which other programs on the machine do not lengthen (they still share its caches and memory); otherwise they are by the clock, and
mean something on an idle machine only.
"""
import argparse
import json
import os
import re
import statistics
import subprocess

import bench


def lines(command, **options):
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=bench.ROOT, **options).stdout
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def parts(layer):
    """Kernel size, channels and side of a layer's name."""
    size, inputs, outputs, side = re.fullmatch(r"(\d+)x\d+ (\d+)(?: to (\d+))?, (\d+)x\d+", layer).groups()
    return {"size": int(size), "inputs": int(inputs), "outputs": int(outputs or inputs), "side": int(side)}


def turn(args):
    common = ["--threads", str(args.threads), "--seconds", str(args.seconds)]
    command = ["cargo", "bench", "-q", "-p", "cpu", "--bench", "layers", "--", *common]
    ours = lines([*command, "--batch", args.batch, "--sparsity", args.sparsity])
    wanted = []
    for record in ours:
        if record.get("pass") == "forward":
            layer = {"layer": record["layer"], "batch": record["batch"], **parts(record["layer"])}
            dense = {**layer, "sparsity": None}
            wanted += [] if dense in wanted else [dense]
            # SparseProp is for training, and slow.
            wanted += [{**layer, "sparsity": record["sparsity"]}] if record["batch"] == 16 else []
    peer = [args.python, os.path.join(bench.HERE, "peer_sparse_layers.py"), *common]
    peers = lines(peer, input=json.dumps(wanted)) if args.python else []
    networks = lines(["cargo", "bench", "-q", "-p", "cpu", "--bench", "networks", "--", *common, "--batch", args.batch])
    return ours, peers, networks


def layer_table(ours, peers, peak):
    text = [
        "| layer | batch | sparsity | pass | µs | GFLOP/s | share of peak | dense GFLOP/s | PyTorch dense ÷ ours | SparseProp ÷ ours |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    dense, sparse = {}, {}
    for record in peers:
        place = (record["layer"], record["batch"], record["sparsity"])
        for name in ("forward", "backward"):
            target = dense if record["sparsity"] is None else sparse
            target.setdefault((*place, name, record["peer"]), []).append(record[f"{name}_us"])
    times = {}
    for record in ours:
        place = (record["layer"], record["batch"], record["sparsity"], record["pass"])
        times.setdefault(place, []).append(record)
    medians = {place: statistics.median(r["us"] for r in records) for place, records in times.items()}

    def of_peer(found, layer, batch, sparsity, name):
        matches = [statistics.median(v) for k, v in found.items() if k[:4] == (layer, batch, sparsity, name)]
        return min(matches) if matches else None

    summary = []
    for (layer, batch, sparsity, name), us in medians.items():
        first = times[layer, batch, sparsity, name][0]
        flops = first["gflops"] * first["us"]
        row = {"layer": layer, "batch": batch, "sparsity": sparsity, "pass": name, "us": us}
        row["gflops"] = round(flops / us, 1)
        row["peak"] = round(flops / us / peak, 3)
        row["dense_gflops"] = round(first["dense_gflops"] * first["us"] / us)
        ratio = {}
        if name == "forward":
            ratio = {k: of_peer(f, layer, batch, s, "forward") for k, f, s in (("dense", dense, None), ("sparse", sparse, sparsity))}
            took = us
        elif name == "kernel gradient":
            # Peers compute both gradients at once.
            ratio = {k: of_peer(f, layer, batch, s, "backward") for k, f, s in (("dense", dense, None), ("sparse", sparse, sparsity))}
            took = us + medians[layer, batch, sparsity, "input gradient"]
        for peer, value in ratio.items():
            row[peer] = round(value / took, 2) if value else None
        summary.append(row)
        shown = [f"{row[k]:.2f}" if row.get(k) else "" for k in ("dense", "sparse")]
        text.append(
            f"| {layer} | {batch} | {sparsity:.0%} | {name} | {us:.0f} | {row['gflops']} | {row['peak']:.0%} | "
            f"{row['dense_gflops']} | {shown[0]} | {shown[1]} |"
        )
    return summary, text


def network_table(networks):
    text = ["| network | sparsity | batch | ms | images/s |", "|---|---|---|---|---|"]
    groups, summary = {}, []
    for record in networks:
        groups.setdefault((record["network"], record["sparsity"], record["batch"]), []).append(record["ms"])
    for (network, sparsity, batch), values in groups.items():
        ms = statistics.median(values)
        summary.append({"network": network, "sparsity": sparsity, "batch": batch, "ms": ms})
        text.append(f"| {network} | {sparsity:.0%} | {batch} | {ms:.2f} | {batch / ms * 1e3:.1f} |")
    return summary, text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=0.1, help="per measurement")
    parser.add_argument("--batch", default="1,16,64")
    parser.add_argument("--sparsity", default="0.8,0.9,0.95")
    parser.add_argument("--python", default=os.path.join(bench.WORK, "torch", "bin", "python"), help="with PyTorch; '': no peers")
    args = parser.parse_args()
    subprocess.run(["cargo", "bench", "-q", "-p", "cpu", "--no-run"], check=True, cwd=bench.ROOT)
    machine = bench.machine()
    turns = [turn(args) for _ in range(args.turns)]
    machine["load_average_after"] = [round(load, 2) for load in os.getloadavg()]
    ours = [record for ours, _, _ in turns for record in ours if "layer" in record]
    peak = statistics.median(record["peak_gflops"] for ours, _, _ in turns for record in ours if "peak_gflops" in record)
    isa = turns[0][0][0]["isa"]
    layers, layer_lines = layer_table(ours, [record for _, peers, _ in turns for record in peers], peak)
    networks, network_lines = network_table([record for _, _, found in turns for record in found])
    clock = "processor time of one thread" if args.threads == 1 else f"wall time, {args.threads} threads"
    text = [
        "# Sparse layers and predictions",
        "",
        f"{bench.processor(machine)}, {isa}, {clock}; load {machine['load_average_before'][0]} before and "
        f"{machine['load_average_after'][0]} after; {machine['date']}, revision {machine['revision']}. Medians of {args.turns} turns; "
        f"each turn keeps the least of repetitions within {args.seconds} s. Multiply-add peak in registers: {peak:.0f} GFLOP/s.",
        "",
        "GFLOP/s count connections alone; dense GFLOP/s count the dense layer in the same time. Peers compute both gradients at once: "
        "their ratio stands at the kernel's gradient and is to the sum of our two.",
        "",
        "## Predictions",
        "",
        "Random weights, normalisation folded, all steps from NHWC picture to logits.",
        "",
        *network_lines,
        "",
        "## Layers",
        "",
        *layer_lines,
        "",
        f"Command: `scripts/bench/sparse_layers.py --threads {args.threads} --turns {args.turns} --batch {args.batch} "
        f"--sparsity {args.sparsity}`.",
        "",
    ]
    bench.save("sparse_layers", {"machine": machine, "isa": isa, "threads": args.threads, "peak_gflops": peak,
                                 "layers": layers, "networks": networks}, "\n".join(text))  # fmt: skip


if __name__ == "__main__":
    main()
