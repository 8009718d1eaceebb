#!/usr/bin/env python3
"""Pictures per second of the input pipeline, compared with tf.data of TensorFlow 2. Standard library only.

    scripts/bench/pipeline.py [ROUNDS [BATCHES]]

Needs `scripts/bench/setup.sh`, or $TF2_PYTHON with TensorFlow 2 and Pillow. Everything is read from the page cache. With n
threads both are held to the same n cores, so that the consumer counts, too; they take turns, and the figures are
medians over the rounds. Writes results/pipeline.json and results/pipeline.md.
"""
import glob
import os
import statistics
import subprocess
import sys

from bench import HERE, ROOT, WORK, machine, run_json, save, shown

TF2 = os.environ.get("TF2_PYTHON", os.path.join(WORK, "tf2", "bin", "python"))
DATA = os.path.join(WORK, "pictures")
EXAMPLES, BATCH = 1024, 32


def benchmark():
    """Our program, built."""
    build = ["cargo", "bench", "--bench", "pipeline", "--no-run", "--message-format", "short"]
    subprocess.run(build, check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    built = glob.glob(os.path.join(ROOT, "target", "release", "deps", "pipeline-*"))
    return max((path for path in built if "." not in os.path.basename(path)), key=os.path.getmtime)


def main():
    rounds, batches = (int(text) for text in (sys.argv[1:] + ["5", "24"][len(sys.argv) - 1 :])[:2])
    program = benchmark()
    if not os.path.exists(os.path.join(DATA, "examples.json")):
        made = subprocess.run(
            [TF2, os.path.join(HERE, "pipeline_data.py"), DATA, str(EXAMPLES)], check=True, stdout=subprocess.PIPE
        )
        with open(os.path.join(DATA, "examples.json"), "wb") as file:
            file.write(made.stdout)
    with open(os.path.join(DATA, "examples.json")) as file:
        data = file.read().strip()
    record = {"machine": machine(), "data": data, "batch": BATCH, "batches": batches, "rounds": rounds, "runs": {}}
    peers = {"rigl-xla": [program], "tf.data": [TF2, os.path.join(HERE, "pipeline_tf.py")]}
    cases = [(split, threads) for split in ("train", "test") for threads in (1, 2)]
    rates = {}
    for _ in range(rounds):
        for split, threads in cases:
            for name, command in peers.items():
                cores = ",".join(str(core) for core in range(threads))
                words = [DATA, split, str(threads), str(BATCH), str(batches)]
                full = ["taskset", "-c", cores, *command, *words]
                found = run_json(full)
                key = f"{name}, {split}, {threads}"
                run = record["runs"].setdefault(key, {"command": shown(full), "pictures_per_s": []})
                run["pictures_per_s"].append(round(found["pictures_per_s"], 1))
                run["tensorflow"] = found.get("tensorflow")
                rates.setdefault((name, split, threads), []).append(found["pictures_per_s"])
    save("pipeline", record, table(record, rates, cases))


def table(record, rates, cases):
    middle = {key: statistics.median(values) for key, values in rates.items()}
    ratios = {case: middle["rigl-xla", *case] / middle["tf.data", *case] for case in cases}
    machine_, version = record["machine"], record["runs"]["tf.data, train, 1"]["tensorflow"]
    lines = [
        "# Input pipeline: pictures per second",
        "",
        f"Read, check, decode, crop, resize to 224 x 224, flip, batches of {record['batch']} in float32, from the page cache;",
        f"pictures as in `pipeline_data.py` ({record['data']}).",
        f"{machine_['cpu']}, {machine_['cores']} cores, load {machine_['load_average_before']} before;",
        f"TensorFlow {version}; revision {machine_['revision']}, {machine_['date']}. Both in turn, held to as many cores as",
        f"threads; medians of {record['rounds']} runs of {record['batches']} batches.",
        "",
        "| pipeline | threads | rigl-xla | tf.data | ratio |",
        "|---|---|---|---|---|",
    ]
    for split, threads in cases:
        ours, theirs = middle["rigl-xla", split, threads], middle["tf.data", split, threads]
        name = {"train": "training", "test": "evaluation"}[split]
        lines.append(f"| {name} | {threads} | {ours:.0f} | {theirs:.0f} | {ratios[split, threads]:.2f} |")
    scaling = {split: middle["rigl-xla", split, 2] / middle["rigl-xla", split, 1] for split in ("train", "test")}
    lines += [
        "",
        f"From one thread to two: training {scaling['train']:.2f} times, evaluation {scaling['test']:.2f} times.",
        "",
        "    scripts/bench/pipeline.py " + f"{record['rounds']} {record['batches']}",
    ]
    return "\n".join(lines) + "\n"


main()
