"""Trains exported models for 50 steps of RigL and again in JAX: masks must be equal, losses within 1e-4.

Arguments: the program, a scratch folder, names of models.
"""

import json
import os
import shutil
import subprocess
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [here, os.path.join(here, "../../python")]
import jax
import jax.numpy as jnp
import numpy as np
from exported_models import MODELS, B
from jax.tree_util import tree_leaves, tree_map

import rigl_xla

PROGRAM, SCRATCH = sys.argv[1:3]
STEPS, EVERY, BEGIN, END, DROP, RATE, SEED = 50, 10, 5, 100, 0.3, 0.05, 3
SETTINGS = [
    "optimizer.name=sgd",
    "learning_rate.schedule=piecewise",
    f"mask_update.begin_step={BEGIN}",
    f"mask_update.frequency_steps={EVERY}",
    f"mask_update.end_step={END}",
    "mask_update.anneal=constant",
    f"mask_update.drop_fraction={DROP}",
    "train.checkpoint_interval=1",
    f"train.keep_checkpoints={STEPS}",
    f"train.eval_interval={STEPS}",
]


def recording(loss):
    """The loss with a state that also records the examples of every batch."""

    def recorded(params, state, batch, *key):
        value, aux = loss(params, state["inner"], batch, *key)
        new, metrics = aux if isinstance(aux, tuple) else (aux, {})
        seen, count = state["seen"].at[state["count"]].set(batch["index"]), state["count"] + 1
        return value, ({"inner": new, "seen": seen, "count": count}, metrics)

    return recorded


def program(*args):
    done = subprocess.run([PROGRAM, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def updated(weights, mask, gradient):
    """RigL on one layer: weights and mask."""
    w, m, g = (np.asarray(a).ravel() for a in (weights, mask, gradient))
    ones = int(m.sum())
    moved = int(np.float32(ones) * np.float32(DROP))
    kept = np.zeros_like(m)
    kept[np.argsort(-np.abs(w * m), kind="stable")[: ones - moved]] = True
    grown = np.zeros_like(m)
    grown[np.argsort(-np.where(kept, -1, np.abs(g)), kind="stable")[:moved]] = True
    new = np.where(grown & ~m, 0, w).astype(np.float32)
    return new.reshape(weights.shape), (kept | grown).reshape(weights.shape)


def masked(params, masks):
    return tree_map(lambda w, m: jnp.where(m, w, 0), params, masks)


def trained_twice(name):
    inner, params, state, key, data, predict = MODELS[name]()
    examples = len(next(iter(data.values())))
    data = data | {"index": np.arange(examples)}
    loss = recording(inner)
    state = {"inner": state, "seen": jnp.zeros((STEPS, B), jnp.int32), "count": jnp.int32(0)}
    kind = lambda array: np.int32 if array.dtype.kind in "iu" else array.dtype
    batch = {name: np.zeros((B, *array.shape[1:]), kind(array)) for name, array in data.items()}
    folder = os.path.join(SCRATCH, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    model, arrays, run = (os.path.join(folder, name) for name in ("model.rigl", "data.npz", "run"))
    predicted = lambda p, s, b: predict(p, s["inner"], b)
    rigl_xla.export(loss, params, batch, model, state=state, key=key, predict=predicted)
    np.savez(arrays, **data)
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    common = ["--steps", str(STEPS), "--sparsity", "0.8", "--lr", str(RATE), "--seed", str(SEED), "--json"]
    program("train", "--model", model, "--data", arrays, "--out", run, *common, *settings)
    replay(name, run, loss, params, state, key, data, batch)
    predictions(folder, run, predicted, params, state, data, batch)


def replay(name, run, loss, params, state, key, data, batch):
    records = [json.loads(line) for line in open(os.path.join(run, "metrics.jsonl"))]
    losses = {record["iteration"]: record["loss"] for record in records if "loss" in record}
    seen = rigl_xla.load_state(run)["seen"]
    masks_at = lambda i: rigl_xla.load_masks(os.path.join(run, f"ckpt-{i}.safetensors"), like=params)
    masks, step, last, total = masks_at(1), 0, None, 0.0
    differentiated = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for i in range(STEPS):
        inputs = {name: jnp.asarray(array[seen[i]]).astype(batch[name].dtype) for name, array in data.items()}
        drawn = [] if key is None else [rigl_xla.step_key(key, SEED, i)]
        (value, (state, _)), gradients = differentiated(masked(params, masks), state, inputs, *drawn)
        assert abs(float(value) - losses[i + 1]) < 1e-4, (name, i, float(value), losses[i + 1])
        if step >= BEGIN and (last is None or step >= last + EVERY):
            last, total = step, total + 1
            layers = zip(tree_leaves(params), tree_leaves(masks), tree_leaves(gradients))
            new = [updated(w, m, g) if not np.all(m) else (w, m) for w, m, g in layers]
            tree = jax.tree_util.tree_structure(params)
            params, masks = (jax.tree_util.tree_unflatten(tree, part) for part in zip(*new))
        else:
            params = tree_map(lambda w, g, m: w - RATE * jnp.where(m, g, 0), params, gradients, masks)
            step += 1
        differences = tree_map(lambda a, b: int((np.asarray(a) != np.asarray(b)).sum()), masks, masks_at(i + 1))
        assert sum(tree_leaves(differences)) == 0, (name, i, differences)
    assert total >= 4
    weights = tree_leaves(rigl_xla.load(run, like=params))
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(tree_leaves(masked(params, masks)), weights)), name
    unmasked = tree_leaves(rigl_xla.load(run, like=params, masked=False))
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(weights, unmasked))
    assert jax.tree_util.tree_structure(rigl_xla.load(run)) == jax.tree_util.tree_structure(params)


def predictions(folder, run, predict, params, state, data, batch):
    """`predict` on all examples, the last batch of which is not whole."""
    examples = 2 * B + 3
    inputs, output = (os.path.join(folder, name) for name in ("inputs.npz", "out.safetensors"))
    part = {name: array[:examples] for name, array in data.items() if name not in ("index", "label")}
    np.savez(inputs, **part)
    program("predict", "--checkpoint", run, "--input", inputs, "--output", output, "--json")
    found = rigl_xla._file.load(output)
    weights, state = rigl_xla.load(run, like=params), rigl_xla.load_state(run, like=state)
    whole = {name: jnp.asarray(array[:examples]).astype(batch[name].dtype) for name, array in data.items()}
    expected = tree_leaves(predict(weights, state, whole))
    assert [np.shape(a) for a in expected] == [a.shape for a in found.values()]
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(expected, found.values()))


for name in sys.argv[3:]:
    trained_twice(name)
    print(name)
