#!/usr/bin/env python3
"""Trains over two processes with a GPU each and checks that the run folder equals that of one process with both.

Not part of the tests, which need no GPU: run it on a machine with two, and etcd (Debian: etcd-server), from the root of the
repository after `cargo build --release`. Arguments go to `train`. With $RIGL_XLA_PLUGIN a plugin other than the one fetched."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

PROGRAM = pathlib.Path("target/release/rigl-xla")
FLAGS = ["--device", "gpu", "--replicas", "2", "--steps", "100", "--set", "mask_update.frequency_steps=25"]
# The processes may choose other kernels, which round differently. A short run diverges little.
LOSS_TOLERANCE, MASK_TOLERANCE = 0.02, 0.02


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_etcd(folder):
    clients, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    command = ["etcd", "--data-dir", str(folder), "--log-level", "error", "--listen-client-urls", clients,
               "--advertise-client-urls", clients, "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
               "--initial-cluster", f"default={peers}"]
    return subprocess.Popen(command), clients.removeprefix("http://")


def train(out, gpus, arguments, extra):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": gpus}
    command = [str(PROGRAM), "train", "--json", *FLAGS, "--out", str(out), *extra, *arguments]
    print("CUDA_VISIBLE_DEVICES=" + gpus, *command, flush=True)
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)


def finish(*processes):
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(f"exit codes {[process.returncode for process in processes]}, expected 0 from all")
    return outputs


def masks(path):
    """Masks of a checkpoint by name, read without any package: header length, header in JSON, data."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    spans = {name: entry["data_offsets"] for name, entry in header.items() if name.endswith("mask")}
    return {name: data[8 + size + start:8 + size + end] for name, (start, end) in spans.items()}


def main(arguments):
    for tool in ("nvidia-smi", "etcd", PROGRAM):
        if not shutil.which(tool):
            sys.exit(f"no {tool}, expected it here")
    gpus = subprocess.run(["nvidia-smi", "-L"], check=True, capture_output=True, text=True).stdout.splitlines()
    if len(gpus) < 2:
        sys.exit(f"{len(gpus)} GPUs, expected two")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        etcd, address = start_etcd(folder / "etcd")
        try:
            (alone,) = finish(train(folder / "alone", "0,1", arguments, []))
            group = ["--num-processes", "2", "--etcd", address]
            pair = [train(folder / "pair", str(i), arguments, [*group, "--process-id", str(i)]) for i in range(2)]
            shared, nothing = finish(*pair)
        finally:
            etcd.terminate()
            etcd.wait()
        assert nothing == b"", "process 1 wrote to standard output"
        alone, shared = json.loads(alone), json.loads(shared)
        one, two = (masks(pathlib.Path(summary["checkpoint"])) for summary in (alone, shared))
    assert one.keys() == two.keys() and one, "other masks"
    ones = sum(map(sum, one.values()))
    moved = sum(a != b for name in one for a, b in zip(one[name], two[name])) / (2 * ones)
    apart = abs(alone["eval"]["loss"] - shared["eval"]["loss"])
    print(json.dumps({"alone": alone, "pair": shared, "masks_apart": moved, "loss_apart": apart}))
    for what in ("steps", "global_step", "mask_updates", "nonzeros"):
        assert alone[what] == shared[what], f"{what}: {alone[what]} alone, {shared[what]} in two processes"
    assert apart <= LOSS_TOLERANCE and moved <= MASK_TOLERANCE, "further apart than the order of sums explains"


if __name__ == "__main__":
    main(sys.argv[1:])
