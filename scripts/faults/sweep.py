#!/usr/bin/env python3
"""Kills a sweep at random moments: it ends with the table, and the checkpoints, of a sweep that nothing disturbed.

    python3 scripts/faults/sweep.py                        examples/sweep.toml, killed 20 times: half an hour on two processors
    python3 scripts/faults/sweep.py --file other.toml --kills 5

Runs target/release/rigl-xla (or --program). Half of the kills end the sweep alone, half its jobs too, as when power fails. Results:
scripts/bench/results/sweep_kills.json and sweep_kills.md. Exit code 1 when anything differs.
"""

import argparse
import hashlib
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

from faults import RESULTS, ROOT, processor


def digests(folder):
    """The last checkpoint of every run by its name, as a digest."""
    found = {}
    for config in sorted(folder.rglob("config.toml")):
        saved = max(config.parent.glob("ckpt-*.safetensors"), key=lambda path: int(path.stem[5:]))
        found[str(config.parent.relative_to(folder))] = saved.name + " " + hashlib.sha256(saved.read_bytes()).hexdigest()
    return found


def killed(command, moment, group):
    """Runs a sweep for `moment` seconds; whether it still ran when it was killed."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        process.wait(moment)
        return False
    except subprocess.TimeoutExpired:
        (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, default=ROOT / "examples/sweep.toml")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--program", default=str(ROOT / "target/release/rigl-xla"))
    parser.add_argument("--undisturbed", type=Path, help="folder for the sweep that nothing disturbs, kept afterwards")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="sweep-"))
    quiet, disturbed = args.undisturbed or work / "quiet", work / "disturbed"
    sweep = lambda out: [args.program, "sweep", str(args.file), "--out", str(out), "--json", "--quiet"]

    begun = time.time()
    whole = json.loads(subprocess.run(sweep(quiet), stdout=subprocess.PIPE, check=True).stdout)
    seconds = time.time() - begun
    rng, kills = random.Random(args.seed), 0
    while kills < args.kills:
        # So that the kills are spread over the whole sweep.
        if not killed(sweep(disturbed), rng.uniform(0, 1.2 * seconds / args.kills), group=kills % 2 == 1):
            break
        kills += 1
    found = json.loads(subprocess.run(sweep(disturbed), stdout=subprocess.PIPE, check=True).stdout)
    jobs = len(whole["jobs"])
    result = {
        "kills": kills,
        "tables_equal": found["table"] == whole["table"],
        "checkpoints": jobs,
        "checkpoints_equal": digests(disturbed) == digests(quiet) and len(digests(quiet)) == jobs,
    }
    shutil.rmtree(work, ignore_errors=True)
    write(args, result, whole["table"], seconds, time.time() - begun)
    return not (result["tables_equal"] and result["checkpoints_equal"] and kills == args.kills)


def write(args, result, table, alone, seconds):
    command = f"python3 scripts/faults/sweep.py --file {os.path.relpath(args.file, ROOT)} --kills {args.kills} --seed {args.seed}"
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    machine = {"system": platform.platform(), "processor": processor(), "cores": os.cpu_count()}
    record = {"command": command, "commit": commit, "machine": machine, "undisturbed_s": round(alone), "seconds": round(seconds)}
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "sweep_kills.json").write_text(json.dumps({**record, **result, "table": table}, indent=1) + "\n")
    equal = lambda key: "equal" if result[key] else "**different**"
    text = f"""# A sweep killed at random moments

{machine['processor']}, {machine['cores']} cores, shared with other work; {round(alone)} s undisturbed, {round(seconds)} s in all; `{command}`, by the program of {commit[:7]}.

| jobs | kills | tables | checkpoints |
|---:|---:|---|---|
| {result['checkpoints']} | {result['kills']} | {equal('tables_equal')} | {equal('checkpoints_equal')} |
"""
    (args.results / "sweep_kills.md").write_text(text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
