#!/usr/bin/env python3
"""Effect of huge pages on the CPU: the same passes with them, as `rigl-xla` requests them, and without, in turn.

Needs `cargo build --release --bench networks`. Writes results/pages.json and results/pages.md.
"""
import glob
import json
import os
import statistics
import subprocess
import sys

import bench

CASES = [
    ("ResNet-50, predict 8", ["predict", "resnet50-rigl-erk-0.8", "8", "8"]),
    ("WRN-22-2, predict 128", ["predict", "cifar10-rigl", "128", "8", "model.dropout=0"]),
    ("MobileNet-v1, train 16", ["train", "mobilenet-v1-rigl", "16", "4"]),
    ("WRN-22-2, train 128", ["train", "cifar10-rigl", "128", "4", "model.dropout=0"]),
]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    built = glob.glob(os.path.join(bench.ROOT, "target/release/deps/networks-*[0-9a-f]"))
    binary = max(built, key=os.path.getmtime)
    record = {"machine": bench.machine(), "rounds": rounds, "runs": {}}
    for _ in range(rounds):
        for title, arguments in CASES:
            for huge in (0, 1):
                environment = {**os.environ, "GLIBC_TUNABLES": f"glibc.malloc.hugetlb={huge}"}
                out = subprocess.run([binary, *arguments], env=environment, check=True, stdout=subprocess.PIPE).stdout
                found = json.loads(out)
                for what in ("seconds", "in_launch_s"):
                    if found.get(what):
                        values = found[what] if what == "seconds" else [found[what]]
                        record["runs"].setdefault(f"{title}|{what}|{huge}", []).extend(values)
    bench.save("pages", record, table(record, binary))


def table(record, binary):
    machine, runs = record["machine"], record["runs"]
    lines = [
        "# Huge pages on the CPU",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average_before'][0]} before; {machine['date']}, revision",
        f"{machine['revision']}. Seconds, medians of {record['rounds']} alternating rounds; the system gives huge pages to those who ask.",
        "",
        "| pass | small pages | huge pages | time saved |",
        "|---|--:|--:|--:|",
    ]
    kinds = {"seconds": "alone in a launch", "in_launch_s": "one of a launch of the preset's length"}
    for title, arguments in CASES:
        for what, kind in kinds.items():
            small, huge = (runs.get(f"{title}|{what}|{huge}") for huge in (0, 1))
            if small:
                small, huge = statistics.median(small), statistics.median(huge)
                name = f"{title}, {kind}" if arguments[0] == "train" else title
                lines.append(f"| {name} | {small:.3f} | {huge:.3f} | {1 - huge / small:.1%} |")
    lines += ["", "    scripts/bench/pages.py " + str(record["rounds"])]
    return "\n".join(lines) + "\n"


main()
