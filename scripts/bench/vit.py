#!/usr/bin/env python3
"""ViT-S/16 exported from JAX, trained with masks of 90 % by our program and by JAX's own jit of the same loss, in turns.

Runs with JAX's environment of `setup.sh`, after `cargo build --release`. Both take steps of momentum with fixed masks on the same
random pictures, batch 8. Writes results/vit.json and .md. `--peer FOLDER` is JAX's part, in a process of its own.
"""
import argparse
import json
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import bench

sys.path.insert(0, os.path.join(bench.ROOT, "python"))
import rigl_xla

BATCH, SIZE, PATCH, WIDTH, DEPTH, HEADS, CLASSES = 8, 224, 16, 384, 12, 6, 1000
STEPS, TURNS, RATE, MOMENTUM, SPARSITY = 12, 3, 0.01, 0.9, 0.9
FOLDER = os.path.join(bench.WORK, "vit")


def parameters():
    random = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(random.normal(size=shape) * 0.02, jnp.float32)
    norm = lambda: {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)}
    block = lambda: {
        "norm1": norm(), "qkv": normal(WIDTH, 3 * WIDTH), "out": normal(WIDTH, WIDTH),
        "norm2": norm(), "up": normal(WIDTH, 4 * WIDTH), "down": normal(4 * WIDTH, WIDTH),
    }  # fmt: skip
    tokens = (SIZE // PATCH) ** 2
    return {
        "patches": normal(3 * PATCH * PATCH, WIDTH), "pos_embedding": normal(1, tokens, WIDTH),
        "blocks": [block() for _ in range(DEPTH)], "norm": norm(), "head": normal(WIDTH, CLASSES),
    }  # fmt: skip


def normalised(x, p):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6) * p["scale"] + p["bias"]


def attention(x, p):
    batch, tokens, _ = x.shape
    q, k, v = jnp.split((x @ p["qkv"]).reshape(batch, tokens, 3 * HEADS, WIDTH // HEADS), 3, 2)
    weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, k) / np.sqrt(WIDTH // HEADS))
    return jnp.einsum("bhts,bshk->bthk", weights, v).reshape(x.shape) @ p["out"]


def loss(params, batch):
    n, side = batch["image"].shape[0], SIZE // PATCH
    x = batch["image"].reshape(n, side, PATCH, side, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(n, side * side, -1) @ params["patches"] + params["pos_embedding"]
    for p in params["blocks"]:
        x = x + attention(normalised(x, p["norm1"]), p)
        x = x + jax.nn.gelu(normalised(x, p["norm2"]) @ p["up"]) @ p["down"]
    logits = jax.nn.log_softmax(normalised(x, params["norm"]).mean(1) @ params["head"])
    return -jnp.take_along_axis(logits, batch["label"][:, None], 1).mean()


def examples(number):
    random = np.random.default_rng(1)
    image = random.normal(size=(number, SIZE, SIZE, 3)).astype(np.float32)
    return {"image": image, "label": random.integers(0, CLASSES, number).astype(np.int32)}


def peer():
    """JAX: seconds per step after the first two, and the last loss."""
    params, data = parameters(), examples(4 * BATCH)
    random = np.random.default_rng(2)
    kept = lambda w: jnp.asarray(random.random(w.shape) >= SPARSITY if w.ndim == 2 else np.ones(w.shape, bool))
    masks, velocity = jax.tree_util.tree_map(kept, params), jax.tree_util.tree_map(jnp.zeros_like, params)

    def step(params, velocity, masks, batch):
        effective = jax.tree_util.tree_map(lambda w, m: jnp.where(m, w, 0), params, masks)
        value, gradients = jax.value_and_grad(loss)(effective, batch)
        moved = lambda v, g, m: MOMENTUM * v + jnp.where(m, g, 0)
        velocity = jax.tree_util.tree_map(moved, velocity, gradients, masks)
        return jax.tree_util.tree_map(lambda w, v: w - RATE * v, params, velocity), velocity, value

    step = jax.jit(step, donate_argnums=(0, 1))
    for i in range(STEPS + 2):
        if i == 2:
            started = time.perf_counter()
        rows = slice(i % 4 * BATCH, (i % 4 + 1) * BATCH)
        params, velocity, value = step(params, velocity, masks, {name: array[rows] for name, array in data.items()})
        value = float(value)
    print(json.dumps({"step_s": (time.perf_counter() - started) / STEPS, "loss": value}))


def ours():
    """Our program: seconds per step of the launches after the first."""
    out = os.path.join(FOLDER, "run")
    settings = {"train.steps_per_launch": 2, "train.eval_interval": 100, "learning_rate.schedule": "piecewise"}
    command = [
        bench.BINARY, "train", "--model", os.path.join(FOLDER, "model.rigl"), "--data", os.path.join(FOLDER, "arrays.npz"),
        "--method", "static", "--sparsity", str(SPARSITY), "--distribution", "uniform", "--steps", str(STEPS + 2),
        "--lr", str(RATE), "--out", out, "--overwrite", "--json",
    ]  # fmt: skip
    command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    record = bench.run_json(command)
    lines = [json.loads(line) for line in open(os.path.join(out, "metrics.jsonl"))]
    rates = [line["steps_per_s"] for line in lines if "steps_per_s" in line][1:]
    steps = [1 / rate for rate in rates]
    return {"step_s": sum(steps) / len(steps), "peak_rss_mb": record["peak_rss_mb"], "loss": lines[-2].get("loss")}


def compiled(topology):
    """What the program of one iteration needs for a device that is not here."""
    model = os.path.join(FOLDER, "model.rigl")
    command = [bench.BINARY, "compile", "--model", model, "--topology", topology, "--graph", "step", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr.strip()[-300:]}


def main():
    os.makedirs(FOLDER, exist_ok=True)
    machine = bench.machine()
    np.savez(os.path.join(FOLDER, "arrays.npz"), **examples(4 * BATCH))
    zeros = {name: np.zeros_like(array[:BATCH]) for name, array in examples(BATCH).items()}
    rigl_xla.export(loss, parameters(), zeros, os.path.join(FOLDER, "model.rigl"))
    records = {"JAX": [], "rigl-xla": []}
    for _ in range(TURNS):
        records["JAX"].append(bench.run_json([sys.executable, os.path.abspath(__file__), "--peer"]))
        records["rigl-xla"].append(ours())
    programs = {topology: compiled(topology) for topology in ("v5e:2x2", "h200:1")}
    save(machine, records, programs)


def save(machine, records, programs):
    step = {name: bench.median(of, "step_s") for name, of in records.items()}
    lines = [
        "# ViT-S/16 from JAX, 90 % masks, batch 8",
        "",
        f"{bench.processor(machine)}, load {machine['load_average_before'][0]} before; JAX {jax.__version__}; revision "
        f"{machine['revision']}. Medians of {TURNS} turns of {STEPS} steps of momentum.",
        "",
        "| | s per step | over JAX | peak MB |",
        "|---|---:|---:|---:|",
    ]
    for name, of in records.items():
        ratio, memory = step["JAX"] / step[name], bench.median(of, "peak_rss_mb")
        lines.append(f"| {name} | {step[name]:.3f} | {ratio:.2f} | {memory:.0f} |")
    lines += ["", "| compiled for | result |", "|---|---|"]
    for topology, of in programs.items():
        lines.append(f"| {topology} | {of.get('error', 'compiles')} |")
    lines += ["", "`target/bench/venv/bin/python scripts/bench/vit.py`", ""]
    bench.save("vit", {"machine": machine, "turns": records, "compiled": programs}, "\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", action="store_true")
    peer() if parser.parse_args().peer else main()
