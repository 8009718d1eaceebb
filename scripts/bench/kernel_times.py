#!/usr/bin/env python3
"""Where the time of a network's step goes on the CPU: `perf` samples by compiled kernel, each with its source operators.

XLA's kernels are anonymous code to `perf`. This lets XLA write its object files, finds the bytes at each sampled address
of the running program in them, and names the kernel, with the source operators from the optimised graph next to it.
Needs perf, readelf, and `cargo build --release --bench networks`.
"""
import argparse
import collections
import glob
import os
import re
import subprocess
import tempfile
import time

import bench

WIDTH = 48  # bytes of code that are looked for


def kernels(folder):
    """Bytes of each object file, and its functions as (offset, size, name)."""
    for path in glob.glob(os.path.join(folder, "*.o")):
        with open(path, "rb") as file:
            data = file.read()
        sections = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True).stdout
        starts = {
            int(match[1]): int(match[2], 16)
            for match in re.finditer(r"\[ *(\d+)\] \S+ +PROGBITS +[0-9a-f]+ ([0-9a-f]+)", sections)
        }
        symbols = subprocess.run(["readelf", "-sW", path], capture_output=True, text=True, check=True).stdout
        functions = []
        for line in symbols.splitlines():
            word = line.split()
            if len(word) >= 8 and word[3] == "FUNC" and word[6].isdigit():
                functions.append((starts[int(word[6])] + int(word[1], 16), int(word[2], 0), word[7]))
        yield data, sorted(functions)


def meanings(folder):
    """Shape and source operator of each instruction of the optimised graph."""
    found = {}
    for path in glob.glob(os.path.join(folder, "*after_optimizations.txt")):
        with open(path) as file:
            for line in file:
                match = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = (\S+) (\w[\w-]*)\(", line)
                if match:
                    name = re.search(r'op_name="([^"]*)"', line)
                    found[match[1]] = (match[2], name[1] if name else match[3])
    return found


def addresses(path):
    """Samples per address within code without a file, and per library."""
    text = subprocess.run(
        ["perf", "script", "-i", path, "-F", "ip,sym,dso"], capture_output=True, text=True, check=True
    ).stdout
    anonymous, named = collections.Counter(), collections.Counter()
    for line in text.splitlines():
        match = re.match(r"\s*([0-9a-f]+) (.*) \((.*)\)$", line)
        if not match:
            continue
        if match[3].startswith("/") and ".so" in match[3] or "kernel" in match[3]:
            named[f"{match[2].split('(')[0][:100]} [{os.path.basename(match[3])}]"] += 1
        else:
            anonymous[int(match[1], 16)] += 1
    return anonymous, named


def named_kernels(anonymous, memory, objects):
    """Samples per function: the code around each address is looked for in the object files."""
    found, cache = collections.Counter(), {}
    for address, count in anonymous.items():
        name = cache.get(address)
        if name is None:
            name = "code of libraries made at run time"
            for shift in range(0, 4 * WIDTH, 8):  # a neighbour without an address patched in
                try:
                    memory.seek(address + shift)
                    code = memory.read(WIDTH)
                except (OSError, ValueError):
                    break
                hits = [(functions, data.find(code)) for data, functions in objects]
                hits = [(functions, at - shift) for functions, at in hits if at >= 0]
                if hits:
                    functions, at = hits[0]
                    name = next((n for start, size, n in functions if start <= at < start + size), name)
                    break
            cache[address] = name
        found[name] += count
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="the networks bench, target/release/deps/networks-…")
    parser.add_argument("--plugin", required=True, help="file of the PJRT plugin")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--wait", type=float, default=20, help="seconds from the first object file to the first step's end")
    parser.add_argument("--top", type=int, default=40)
    parser.add_argument("args", nargs="+", help="of the bench, such as: train cifar10-rigl 128 (its steps are added)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        what, preset, batch, *values = args.args
        child = subprocess.Popen([args.binary, what, preset, batch, "100000", *values], env=bench.dumping(folder, args.plugin))
        try:
            while not glob.glob(os.path.join(folder, "*.o")):
                if child.poll() is not None:
                    raise SystemExit(f"the bench ended before it compiled anything, with {child.returncode}")
                time.sleep(0.5)
            time.sleep(args.wait)
            record = os.path.join(folder, "perf.data")
            command = ["perf", "record", "-q", "-F", "500", "-p", str(child.pid), "-o", record, "sleep", str(args.seconds)]
            subprocess.run(command, check=True)
            anonymous, named = addresses(record)
            with open(f"/proc/{child.pid}/mem", "rb", buffering=0) as memory:
                found = named_kernels(anonymous, memory, list(kernels(folder)))
        finally:
            child.kill()
        meaning = meanings(folder)
    total = sum(anonymous.values()) + sum(named.values())
    print(f"{total} samples in {args.seconds} s of {os.cpu_count()} cores at 500 per second")
    for name, count in (found + named).most_common(args.top):
        shape, operator = meaning.get(name, ("", ""))
        print(f"{100 * count / total:5.1f} %  {name}  {shape}  {operator}")


if __name__ == "__main__":
    main()
