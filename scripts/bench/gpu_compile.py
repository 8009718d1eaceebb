#!/usr/bin/env python3
"""Training steps with activations in bf16, compiled ahead of time without a GPU: bytes moved by their kernels.

    cargo build --release && target/bench/venv/bin/python scripts/bench/gpu_compile.py

Ours by `rigl-xla compile`, with RigL's masks and dense, and JAX's of the dense network by the same plugin for the same
device. No times, which take a GPU: but most of such a step is bound by the memory, and bytes have no noise. A kernel is an
instruction of the optimised program outside of fusions; it counts with the bytes of its operands and results, those of a loop
for one turn. Writes results/gpu_compile.json and .md.
"""
import argparse
import glob
import os
import re
import tempfile
import time

import numpy as np

import bench
import networks
import peer_networks

BATCH = 256
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
CALLS = ("while", "conditional", "call")
NO_KERNEL = (*CALLS, "parameter", "tuple", "get-tuple-element", "constant", "bitcast", "after-all")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-$]+) \(.*\) -> .* \{")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-$]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
OPERANDS = re.compile(r"((?:[^()]|\([^)]*\))*)\)")
CALLED = re.compile(r"(?:body|condition|to_apply|branch_computations|true_computation|false_computation)=\{?%?([\w.\-$]+)")


def size(shape):
    """Bytes of a shape as text, all parts of a tuple together."""
    total = 0
    for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shape):
        total += BYTES.get(dtype, 0) * int(np.prod([int(dim) for dim in dims.split(",") if dim], dtype=np.int64))
    return total


def part(shape, index):
    """One part of a tuple's shape; all of it without an index."""
    return shape if index == "" else re.findall(r"\w+\[[\d,]*\]", shape)[int(index)]


def kernels(text):
    """Name and bytes of each kernel."""
    computations, entry = {}, None
    for line in text.splitlines():
        if found := COMPUTATION.match(line):
            current = computations.setdefault(found[2], [])
            entry = found[2] if found[1] else entry
        elif found := INSTRUCTION.match(line):
            current.append(found.groups())
    todo, seen, moved = [entry], set(), []
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        shapes = {instruction: shape for instruction, shape, _, _ in computations[name]}
        for instruction, shape, opcode, rest in computations[name]:
            if opcode in CALLS:
                todo += [called for called in CALLED.findall(rest) if called in computations]
            if opcode not in NO_KERNEL:
                operands = re.findall(r"%([\w.\-$]+)(?:#(\d+))?", OPERANDS.match(rest)[1])
                read = sum(size(part(shapes[operand], index)) for operand, index in operands)
                moved.append((instruction, size(shape) + read))
    return moved


def figures(text, memory, seconds):
    """`memory`: bytes of arguments, results, those results that take over arguments' memory, and scratch."""
    moved, (arguments, results, aliases, scratch) = kernels(text), memory
    return {
        "kernels": len(moved),
        "bytes": sum(bytes for _, bytes in moved),
        "memory_bytes": arguments + results - aliases + scratch,
        "compile_s": round(seconds, 1),
    }


def ours(preset, topology, extra):
    """Figures of our step and its command; the plugin, and its description of the device."""
    command = [bench.BINARY, "compile", preset, "--topology", topology, "--precision", "bf16", "--batch-per-device", str(BATCH), *extra, "--json"]
    with tempfile.TemporaryDirectory() as folder:
        report = bench.run_json(command, {**os.environ, "XLA_FLAGS": bench.dump_flags(folder)})
        (text,) = glob.glob(os.path.join(folder, "*gpu_after_optimizations.txt"))
        (target,) = glob.glob(os.path.join(folder, "*gpu_target_config.pbtxt"))
        with open(text) as text, open(target) as target:
            memory = [report["memory"][f"{kind}_bytes"] for kind in ("argument", "output", "alias", "temp")]
            found = figures(text.read(), memory, report["compile_s"])
            return {**found, "command": bench.shown(command)}, (report["plugin"], target.read())


def described(plugin, target):
    """A sharding of the one device that `target` describes."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    from jax._src.lib import xla_client
    from jax.experimental import topologies

    api = xla_client.load_pjrt_plugin_dynamically("cuda", plugin)
    topology = xla_client.make_c_api_device_topology(api, "", target_config=target, topology="1x1x1")
    (device,) = topologies.TopologyDescription(topology._make_compile_only_devices()).devices
    return jax.sharding.SingleDeviceSharding(device)


def jax_step(network, ahead):
    model = peer_networks.NETWORKS[network]
    images = np.zeros((BATCH, model[1], model[1], 3), np.float32)
    started = time.perf_counter()
    program = peer_networks.with_jax(model, images, np.zeros(BATCH, np.int32), True, 0, 1, bf16=True, ahead=ahead)
    seconds, memory = time.perf_counter() - started, program.memory_analysis()
    memory = [getattr(memory, f"{kind}_size_in_bytes") for kind in ("argument", "output", "alias", "temp")]
    return figures(program.as_text(), memory, seconds)


def table(record):
    machine = record["machine"]
    lines = [
        "# Training steps compiled for a GPU that is not here",
        "",
        f"For {record['topology']}, activations in bf16, batch {BATCH}, by the plugin of {record['plugin']} for both; "
        f"{machine['date']}, revision {machine['revision']}. Bytes are those that kernels read and write, operands and results "
        "of each; memory is what arguments, results and scratch take together.",
        "",
        "| network | program | kernels | GB moved | over JAX | GB of memory | s to compile |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for network, programs in record["rows"].items():
        for name, found in programs.items():
            lines.append(
                f"| {network} | {name} | {found['kernels']} | {found['bytes'] / 1e9:.2f} | "
                f"{found['bytes'] / programs['JAX, dense']['bytes']:.3f} | {found['memory_bytes'] / 1e9:.2f} | {found['compile_s']} |"
            )
    commands = [found["command"] for programs in record["rows"].values() for found in programs.values() if "command" in found]
    return "\n".join([*lines, "", "Commands:", "", *(f"    {command}" for command in commands)]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="h200:1")
    args = parser.parse_args()
    machine, rows, ahead = bench.machine(), {}, None
    for network in ("resnet50", "mobilenet-v1", "wrn-22-2"):
        rigl, dense, _ = networks.NETWORKS[network]
        extra = [word for value in networks.VALUES.get(network, []) for word in ("--set", value)]
        rows[network] = {}
        for name, preset in (("ours, RigL", rigl), ("ours, dense", dense)):
            rows[network][name], (plugin, target) = ours(preset, args.topology, extra)
        ahead = ahead or described(plugin, target)
        rows[network]["JAX, dense"] = jax_step(network, ahead)
    folder = next(part for part in plugin.split(os.sep) if part.startswith("jax-cuda"))
    record = {"machine": machine, "topology": args.topology, "plugin": folder.removesuffix("-compiler"), "rows": rows}
    bench.save("gpu_compile", record, table(record))


if __name__ == "__main__":
    main()
