#!/usr/bin/env python3
"""Speed and memory of `convert`, both ways, on a checkpoint of 300 MB. Standard library only.

    scripts/bench/convert.py [ROUNDS]

The arrays are those of a ResNet-50 in training, as far as they go: weights, masks and momentum in float32 of random bytes.
Everything is read from the page cache; written to a folder in memory, and to the disk that holds the repository, where most of
the time is the disk's. Best and median of the rounds; writes results/convert.json and results/convert.md.
"""
import json
import os
import shutil
import statistics
import sys
import tempfile

from bench import BINARY, RESULTS, WORK, machine, run_json, shown

SHAPES = [(7, 7, 3, 64)] + [(3, 3, 256, 256)] * 20 + [(1, 1, 512, 2048)] * 8 + [(2048, 1000)] * 2
PARTS = ["weights", "mask", "weights/Momentum"]
TOTAL = 300_000_000


def write_safetensors(path):
    """Arrays of random bytes; how many bytes and arrays."""
    header, end = {}, 0
    for i, shape in enumerate(SHAPES * 4):
        size = 4
        for dim in shape:
            size *= dim
        for part in PARTS:
            if end + size > TOTAL:
                continue
            header[f"layer{i}/{part}"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
            end += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        left = end
        while left:
            left -= file.write(os.urandom(min(left, 1 << 20)))
    return end, len(header)


def measure(command, size, rounds):
    """MB/s of each round, and the peak memory of all."""
    runs = [run_json(command) for _ in range(rounds)]
    rates = sorted(size / 1e6 / run["wall_s"] for run in runs)
    return {
        "command": shown(command),
        "mb_per_s_best": round(rates[-1]),
        "mb_per_s_median": round(statistics.median(rates)),
        "peak_rss_mb": max(run["peak_rss_mb"] for run in runs),
    }


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    before = machine()
    record = {"machine": before, "rounds": rounds, "runs": {}}
    os.makedirs(WORK, exist_ok=True)
    for where, parent in [("memory", "/dev/shm"), ("disk", WORK)]:
        folder = tempfile.mkdtemp(dir=parent)
        try:
            source, prefix, out = (os.path.join(folder, name) for name in ["in.safetensors", "m.ckpt", "out.safetensors"])
            size, arrays = write_safetensors(source)
            record |= {"bytes": size, "arrays": arrays}
            to_tf = [BINARY, "convert", "--to-tf", "--overwrite", source, prefix, "--json"]
            from_tf = [BINARY, "convert", "--overwrite", prefix, out, "--json"]
            record["runs"][f"to TensorFlow, {where}"] = measure(to_tf, size, rounds)
            record["runs"][f"to safetensors, {where}"] = measure(from_tf, size, rounds)
        finally:
            shutil.rmtree(folder)
    for run in record["runs"].values():
        run["command"] = " ".join(os.path.basename(word) for word in run["command"].split())
    with open(os.path.join(RESULTS, "convert.json"), "w") as file:
        json.dump(record, file, indent=1)
        file.write("\n")
    lines = [
        "# Conversion of a TensorFlow checkpoint\n",
        f"{record['bytes']} bytes in {record['arrays']} float32 arrays, one shard, checksums verified; {before['cpu']} "
        f"(family/model {before['cpu_family_model']}), {before['cores']} cores, load {before['load_average_before'][0]} before the "
        f"run, revision {before['revision']}; {rounds} rounds of the whole program, on a machine that others used at the same "
        "time: the best is what it can do. Files come from the page cache, are written to memory (`/dev/shm`) or to disk, and are "
        "synced before they count as written.\n",
        "| way, output in | best MB/s | median MB/s | peak memory, MB |",
        "|---|---|---|---|",
    ]
    for name, run in record["runs"].items():
        lines.append(f"| {name} | {run['mb_per_s_best']} | {run['mb_per_s_median']} | {run['peak_rss_mb']} |")
    commands = ", ".join(f"`{run['command']}`" for run in list(record["runs"].values())[:2])
    lines += ["", f"Commands: `scripts/bench/convert.py {rounds}`, which runs {commands}. Asked: more than 500 MB/s and less than 100 MB."]
    with open(os.path.join(RESULTS, "convert.md"), "w") as file:
        file.write("\n".join(lines) + "\n")


main()
