#!/usr/bin/env python3
"""Time, memory and end of every command on hostile inputs: no crash, at most 1 GB and 60 s.

    python3 scripts/faults/hostile.py CASES      CASES: a folder with the generators c02, c05, c07, c09, c10 and c14

Needs numpy, Pillow and safetensors; --tensorflow names a Python with TensorFlow for c10. Besides those inputs it makes its own:
devices and FIFOs where files are expected, pictures that claim or take much, archives that unpack to much. Each command of the
program runs on each input it takes; training and evaluation run on the CPU plugin. Results: scripts/bench/results/hostile.json
and hostile.md. Exit code 1 when a command crashes or passes a bound.
"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

from faults import RESULTS, ROOT, processor

MOST_MB, MOST_S = 1000, 60
SMALL = ["--model", "resnet18", "--width", "0.125", "--image-size", "32", "--steps", "2", "--allow-incomplete-schedule"]


def chunk(name, data):
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")


def png(side, bits, colour, interlaced, data):
    size = side.to_bytes(4, "big") * 2
    header = chunk(b"IHDR", size + bytes([bits, colour, 0, 0, interlaced]))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(count):
    """Compressed zeros."""
    packer, parts = zlib.compressobj(9), []
    while count:
        part = min(count, 1 << 24)
        parts.append(packer.compress(bytes(part)))
        count -= part
    return b"".join(parts) + packer.flush()


def pictures(folder):
    """Folders of classes with one hostile picture each."""
    import io

    from PIL import Image

    noise = Image.effect_noise((256, 256), 80).convert("RGB")
    good = io.BytesIO()
    noise.save(good, "JPEG")
    progressive = io.BytesIO()
    noise.save(progressive, "JPEG", progressive=True)
    scans = progressive.getvalue()
    last = scans.rindex(b"\xff\xda")
    claimed = bytearray(good.getvalue())
    frame = claimed.index(b"\xff\xc0")
    claimed[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"
    largest = 10_000 * (10_000 * 2 + 1)
    made = {
        "scans": scans[:-2] + scans[last:-2] * 300 + b"\xff\xd9",
        "claimed_65500": bytes(claimed),
        "png_11000_interlaced": png(11_000, 16, 0, 1, zeros(11_000 * 11_000 * 2)),
        "png_10000_interlaced": png(10_000, 16, 0, 1, zeros(largest + 40_000)),
        "png_60000": png(60_000, 1, 0, 0, zeros(60_000 * 7_501)),
        "png_bomb": png(16, 8, 2, 0, zeros(4 << 30)),
        "png_text_bomb": png(16, 8, 2, 0, zeros(16 * 49)).replace(
            chunk(b"IEND", b""), chunk(b"zTXt", b"a\0\0" + zeros(1 << 30)) + chunk(b"IEND", b"")
        ),
        "over_256_mib": good.getvalue() + bytes((256 << 20) + 1),
        "empty": b"",
    }
    for name, data in made.items():
        for number, (of, content) in enumerate({"n00": data, "n01": good.getvalue()}.items()):
            place = folder / name / "train" / of
            place.mkdir(parents=True)
            (place / f"p{number}.jpg").write_bytes(content)
    for name, make in {"fifo": os.mkfifo, "device": lambda path: os.symlink("/dev/zero", path)}.items():
        place = folder / name / "train" / "n00"
        place.mkdir(parents=True)
        make(place / "p.jpg")


def files(folder):
    """Files that are given where checkpoints, archives or configurations are expected."""
    folder.mkdir()
    os.mkfifo(folder / "fifo")
    for name in ("zero", "urandom"):
        os.symlink(f"/dev/{name}", folder / name)
    (folder / "bomb.gz").write_bytes(gzip.compress(bytes(1 << 30), 9))
    with open(folder / "sparse", "wb") as file:
        file.truncate(8 << 30)
    (folder / "header").write_bytes((1 << 40).to_bytes(8, "little") + b"{" + b" " * 1000)
    (folder / "nested.toml").write_text("a = " + "[" * 100_000)
    (folder / "long.toml").write_text("#" * (64 << 20))


class Cases:
    def __init__(self, args, folder):
        self.program, self.folder, self.rows, self.count = args.program, folder, {}, 0
        self.env = {**os.environ, "PYTHONPATH": args.cases, "RUST_BACKTRACE": "0"}
        self.cases, self.tensorflow = Path(args.cases), args.tensorflow

    def generate(self, script, *args, python=sys.executable):
        subprocess.run([python, self.cases / script, *args], env=self.env, check=True, stdout=subprocess.DEVNULL)

    def command(self, name, source, *args):
        """Runs one command. Memory is the largest of the process and its children."""
        self.count += 1
        begun = time.time()
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen([self.program, *map(str, args)], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.env,
                                       cwd=self.folder)
            timer = subprocess.Popen(["sh", "-c", f"sleep {2 * MOST_S}; kill -9 {process.pid}"], start_new_session=True)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            os.killpg(timer.pid, 9)
            timer.wait()
            output.seek(0)
            text = output.read().decode(errors="replace")
        seconds, mb = time.time() - begun, usage.ru_maxrss / 1024
        row = self.rows.setdefault(name, {"command": name, "runs": 0, "refused": 0, "peak_mb": 0, "slowest_s": 0, "faults": []})
        row["runs"] += 1
        row["refused"] += process.returncode != 0
        for key, value in (("peak", (mb, "mb")), ("slowest", (seconds, "s"))):
            if value[0] > row[f"{key}_{value[1]}"]:
                row[f"{key}_{value[1]}"], row[f"{key}_of"] = round(value[0], 1), source
        crashed = process.returncode not in (0, 1, 2) or "panicked" in text
        if crashed or mb > MOST_MB or seconds > MOST_S:
            row["faults"].append(f"{source}: exit code {process.returncode}, {mb:.0f} MB, {seconds:.1f} s: {text[-300:]}")
            print(name, row["faults"][-1], file=sys.stderr)

    def out(self, suffix=""):
        return self.folder / f"out{self.count}{suffix}"

    def data(self, folder, *options):
        """Every command that reads a data set."""
        source = folder.relative_to(self.folder)
        self.command("data inspect", source, "data", "inspect", folder, "--decode")
        self.command("data dump", source, "data", "dump", "--data", folder, "--split", "train", "--limit", "4", "--image-size", "32",
                     "--output", self.out(".safetensors"))  # fmt: skip
        self.command("plan", source, "plan", "--data", folder, *options)
        self.command("train", source, "train", "--data", folder, *options, "--out", self.out())

    def checkpoint(self, path):
        """Every command that reads a checkpoint."""
        source = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
        self.command("eval", source, "eval", "--checkpoint", path, "--data", "mnist")
        self.command("predict", source, "predict", "--checkpoint", path, "--input", self.folder / "images.safetensors", "--output",
                     self.out(".safetensors"))  # fmt: skip
        self.command("predict --input", source, "predict", "--checkpoint", self.folder / "good", "--input", path, "--output",
                     self.out(".safetensors"))  # fmt: skip
        self.command("compact", source, "compact", "--checkpoint", path, "--output", self.out(".safetensors"))
        self.command("convert", source, "convert", path, self.out(".safetensors"))
        self.command("convert --list", source, "convert", path, "--list")
        self.command("train --init", source, "train", "mnist-rigl", "--steps", "1", "--allow-incomplete-schedule", "--init", path, "--out", self.out())

    def prepare(self, path, *options):
        self.command("data prepare", path.name if path.parent == self.folder else path.relative_to(self.folder), "data", "prepare", "--train", path,
                     *options, self.out())  # fmt: skip

    def run(self):
        folder = self.folder
        train = ["train", "mnist-rigl", "--steps", "1", "--allow-incomplete-schedule", "--out", folder / "good"]
        subprocess.run([self.program, *train], check=True, env=self.env, capture_output=True)
        subprocess.run([self.program, "data", "dump", "--data", "mnist", "--split", "test", "--limit", "8", "--normalised", "--output",
                        folder / "images.safetensors"], check=True, env=self.env, capture_output=True)  # fmt: skip
        good = next((folder / "good").glob("ckpt-*.safetensors"))
        for name, args in {"c02_names": [], "c05_classes": [], "c09_small_sets": [Path.home() / ".cache/rigl-xla/data/mnist"]}.items():
            (folder / name[:3]).mkdir()
            self.generate(f"{name}.py", *args, folder / name[:3])
        self.generate("c07_safetensors.py", good, folder / "c07")
        for place in sorted((folder / "c02").iterdir()):
            self.data(place, *SMALL)
        for place in sorted(path for path in (folder / "c09").iterdir() if path.is_dir()):
            network = "cifar10-rigl" if "cifar" in place.name else "mnist-rigl"
            self.data(place, network, "--steps", "1", "--allow-incomplete-schedule")
        for path in sorted((folder / "c07").iterdir()):
            self.checkpoint(path)
        lists = [path for path in sorted((folder / "c05").iterdir()) if path.is_file()]
        for classes in lists:
            self.prepare(folder / "c05/train", "--validation", folder / "c05/flat", "--validation-classes", classes)
        for train in ("gap", "train"):
            for validation in ("val3", "val_few"):
                self.prepare(folder / "c05" / train, "--validation", folder / "c05" / validation)
        subprocess.run(["tar", "cf", folder / "c05.tar", "-C", folder / "c05/train", "."], check=True)
        self.generate("c14_cut_tar.py", folder / "c05.tar", folder / "c14")
        for path in sorted((folder / "c14").iterdir()):
            self.prepare(path)
        if self.tensorflow:
            prefix = folder / "tf" / "model.ckpt-1"
            prefix.parent.mkdir()
            subprocess.run([self.program, "convert", good, prefix, "--to-tf"], check=True, capture_output=True)
            self.generate("c10_narrow.py", prefix, folder / "tf" / "narrow", python=self.tensorflow)
            self.checkpoint(folder / "tf" / "narrow")
        # In a separate process, because the peak memory of a child starts at that of its parent.
        subprocess.run([sys.executable, __file__, "--make", folder], check=True)
        for place in sorted((folder / "pictures").iterdir()):
            self.prepare(place / "train")
            self.prepare(place / "train", "--skip-corrupt", "9")
            for shards in [self.folder / f"out{number}" for number in (self.count - 2, self.count - 1)]:
                if shards.is_dir():
                    self.data(shards, *SMALL)
        for path in sorted((folder / "files").iterdir()):
            self.checkpoint(path)
            self.prepare(path)
            source = path.relative_to(folder)
            self.command("plan --config", source, "plan", "--config", path)
            self.command("data inspect", source, "data", "inspect", path)
            self.command("train --data", source, "train", "--data", path, "--steps", "1", "--allow-incomplete-schedule", "--out", self.out())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="?")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tensorflow", metavar="PYTHON")
    parser.add_argument("--program", default=str(ROOT / "target/release/rigl-xla"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.make:
        pictures(args.make / "pictures")
        return files(args.make / "files")
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    try:
        cases = Cases(args, folder)
        cases.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = sorted(cases.rows.values(), key=lambda row: row["command"])
    machine = {"processor": processor(), "cores": os.cpu_count()}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    command = "python3 scripts/faults/hostile.py CASES" + " --tensorflow PYTHON" * bool(args.tensorflow)
    report = {"command": command, "commit": commit, "machine": machine, "rows": rows}
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "hostile.json").write_text(json.dumps(report, indent=1, default=str) + "\n")
    lines = [f"| `{row['command']}` | {row['runs']} | {row['refused']} | {row['peak_mb']} | {row['slowest_s']} | {len(row['faults'])} |" for row in rows]
    text = ["# Commands on hostile inputs", "",
            f"{sum(row['runs'] for row in rows)} runs; bounds {MOST_MB} MB and {MOST_S} s. {machine['processor']}, {machine['cores']} cores; "
            f"`{command}`, by the program of {commit[:7]}.", "",
            "| command | runs | refused | peak MB | slowest s | crashed or beyond a bound |", "|---|---:|---:|---:|---:|---:|", *lines, ""]
    (args.results / "hostile.md").write_text("\n".join(text))
    print("\n".join(text))
    return any(row["faults"] for row in rows)


if __name__ == "__main__":
    sys.exit(main())
