#!/usr/bin/env python3
"""Training rate of the MNIST preset on each CPU plugin package, alternating: why the default is the default.

Writes results/plugins.json and .md. Build with `cargo build --release` and run `setup.sh` first.
"""
import argparse
import os

import bench

PACKAGES = ("xla-cpu-pjrt", "lammps-jax-pjrt-cpu", "fastatomstruct-xla-cpu")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4040)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--binary", default=bench.BINARY)
    args = parser.parse_args()
    machine = bench.machine()
    out = os.path.join(bench.WORK, "runs", "plugins")
    cases = [(package, method) for package in PACKAGES for method in ("rigl", "dense")]
    runs = {case: [] for case in cases}
    for _ in range(args.rounds):
        for package, method in cases:
            command = bench.train_command(method, args.steps, 0, out, args.binary, ["--plugin", package])
            runs[package, method].append(bench.run_json(command))
    doctor = {package: bench.doctor("--plugin", package, binary=args.binary) for package in PACKAGES}
    rate = {case: bench.median(each, "steps_per_s") for case, each in runs.items()}
    lines = [
        "# CPU plugin packages, MNIST preset, batch 100",
        "",
        f"{bench.processor(machine)}, load "
        f"{machine['load_average_before'][0]} before the run, {machine['date']}, revision {machine['revision']}; "
        f"median of {args.rounds} alternating rounds of {args.steps} iterations.",
        "",
        "| package | API | RigL, steps/s | dense, steps/s | peak memory, MB |",
        "|---|---|---|---|---|",
    ]
    for package in PACKAGES:
        memory = bench.median(runs[package, "rigl"], "peak_rss_mb")
        api = ".".join(str(part) for part in doctor[package]["api_version"])
        lines.append(f"| {package} | {api} | {rate[package, 'rigl']:.0f} | {rate[package, 'dense']:.0f} | {memory:.0f} |")
    lines += ["", f"Command: `scripts/bench/plugins.py --steps {args.steps} --rounds {args.rounds}`", ""]
    record = {
        "machine": machine,
        "rounds": args.rounds,
        "steps": args.steps,
        "runs": [{"package": package, "method": method, "runs": each} for (package, method), each in runs.items()],
    }
    bench.save("plugins", record, "\n".join(lines))


if __name__ == "__main__":
    main()
