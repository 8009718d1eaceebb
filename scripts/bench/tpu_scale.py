"""Compile time, all-reduce and overlap by the number of TPU chips: writes results/tpu_scale.md.

    cargo build --release && python3 scripts/bench/tpu_scale.py [--program FILE] [--repeats N]

Needs no TPU. Seconds are of processor time of the whole command, which other load on the machine disturbs least.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GRIDS = ["v5e:1x1", "v5e:2x2", "v5e:4x4", "v5e:8x8", "v5e:16x16", "v4:1x1x1", "v4:4x4x8", "v5p:1x1x1", "v5p:4x8x8"]
SMALL = ["cifar10-rigl", "--data", "synthetic", "--set", "model={name='wrn-10-2',image_size=16,dropout=0.0}"]
WIDE = ["mnist-dense", "--set", "model.hidden=[1024,1024,1024]", "--batch-per-device", "1024"]


def seconds():
    times = os.times()
    return times.children_user + times.children_system


def compiled(program, args):
    before = seconds()
    output = subprocess.run([program, "compile", *args, "--json"], capture_output=True, text=True, check=True).stdout
    return json.loads(output), seconds() - before


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default=ROOT / "target/release/rigl-xla")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    lines = [
        "# Many TPU chips, compiled ahead of time",
        "",
        f"By `scripts/bench/tpu_scale.py --repeats {given.repeats}`, libtpu 0.0.52, revision {revision}, {today}; 2 cores, other load.",
        "One iteration with a replica on each device, 64 examples per device. Seconds are processor time of the whole command,",
        "the median. The all-reduce is the lower bound from link rates and the shape of the grid; examples/s those of all chips",
        "by the lower bound of the time.",
        "",
        "| network | topology | chips | devices | CPU s | all-reduce us | examples/s |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for name, network in [("mnist-rigl", ["mnist-rigl"]), ("WRN-10-2, 16 x 16", SMALL)]:
        for grid in GRIDS:
            made = [
                compiled(given.program, [*network, "--batch-per-device", "64", "--topology", grid]) for _ in range(given.repeats)
            ]
            report, took = made[0][0], statistics.median(spent for _, spent in made)
            reduce_us = 1e6 * report["estimate"]["collective_s"]
            lines.append(
                f"| {name} | {grid} | {report['chips']} | {report['devices']} | {took:.1f} | {reduce_us:.2f}"
                f" | {report['examples_per_s']:.3g} |"
            )
            print(lines[-1], flush=True)
    lines += ["", "`mnist-dense` with hidden layers of 1024 on v5e:2x4, 1024 examples per device, without and with `--overlap`:", ""]
    lines += ["| options | collective MB | beside other work | CPU s | compiler's cycles |", "|---|--:|--:|--:|--:|"]
    for options in [[], ["--overlap"]]:
        report, took = compiled(given.program, [*WIDE, "--topology", "v5e:2x4", *options])
        lines.append(
            f"| {' '.join(options) or '-'} | {1e-6 * report['collective_bytes']:.2f} | {100 * report['overlap']:.0f} % | {took:.1f}"
            f" | {report['cycles']:.4g} |"
        )
        print(lines[-1], flush=True)
    lines += [
        "",
        "The compiler counts cycles of kernels without waiting, so it cannot show the gain of the overlap; kernels that also send",
        "are longer. It refuses the same options for v3, v4, v5p, v6e and tpu7x ('not supported/recommended on platforms other",
        "than TPU v5e'); there all gradients are one all-reduce after the backward pass.",
        "",
    ]
    (ROOT / "scripts/bench/results/tpu_scale.md").write_text("\n".join(lines))


main()
