#!/usr/bin/env python3
"""Kernels that XLA's CPU compiler generates, which determine compile time: counts by scope, and groups of similar kernels.

Each distinct fusion (operators, shapes, constants, order of operands) becomes an object file of its own. Counts them by the
operators' scopes, then lists groups that differ in the order of operands alone, or in constants too: one kernel each would do.
Needs `cargo build --release --bench networks`.
"""
import argparse
import collections
import glob
import os
import re
import signal
import subprocess
import tempfile

import bench

COMMUTES = ("add", "multiply", "and", "or", "maximum", "minimum")
NAME = r"%?([\w.\-]+)"


def computations(text):
    """The instructions of each computation of an HLO module: name to (shape, operator, operands, attributes), and the root."""
    found = {}
    for match in re.finditer(rf"^(?:ENTRY )?{NAME} \(.*?\) -> .*? \{{\n(.*?)^\}}", text, re.S | re.M):
        instructions, root = {}, None
        for line in match[2].splitlines():
            line = re.sub(r", metadata=\{[^}]*\}|/\*.*?\*/", "", line)
            parts = re.match(rf"\s*(ROOT )?{NAME} = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(.*)$", line)
            if parts:
                operands = [operand.split("%")[-1].strip() for operand in parts[5].split(",")]
                instructions[parts[2]] = (parts[3], parts[4], operands, parts[6])
                root = parts[2] if parts[1] else root
        found[match[1]] = (instructions, root)
    return found


def meaning(computation, constants):
    """A computation as text that is the same for every order of operands and, unless asked for, every constant."""
    instructions, root = computation
    known = {}

    def of(name):
        if name not in known:
            shape, operator, operands, attributes = instructions[name]
            if operator == "parameter":
                known[name] = shape
            elif operator == "constant":
                known[name] = shape + (operands[0] if constants else "")
            else:
                inner = [of(operand) for operand in operands if operand]
                inner = sorted(inner) if operator in COMMUTES else inner
                attributes = re.sub(r"(calls|to_apply)=\S+", "", attributes)
                known[name] = f"{operator}:{shape}({','.join(inner)}){attributes}"
        return known[name]

    # Shared parts are written out each time; numbering them distinguishes sharing from repetition.
    return f"{of(root)} {len(instructions)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="the networks bench, target/release/deps/networks-…")
    parser.add_argument("args", nargs="+", help="of the bench, such as: train resnet50-dense 8 (its steps are added)")
    args = parser.parse_args()
    what, preset, batch, *values = args.args
    with tempfile.TemporaryDirectory() as folder:
        command = [args.binary, what, preset, batch, "0", *values]
        subprocess.run(command, env=bench.dumping(folder, bench.doctor()["path"]), stdout=subprocess.DEVNULL, check=True)
        files = map(os.path.basename, glob.glob(os.path.join(folder, "*.ir-no-opt.ll")))
        kernels = {re.sub(r"^module_\d+\.\w+\.|(_elemental)?(_kernel_module)?\.ir-no-opt\.ll$", "", file) for file in files}
        with open(glob.glob(os.path.join(folder, "*cpu_after_optimizations.txt"))[0]) as file:
            text = file.read()
    bodies, scopes = computations(text), collections.Counter()
    groups = {"order of operands": collections.defaultdict(list), "constants too": collections.defaultdict(list)}
    for line in text.splitlines():
        match = re.match(rf"\s*(?:ROOT )?{NAME} = (\(.*?\)|\S+) ", line)
        if match and match[1] in kernels:
            scope = re.search(r'op_name="([^"/]*)', line)
            scopes[scope[1] if scope else "(made by the compiler)"] += 1
            called = re.search(rf"calls={NAME}", line)
            if called:
                for constants, found in zip((True, False), groups.values()):
                    found[meaning(bodies[called[1]], constants)].append(f"{match[1]} {match[2]}")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # for `| head`
    print(f"{len(kernels)} kernels: " + ", ".join(f"{scope} {count}" for scope, count in scopes.most_common()))
    for difference, found in groups.items():
        several = sorted((names for names in found.values() if len(names) > 1), key=len, reverse=True)
        print(f"{sum(map(len, several)) - len(several)} more than different up to {difference}:")
        for names in several:
            print(f"    {len(names)}  {names[0]}  like {', '.join(name.split()[0] for name in names[1:])}"[:200])


if __name__ == "__main__":
    main()
