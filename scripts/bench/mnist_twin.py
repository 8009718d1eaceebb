"""The original's algorithm on its MNIST recipe, written from its description alone: the oracle for our accuracy.

Follows reference 1.2 (masks), 2.2-2.4 (schedule, RigL, SET), 2.10 (Nesterov momentum), 3.6 (network) and 4.4 (recipe)
in float32 JAX; one epoch is one compiled scan. It shares no code with the Rust program.

    mnist_twin.py --self-test
    mnist_twin.py --method rigl --seeds 0,1,2 --out results/mnist_twin.jsonl
"""
import argparse
import functools
import json
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import mnist_data

LAYERS = ((784, 300), (300, 100), (100, 10))
METHODS = ("rigl", "set", "scratch", "dense")
BATCH, EPOCH_STEPS, L2, MOMENTUM, LEARNING_RATE = 100, 600, 1e-4, 0.9, 0.2
END_SPARSITY, SPARSITY_SCALE = 0.98, 0.9
NOISE_STD = 1e-5


class Schedule(NamedTuple):
    """When masks move and by how much (reference 2.2); all in global steps."""

    begin: int = 0
    end: int = 50000
    frequency: int = 100
    drop: float = 0.3

    def is_update(self, step, last):
        return (step >= self.begin) & ((step <= self.end) | (self.end < 0)) & (last + self.frequency <= step)

    def drop_fraction(self, step):
        """Cosine in the original's f32 operations (reference 2.2); the step is not counted from `begin`."""
        span = np.float32(self.end - self.begin)
        angle = jnp.minimum(jnp.float32(step), span) * (np.float32(np.pi) * (np.float32(1) / span))
        return jnp.float32(self.drop) * (0.5 * (1 + jnp.cos(angle)))


def random_masks(seed, shapes=LAYERS, sparsities=(END_SPARSITY, END_SPARSITY * SPARSITY_SCALE, 0.0)):
    """floor(s n) zeros first, then NumPy's legacy in-place shuffle, one generator for all layers."""
    generator = np.random.RandomState(seed)
    masks = []
    for shape, sparsity in zip(shapes, sparsities):
        flat = np.ones(int(np.prod(shape)))
        flat[: int(np.floor(sparsity * flat.size))] = 0
        generator.shuffle(flat)
        masks.append(flat.reshape(shape).astype(np.float32))
    return masks


def top_k_mask(scores, k):
    """1 at the k largest of a flat array by a full stable sort: among equals the lower index wins."""
    order = jnp.argsort(scores, stable=True, descending=True)
    return jnp.zeros(scores.shape, jnp.float32).at[order].set((jnp.arange(scores.size) < k).astype(jnp.float32))


def update_layer(weight, mask, slot, drop_score, grow_score, fraction, grow_value=0.0, slot_value=0.0):
    """One layer's mask update (reference 2.3): the new weight, mask and momentum slot."""
    ones = jnp.sum(mask).astype(jnp.int32)
    pruned = jnp.trunc(ones.astype(jnp.float32) * fraction).astype(jnp.int32)
    kept = top_k_mask(drop_score.ravel(), ones - pruned)
    lifted = jnp.where(kept == 1, jnp.min(grow_score) - 1, grow_score.ravel())
    grown = top_k_mask(lifted, pruned)
    fresh = ((grown == 1) & (mask.ravel() == 0)).reshape(mask.shape)
    return (
        jnp.where(fresh, grow_value, weight),
        (kept + grown).reshape(mask.shape),
        jnp.where(fresh, slot_value, slot),
    )


class State(NamedTuple):
    """Everything that training changes; `last` is the step of the last mask update."""

    weights: tuple
    biases: tuple
    masks: tuple
    weight_slots: tuple
    bias_slots: tuple
    step: jax.Array
    last: jax.Array
    updates: jax.Array


def logits_of(products, biases, images):
    hidden = images
    for layer, (product, bias) in enumerate(zip(products, biases)):
        hidden = hidden @ product + bias
        hidden = jax.nn.relu(hidden) if layer + 1 < len(products) else hidden
    return hidden


def cross_entropy(products, biases, images, labels):
    log_probs = jax.nn.log_softmax(logits_of(products, biases, images))
    return -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=1))


def products_of(state):
    return tuple(m * w for m, w in zip(state.masks, state.weights))


def learning_rate(step, dense):
    """Divided by 3 once the global step has passed each boundary."""
    boundaries = (60, 70, 80) if dense else (75, 95)
    passed = sum((step > epoch * EPOCH_STEPS).astype(jnp.float32) for epoch in boundaries)
    return jnp.float32(LEARNING_RATE) / jnp.float32(3) ** passed


def gradient_step(state, dense_gradients, bias_gradients, rate):
    """Nesterov momentum on raw weights: the masked gradient plus L2 on every entry, active or not."""
    gradients = tuple(m * g + L2 * w for m, g, w in zip(state.masks, dense_gradients, state.weights))

    def move(values, slots, grads):
        slots = tuple(MOMENTUM * v + g for v, g in zip(slots, grads))
        return tuple(w - rate * (g + MOMENTUM * v) for w, g, v in zip(values, grads, slots)), slots

    weights, weight_slots = move(state.weights, state.weight_slots, gradients)
    biases, bias_slots = move(state.biases, state.bias_slots, bias_gradients)
    return state._replace(
        weights=weights, biases=biases, weight_slots=weight_slots, bias_slots=bias_slots, step=state.step + 1
    )


def mask_update(state, dense_gradients, method, schedule, key, noise_std=NOISE_STD):
    """All layers' masks at the state's current step; the step itself stays."""
    fraction = schedule.drop_fraction(state.step)
    key = jax.random.fold_in(key, state.step)
    layers = []
    for index, (weight, mask, slot, gradient) in enumerate(
        zip(state.weights, state.masks, state.weight_slots, dense_gradients)
    ):
        noise_key, grow_key = jax.random.split(jax.random.fold_in(key, index))
        drop_score = jnp.abs(mask * weight) + noise_std * jax.random.normal(noise_key, weight.shape)
        grow_score = jnp.abs(gradient) if method == "rigl" else jax.random.uniform(grow_key, weight.shape)
        layers.append(update_layer(weight, mask, slot, drop_score, grow_score, fraction))
    weights, masks, slots = zip(*layers)
    return state._replace(
        weights=weights, masks=masks, weight_slots=slots, last=state.step, updates=state.updates + 1
    )


def iteration(state, dense_gradients, bias_gradients, method, schedule, key, noise_std=NOISE_STD):
    """RigL updates masks instead of stepping (reference 2.3); SET steps first, then looks (reference 2.4)."""

    def step(state):
        return gradient_step(state, dense_gradients, bias_gradients, learning_rate(state.step, method == "dense"))

    def update(state):
        return mask_update(state, dense_gradients, method, schedule, key, noise_std)

    if method == "rigl":
        return jax.lax.cond(schedule.is_update(state.step, state.last), update, step, state)
    state = step(state)
    if method == "set":
        due = schedule.is_update(state.step, state.last)
        state = jax.lax.cond(due, update, lambda state: state, state)
    return state


@functools.partial(jax.jit, static_argnames=("method", "schedule"), donate_argnums=0)
def train_epoch(state, images, labels, order, key, method, schedule):
    """Every batch of one epoch; `order` i32[steps, batch] indexes the examples. Returns the mean loss too."""

    def body(state, indices):
        loss, gradients = jax.value_and_grad(cross_entropy, argnums=(0, 1))(
            products_of(state), state.biases, images[indices], labels[indices]
        )
        return iteration(state, *gradients, method, schedule, key), loss

    state, losses = jax.lax.scan(body, state, order)
    return state, jnp.mean(losses)


@jax.jit
def evaluate(state, images, labels):
    logits = logits_of(products_of(state), state.biases, images)
    loss = cross_entropy(products_of(state), state.biases, images, labels)
    return jnp.mean(jnp.argmax(logits, axis=1) == labels), loss


def initial_state(method, seed, frequency):
    """Glorot-uniform kernels, zero biases and slots; `last` starts one period before zero."""
    keys = jax.random.split(jax.random.key(seed), len(LAYERS))
    limits = [np.sqrt(6 / (fan_in + fan_out)) for fan_in, fan_out in LAYERS]
    weights = tuple(
        jax.random.uniform(key, shape, jnp.float32, -limit, limit) for key, shape, limit in zip(keys, LAYERS, limits)
    )
    masks = [np.ones(shape, np.float32) for shape in LAYERS] if method == "dense" else random_masks(seed)
    biases = tuple(jnp.zeros(fan_out) for _, fan_out in LAYERS)
    return State(
        weights=weights,
        biases=biases,
        masks=tuple(jnp.asarray(mask) for mask in masks),
        weight_slots=tuple(jnp.zeros(shape) for shape in LAYERS),
        bias_slots=tuple(jnp.zeros(fan_out) for _, fan_out in LAYERS),
        step=jnp.int32(0),
        last=jnp.int32(-frequency),
        updates=jnp.int32(0),
    )


def train(method, seed, epochs, data, log_every=10):
    """One run; a record of the last and the best epoch's test accuracy."""
    schedule = Schedule()
    train_images, train_labels = (jnp.asarray(array) for array in mnist_data.load(data, "train"))
    test_images, test_labels = (jnp.asarray(array) for array in mnist_data.load(data, "test"))
    state = initial_state(method, seed, schedule.frequency)
    shuffler = np.random.default_rng([seed, 1])
    key = jax.random.key(seed + 1000)
    best = accuracy = 0.0
    started, timed_from = time.perf_counter(), 0
    for epoch in range(epochs):
        order = jnp.asarray(shuffler.permutation(len(train_labels)).reshape(EPOCH_STEPS, BATCH).astype(np.int32))
        state, loss = train_epoch(state, train_images, train_labels, order, key, method, schedule)
        accuracy, test_loss = (float(value) for value in evaluate(state, test_images, test_labels))
        best = max(best, accuracy)
        if epoch == 0 and epochs > 1:  # the first epoch compiles
            started, timed_from = time.perf_counter(), 1
        if (epoch + 1) % log_every == 0 or epoch == 0:
            print(f"{method} seed {seed} epoch {epoch + 1}: loss {loss:.5f} test {accuracy:.4f}", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - started
    return {
        "program": "twin",
        "method": method,
        "seed": seed,
        "epochs": epochs,
        "iterations": epochs * EPOCH_STEPS,
        "gradient_steps": int(state.step),
        "mask_updates": int(state.updates),
        "nonzeros": int(sum(jnp.sum(mask) for mask in state.masks)),
        "top1": round(accuracy, 6),
        "best_top1": round(best, 6),
        "loss": round(test_loss, 6),
        "steps_per_s": round((epochs - timed_from) * EPOCH_STEPS / seconds, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="rigl")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--data", default=mnist_data.DEFAULT_DIR, help="folder with the four IDX files")
    parser.add_argument("--out", help="append the JSON lines to this file too")
    parser.add_argument("--self-test", action="store_true", help="check this program against the reference's examples")
    args = parser.parse_args()
    if args.self_test:
        import mnist_twin_test

        return mnist_twin_test.run()
    for seed in args.seeds.split(","):
        line = json.dumps(train(args.method, int(seed), args.epochs, args.data))
        print(line, flush=True)
        if args.out:
            with open(args.out, "a") as file:
                file.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
