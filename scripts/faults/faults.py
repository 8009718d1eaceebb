#!/usr/bin/env python3
"""Signals and kills at random moments of runs: nothing that was saved is lost, and every run folder goes on.

    python3 scripts/faults/faults.py            400 signals and 500 kills: about 45 minutes on two processors
    python3 scripts/faults/faults.py --signals 60 --kills 40

Runs target/release/rigl-xla (or --program) on random examples in runs of their own. Each try starts a run, waits for a random
time, sends the signals of its kind, and checks: the exit code, that reported checkpoints exist, that nothing is left
of a run that saved nothing, and that the folder goes on by `train --resume`, or `train` where there is no run, to a checkpoint
and to metrics without gaps. Results: scripts/bench/results/faults.json and faults.md. Exit code 1 when a try fails.
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "scripts/bench/results"
RUN = ["--data", "synthetic", "--set", "data.examples=2000", "--batch-size", "20", "--steps-per-launch", "25",
       "--set", "train.checkpoint_interval=50", "--set", "train.eval_interval=100"]
INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL
# Kind: signals sent as (signal, to the group, seconds after the one before), and the exit code. Both kinds of moments: in
# start-up, and while the run trains.
SIGNALS = {
    "timeout": ([(TERM, False, 0), (TERM, True, 0)], 143),
    "sigterm thrice": ([(TERM, False, 0), (TERM, False, 0.05), (TERM, False, 0.2)], 143),
    "ctrl-c": ([(INT, True, 0)], 130),
    "ctrl-c delivered twice": ([(INT, True, 0), (INT, False, 0.02)], 130),
    "ctrl-c twice": ([(INT, True, 0), (INT, True, None)], 130),
}
KINDS = {**SIGNALS, "kill": ([(KILL, False, 0)], -KILL)}
LIMIT_S = 120


class Try:
    """One run, its signals, and the faults found afterwards."""

    def __init__(self, program, kind, moment, folder, rng):
        self.program, self.kind, self.moment, self.rng = program, kind, moment, rng
        self.out = folder / "parent" / "run"
        self.wrong = []

    def check(self, holds, fault):
        if not holds:
            self.wrong.append(fault)

    def train(self, *args):
        return [self.program, "train", "--json", *RUN, "--out", str(self.out), *args]

    def saved(self):
        names = (path.name for path in self.out.glob("ckpt-*.safetensors"))
        return sorted(int(name[5:-12]) for name in names)

    def wait_for(self, process):
        """Waits for a random moment: within start-up, or after the first metrics of training."""
        if self.moment == "start-up":
            time.sleep(self.rng.uniform(0, START_S))
            return
        metrics, end = self.out / "metrics.jsonl", time.time() + LIMIT_S
        while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None and time.time() < end:
            time.sleep(0.005)
        time.sleep(self.rng.uniform(0, 1.0))

    def run(self):
        process = subprocess.Popen(self.train("--steps", "1000000"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, start_new_session=True)
        self.wait_for(process)
        signals, code = KINDS[self.kind]
        for number, group, pause in signals:
            time.sleep(self.rng.uniform(0, 1.5) if pause is None else pause)
            try:
                (os.killpg if group else os.kill)(process.pid, number)
            except ProcessLookupError:
                break
        try:
            _, message = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, KILL)
            process.communicate()
            self.wrong.append("did not end")
            return
        # Before the program handles signals, the default action ends it.
        early = self.moment == "start-up" and process.returncode == -signals[0][0]
        self.check(process.returncode == code or early, f"exit code {process.returncode}: {message[-300:]}")
        self.check("panicked" not in message and "terminate called" not in message, message[-300:])
        if self.kind != "kill":
            self.after_signal(message)
        self.go_on()

    def after_signal(self, message):
        saved = self.saved()
        ended_at_once = "a second SIGINT" in message
        if ", saved in " in message:
            at = int(message.split("stopped after ")[1].split()[0])
            self.check(saved and saved[-1] == at, f"reported saving at {at}, found {saved}")
        elif not ended_at_once:
            self.check(not self.out.parent.exists(), f"left {list(self.out.parent.rglob('*'))}: {message[-300:]}")
            self.check(self.moment == "start-up", f"saved nothing: {message[-300:]}")
        left = [path.name for path in self.out.glob(".*") if path.name != ".lock"]
        self.check(not left, f"left {left}")

    def go_on(self):
        """Continues the run by the commands that the messages name, for some more iterations."""
        before = self.saved()
        steps = str((before[-1] if before else 0) + 10)
        done = subprocess.run(self.train("--resume", "--steps", steps), capture_output=True, text=True, timeout=LIMIT_S)
        if done.returncode != 0 and "nothing to resume" in done.stderr:
            self.check(not before, f"checkpoints {before}, but nothing to resume")
            done = subprocess.run(self.train("--steps", steps), capture_output=True, text=True, timeout=LIMIT_S)
        self.check(done.returncode == 0, f"does not go on: {done.stderr[-300:]}")
        if done.returncode != 0:
            return
        self.check(json.loads(done.stdout)["steps"] == int(steps), "another number of iterations")
        lines = [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]
        trained = [line["iteration"] for line in lines if "loss" in line]
        self.check(trained == sorted(set(trained)) and trained[-1] == int(steps), f"metrics of {trained[-5:]}")
        self.check(not [path for path in self.out.glob(".*.tmp")], "temporary files")


def fetch_kill(program, cache, rng):
    """Kills `plugin fetch`, whose pip is a stand-in that writes slowly. Returns the faults after the next fetch."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "python3"
        python.write_text("#!/bin/sh\nwhile [ $# -gt 0 ] && [ \"$1\" != --target ]; do shift; done\n[ \"$2\" ] || exit 0\n"
                          "mkdir -p \"$2\"; for i in 1 2 3 4 5 6 7 8; do head -c 1000000 /dev/zero >> \"$2/part\"; sleep 0.05; done\nexit 1\n")
        python.chmod(0o755)
        env = {**os.environ, "RIGL_XLA_CACHE": str(cache), "PATH": f"{folder}:{os.environ['PATH']}"}
        fetch = [program, "plugin", "fetch", "xla-cpu-pjrt"]
        process = subprocess.Popen(fetch, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, 0.6))
        process.kill()
        process.wait()
        subprocess.run(fetch, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=LIMIT_S)
    left = [str(path) for path in Path(cache).rglob("*") if path.is_file() and path.suffix != ".lock"]
    left += [str(path) for path in Path(cache).rglob(".*")]
    return [f"left {left}"] if left else []


def attempts(args):
    """(kind, moment) of every try, the kinds in turn."""
    kinds = list(SIGNALS)
    start_up = args.signals // 4
    for i in range(args.signals):
        yield kinds[i % len(kinds)], "start-up" if i // len(kinds) < start_up // len(kinds) else "training"
    for i in range(args.kills):
        yield "kill", "start-up" if i < args.kills * 2 // 5 else "training"
    for _ in range(args.fetches):
        yield "kill", "fetch"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--signals", type=int, default=400)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--fetches", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--program", default=str(ROOT / "target/release/rigl-xla"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    rng, started, table = random.Random(args.seed), time.time(), {}
    work = Path(tempfile.mkdtemp(prefix="faults-"))
    # How long a start takes here: the first is not counted, it may fetch and compile.
    global START_S
    for _ in range(2):
        begun = time.time()
        first = subprocess.run([args.program, "train", "--json", *RUN, "--steps", "1", "--overwrite", "--out", str(work / "first")],
                               capture_output=True, text=True)
        if first.returncode != 0:
            sys.exit(first.stderr)
        START_S = time.time() - begun
    for i, (kind, moment) in enumerate(attempts(args)):
        if moment == "fetch":
            wrong = fetch_kill(args.program, work / "cache", rng)
        else:
            one = Try(args.program, kind, moment, work / str(i), rng)
            one.run()
            wrong = one.wrong
            shutil.rmtree(work / str(i), ignore_errors=True)
        row = table.setdefault((kind, moment), {"kind": kind, "moment": moment, "tries": 0, "failed": 0, "faults": []})
        row["tries"] += 1
        row["failed"] += bool(wrong)
        row["faults"] += [f"try {i}: {fault}" for fault in wrong]
        if wrong:
            print(f"{kind}, {moment}, try {i}: {wrong}", file=sys.stderr)
    shutil.rmtree(work, ignore_errors=True)
    write(args, list(table.values()), time.time() - started)
    return any(row["failed"] for row in table.values())


def write(args, rows, seconds):
    command = f"python3 scripts/faults/faults.py --signals {args.signals} --kills {args.kills} --fetches {args.fetches} --seed {args.seed}"
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    machine = {"system": platform.platform(), "processor": processor(), "cores": os.cpu_count()}
    record = {"command": command, "commit": commit, "machine": machine, "start_s": round(START_S, 3), "seconds": round(seconds), "rows": rows}
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "faults.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [f"| {row['kind']} | {row['moment']} | {row['tries']} | {row['failed']} |" for row in rows]
    text = ["# Signals and kills at random moments", "",
            f"Runs that lost what they had saved, ended with another exit code, crashed, could not go on, or left files behind. "
            f"{machine['processor']}, {machine['cores']} cores; {round(seconds)} s; `{command}`, by the program of {commit[:7]}.", "",
            "| signals | moment | tries | failed |", "|---|---|---:|---:|", *lines, ""]
    (args.results / "faults.md").write_text("\n".join(text))
    print("\n".join(text))


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
