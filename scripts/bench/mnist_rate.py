#!/usr/bin/env python3
"""Training rate on MNIST, RigL 98 %, batch 100: our program, the JAX peer, the TF 1.15 peer and the matrix-product limit.

All take turns in the same run, several rounds; medians count. Run `setup.sh` first and build with `cargo build --release`.
Programs that are not built or installed are left out with a note. Writes results/mnist_rate.json and .md.
"""
import argparse
import os
import sys

import bench

SCRIPT = os.path.join(bench.HERE, "{}.py").format
TARGETS = {"over_jax": 1.3, "over_tf1": 3.0, "of_matmul_limit": 0.6, "peak_rss_mb": 600, "warm_start_s": 2.0}


def commands(args):
    """Name to command, and the trials by which the JAX peer first chose the variant that stays."""
    found, trials = {}, []
    if os.path.exists(args.binary):
        out = os.path.join(bench.WORK, "runs", "rate")
        found["rigl-xla"] = bench.train_command("rigl", args.steps, 0, out, args.binary, args.ours)
    if os.path.exists(bench.JAX):
        peer = [bench.JAX, SCRIPT("peer_jax_mnist"), "--steps", str(args.steps), "--data", bench.DATA]
        chosen = bench.run_json(peer)
        trials = chosen["trials"]
        flags = [part for field in ("feed", "update", "select") for part in ("--" + field, chosen[field])]
        found["jax"] = peer + flags
        found["matmul"] = [bench.JAX, SCRIPT("matmul_limit")]
    if os.path.exists(bench.TF1):
        found["tf1"] = [bench.TF1, SCRIPT("tf1_mnist"), "--steps", str(args.steps), "--data", bench.DATA]
    for name in {"rigl-xla", "jax", "matmul", "tf1"} - set(found):
        print(f"left out: {name} (not built or not installed)", file=sys.stderr)
    return found, trials


def warm_start(args):
    """Wall seconds of a run of one iteration, its executable already in the cache: start, data, step, save."""
    command = bench.train_command("rigl", 1, 0, os.path.join(bench.WORK, "runs", "start"), args.binary, args.ours)
    bench.run_json(command)
    return min(bench.run_json(command)["wall_s"] for _ in range(3))


def table(record):
    machine, rates, ratios = record["machine"], record["steps_per_s"], record["ratios"]
    lines = [
        "# Training rate, MNIST RigL 98 %, batch 100",
        "",
        f"{bench.processor(machine)}, load "
        f"{machine['load_average_before'][0]} before the run, {machine['date']}, revision {machine['revision']}; "
        f"median of {record['rounds']} alternating rounds of {record['steps']} iterations.",
        "",
        "| program | steps/s | mask update, ms | all rounds, steps/s |",
        "|---|---|---|---|",
    ]
    for name, rounds in record["runs"].items():
        update = bench.median(rounds, "update_ms")
        each = ", ".join(f"{one['steps_per_s']:.0f}" for one in rounds)
        lines.append(f"| {name} | {rates[name]:.0f} | {'' if update is None else f'{update:.1f}'} | {each} |")
    lines += ["", "| figure | measured | asked |", "|---|---|---|"]
    for name, value in ratios.items():
        sign = "<" if name in ("peak_rss_mb", "warm_start_s") else ">="
        lines.append(f"| {name} | {value} | {sign} {TARGETS[name]} |")
    lines += ["", "Commands:", "", *(f"    {command}" for command in record["commands"].values()), ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6060, help="iterations per run; 101 are one period of updates")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--binary", default=bench.BINARY)
    parser.add_argument("--ours", nargs=argparse.REMAINDER, default=[], help="the rest: further flags of our program")
    args = parser.parse_args()
    machine = bench.machine()
    programs, trials = commands(args)
    runs = {name: [] for name in programs}
    for _ in range(args.rounds):
        for name, command in programs.items():
            runs[name].append(bench.run_json(command))
            print(f"{name}: {runs[name][-1]['steps_per_s']:.0f} steps/s", file=sys.stderr, flush=True)
    rates = {name: bench.median(rounds, "steps_per_s") for name, rounds in runs.items()}
    ratios = {}
    if "rigl-xla" in rates:
        for name, peer in (("over_jax", "jax"), ("over_tf1", "tf1"), ("of_matmul_limit", "matmul")):
            if peer in rates:
                ratios[name] = round(rates["rigl-xla"] / rates[peer], 3)
        ratios["peak_rss_mb"] = bench.median(runs["rigl-xla"], "peak_rss_mb")
        ratios["warm_start_s"] = warm_start(args)
    record = {
        "machine": machine,
        "steps": args.steps,
        "rounds": args.rounds,
        "steps_per_s": rates,
        "ratios": ratios,
        "targets": TARGETS,
        "commands": {name: bench.shown(command) for name, command in programs.items()},
        "jax_trials": trials,
        "runs": runs,
    }
    bench.save("mnist_rate", record, table(record))


if __name__ == "__main__":
    main()
