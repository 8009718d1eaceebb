"""Replays a training run of an image network in JAX double precision, from the reference alone (2.3, 2.10, 4.1 to 4.3).

steps.py RUN RECIPE: the folder of a run that saved every iteration, with its examples, all of which are in every batch, and
what its configuration says. Each iteration is replayed from the state saved before it. Prints the largest errors by kind.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from networks import NETWORKS, Pass
from safetensors import safe_open

MOMENTUM = 0.9


def load(path):
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def preprocess(pixels, way):
    """Pixels as the driver's network takes them, without changes at random."""
    images = pixels.astype(np.float64)
    if way == "cifar":
        mean = images.mean((1, 2, 3), keepdims=True)
        std = images.std((1, 2, 3), keepdims=True)
        return (images - mean) / np.maximum(std, 1 / np.sqrt(images[0].size))
    return (images - 255 * np.array([0.485, 0.456, 0.406])) / (255 * np.array([0.229, 0.224, 0.225]))


class Step(Pass):
    """As TensorFlow, a ReLU lets nothing of the gradient through at 0, where units without live inputs are exactly."""

    def relu(self, x):
        self.margin = jnp.minimum(self.margin, jnp.where(x == 0, jnp.inf, jnp.abs(x)).min())
        return jax.nn.relu(x)


class Twin:
    def __init__(self, recipe, examples):
        self.recipe = recipe
        self.images = jnp.asarray(preprocess(examples["images"], recipe["preprocessing"]))
        classes = recipe["classes"]
        one_hot = np.eye(classes)[examples["labels"]]
        self.targets = jnp.asarray(one_hot * (1 - recipe["smoothing"]) + recipe["smoothing"] / classes)
        self.gradient = jax.jit(jax.value_and_grad(self.loss, has_aux=True))

    def loss(self, params, statistics):
        name = self.recipe["network"]
        (network,) = [f for prefix, f in NETWORKS.items() if name.startswith(prefix)]
        p = Step({**statistics, **params}, True, fused=not name.startswith("wrn"))
        logits = network(p, self.images, name)
        return -(self.targets * jax.nn.log_softmax(logits)).sum(1).mean(), (p.moved, p.margin)

    def iterate(self, before):
        """Loss, moved statistics and gradients of what the layers compute with; and the least distance from a kink."""
        params, statistics = {}, {}
        for name, array in before.items():
            if f"{name}/Momentum" in before:
                mask = before.get(self.mask(before, name), np.ones((), bool))
                params[name] = np.where(mask, array.astype(np.float64), 0)
            elif name.split("/")[-1] in ("moving_mean", "moving_variance"):
                statistics[name] = array.astype(np.float64)
        (value, (moved, margin)), gradients = self.gradient(params, statistics)
        return float(value), float(margin), moved, {name: np.asarray(g) for name, g in gradients.items()}

    @staticmethod
    def mask(state, name):
        own = name.removesuffix("/weights") + "/mask"
        return own if own in state and name.endswith("/weights") else None

    def decayed(self, name):
        return name.split("/")[-1] in ("weights", "kernel")

    def step(self, before, gradients, rate):
        """Weights and slots after a step with Nesterov's momentum."""
        after = {}
        for name, gradient in gradients.items():
            weights = before[name].astype(np.float64)
            mask = before.get(self.mask(before, name), np.ones((), bool))
            decay = self.recipe["decay"] if self.decayed(name) else 0.0
            gradient = np.where(mask, gradient, 0) + decay * weights
            slot = MOMENTUM * before[f"{name}/Momentum"].astype(np.float64) + gradient
            after[name] = weights - rate * (gradient + MOMENTUM * slot)
            after[f"{name}/Momentum"] = slot
        return after

    def check_update(self, before, after, gradients, drop):
        """Masks by magnitude and dense gradient; how many connections were replaced."""
        replaced = 0
        for name, gradient in gradients.items():
            mask_name = self.mask(before, name)
            old, new = before.get(mask_name), after.get(mask_name)
            if old is None or old.all():
                expected = before[name]
            else:
                ones = int(old.sum())
                assert new.sum() == ones, name
                pruned = int(np.float32(ones) * np.float32(drop))
                order = np.argsort(-np.abs(np.where(old, before[name], 0)).ravel(), kind="stable")
                kept = np.zeros(old.size, bool)
                kept[order[: ones - pruned]] = True
                kept = kept.reshape(old.shape)
                assert new[kept].all(), name
                score = np.abs(gradient)
                # Gradients that rounding cannot tell apart may change places.
                assert pruned == 0 or score[new & ~kept].min() >= score[~new].max() - 1e-5 * score.max(), name
                replaced += int((new & ~old).sum())
                expected = np.where(new & ~old, np.float32(0), before[name])
                slot = f"{name}/Momentum"
                assert (after[slot] == np.where(new & ~old, np.float32(0), before[slot])).all(), name
            assert (after[name] == expected).all(), name
        return replaced


def error(got, want):
    scale = np.abs(want).max()
    return float(np.abs(got - want).max() / scale) if scale > 0 else float(np.abs(got).max())


def main(run, recipe):
    run, recipe = Path(run), json.loads(recipe)
    twin = Twin(recipe, load(run / "examples.safetensors"))
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    records = [record for record in records if "eval" not in record]
    worst = {"margin": np.inf, "replaced": 0, "updates": 0, "steps": 0}

    def note(kind, value):
        worst[kind] = max(worst.get(kind, 0.0), value)

    before = load(run / "ckpt-0.safetensors")
    for iteration, record in enumerate(records, 1):
        after = load(run / f"ckpt-{iteration}.safetensors")
        value, margin, moved, gradients = twin.iterate(before)
        worst["margin"] = min(worst["margin"], margin)
        note("loss", abs(record["cross_entropy"] / value - 1))
        for name, array in moved.items():
            note("statistics", error(after[name], np.asarray(array)))
        if after["global_step"] == before["global_step"]:
            worst["updates"] += 1
            worst["replaced"] += twin.check_update(before, after, gradients, recipe["drop"])
        else:
            worst["steps"] += 1
            # Where normalisation takes a shift away again, a gradient is zero but for rounding.
            least = 1e-2 * max(np.abs(g).max() for g in gradients.values())
            for name, array in twin.step(before, gradients, record["learning_rate"]).items():
                if name.endswith("/Momentum"):
                    note("gradient", float(np.abs(after[name] - array).max() / max(np.abs(array).max(), least)))
                else:
                    note("weights", error(after[name], array))
        squares = sum((after[name].astype(np.float64) ** 2).sum() for name in gradients if twin.decayed(name))
        note("l2", abs((record["loss"] - record["cross_entropy"]) / (recipe["decay"] / 2 * squares) - 1))
        before = after
    print(json.dumps(worst))


main(*sys.argv[1:])
