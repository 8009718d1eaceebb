#!/usr/bin/env python3
"""How many of the connections that RigL grows differ when activations are in bf16: on the CPU, from the same weights, masks and batch.

    cargo build --release && target/bench/venv/bin/python scripts/bench/growth_bf16.py --source FOLDER

Trains in f32, then makes one mask update from the checkpoint in f32 and in bf16, and, to compare with, in f32 on other batches. Needs
MNIST (setup.sh) and Fashion-MNIST's IDX files (--source). Writes results/growth_bf16.json and .md.
"""
import argparse
import glob
import json
import os
import struct

import numpy as np

import bench
import wrn_fashion

CLOTHES = os.path.join(bench.WORK, "clothes")
# Preset, data set, folder, iterations before the update, settings.
NETWORKS = {
    "mnist": ("mnist-rigl", ["--data", bench.DATA], 200, []),
    "wrn-22-2": ("cifar10-rigl", ["--data", "fashion-mnist", "--set", f"data.dir={CLOTHES}"], 20, ["--set", "data.augment=false", "--set", "model.dropout=0"]),
}
SEEDS = 3


def masks(run, iteration):
    """The masks of a checkpoint, by name."""
    (path,) = glob.glob(os.path.join(run, f"*{iteration}.safetensors"))
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], np.uint8) != 0
        for name, entry in header.items()
        if name.endswith("mask")
    }


def train(preset, data, name, more):
    out = os.path.join(bench.WORK, "runs", f"growth-{name}")
    command = [bench.BINARY, "train", preset, *data, *more, "--out", out, "--overwrite", "--json", "--no-tensorboard"]
    bench.run_json(command)
    return out, bench.shown(command)


def study(network):
    preset, data, steps, settings = NETWORKS[network]
    whole = ["--set", "train.unit=iterations", "--set", "mask_update.begin_step=0", "--set", "mask_update.frequency_steps=20"]
    common = [*whole, *settings, "--set", "train.eval_interval=100000", "--set", "train.checkpoint_interval=100000"]
    commands, kinds = [], {"in bf16": [], "in f32 on another batch": []}
    for seed in range(SEEDS):
        start, command = train(preset, data, network, [*common, "--steps", str(steps), "--steps-per-launch", "10", "--seed", str(seed)])
        commands.append(command)
        before = masks(start, steps)

        def updated(name, precision, seed):
            more = [*common, "--init", start, "--init-masks", "--steps", "1", "--steps-per-launch", "1", "--precision", precision, "--seed", str(seed)]
            run, command = train(preset, data, f"{network}-{name}", more)
            commands.append(command)
            return masks(run, 1)

        single = updated("f32", "f32", seed)
        others = {"in bf16": updated("bf16", "bf16", seed), "in f32 on another batch": updated("batch", "f32", seed + 100)}
        for kind, other in others.items():
            for name, mask in single.items():
                grown, instead = mask & ~before[name], other[name] & ~before[name]
                if grown.any():
                    kinds[kind].append({"layer": name, "seed": seed, "grown": int(grown.sum()), "differ": int((grown & ~instead).sum()), "mask": int(mask.sum())})
    return {"rows": kinds, "commands": commands[: 4]}


def share(rows, of):
    return sum(row["differ"] for row in rows) / sum(row[of] for row in rows)


def table(record):
    lines = [
        "# Connections that RigL grows, with activations in bf16",
        "",
        f"By `scripts/bench/growth_bf16.py`, {bench.processor(record['machine'])}, {record['machine']['date']}. One mask update from the same "
        f"weights, masks and batch, {SEEDS} seeds: share of the connections grown in f32 that the other update does not grow, over all "
        "layers, the largest share of a layer, and the share of all connections.",
        "",
        "| network | update | grown | differ | most in a layer | of all connections |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for network, found in record["networks"].items():
        for kind, rows in found["rows"].items():
            most = max(row["differ"] / row["grown"] for row in rows)
            grown = sum(row["grown"] for row in rows)
            lines.append(f"| {network} | {kind} | {grown} | {share(rows, 'grown'):.2%} | {most:.2%} | {share(rows, 'mask'):.3%} |")
    commands = [command for found in record["networks"].values() for command in found["commands"]]
    return "\n".join([*lines, "", "Commands of the first seed:", "", *(f"    {command}" for command in commands)]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--source", default=CLOTHES, help="folder with Fashion-MNIST's IDX files")
    args = parser.parse_args()
    if args.only != "mnist":
        wrn_fashion.TRAIN, wrn_fashion.TEST = 5120, 64  # every run ends with an evaluation
        wrn_fashion.part(args.source, CLOTHES)
    record = {"machine": bench.machine(), "networks": {}}
    for network in [args.only] if args.only else NETWORKS:
        record["networks"][network] = study(network)
    bench.save("growth_bf16", record, table(record))


if __name__ == "__main__":
    main()
