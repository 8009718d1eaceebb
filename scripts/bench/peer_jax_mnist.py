"""The speed peer: RigL on MNIST as a JAX user writes it, one jitted call per batch from Python, state donated.

The mathematics is the twin's (network, L2, Nesterov momentum, a mask update in place of every 101st step). Each choice that
could hold JAX back is tried and the fastest kept: where the batches live (`--feed`: device arrays sliced in the step, or
host arrays handed to it), how the update is called (`--update`: a function of its own, or a conditional in the step),
and how entries are selected (`--select`: `lax.top_k` of the layer's ones, or a stable argsort).

    peer_jax_mnist.py --steps 5000        tries all, prints one JSON object
"""
import argparse
import functools
import itertools
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

import mnist_data
import mnist_twin as twin

FREQUENCY, EPOCH_STEPS, BATCH = 100, 600, 100
FEEDS, UPDATES, SELECTS = ("device", "host"), ("call", "cond"), ("top_k", "argsort")


def top_k_static(scores, k, most):
    """Mask of the k largest, k <= the static `most`: the library's own partial sort."""
    _, order = jax.lax.top_k(scores, most)
    return jnp.zeros(scores.shape, jnp.float32).at[order].set((jnp.arange(most) < k).astype(jnp.float32))


def mask_update(state, gradients, key, select, ones):
    """RigL's update of every layer that has zeros; `ones` are their static counts."""
    fraction = twin.Schedule().drop_fraction(state.step)
    weights, masks, slots = list(state.weights), list(state.masks), list(state.weight_slots)
    for index, count in enumerate(ones):
        weight, mask, gradient = weights[index], masks[index], jnp.abs(gradients[index])
        if count == weight.size:
            continue
        top = functools.partial(top_k_static, most=count) if select == "top_k" else twin.top_k_mask
        noise = twin.NOISE_STD * jax.random.normal(jax.random.fold_in(key, state.step * 3 + index), weight.shape)
        pruned = (jnp.float32(count) * fraction).astype(jnp.int32)
        kept = top((jnp.abs(mask * weight) + noise).ravel(), count - pruned)
        grown = top(jnp.where(kept == 1, jnp.min(gradient) - 1, gradient.ravel()), pruned)
        fresh = ((grown == 1) & (mask.ravel() == 0)).reshape(weight.shape)
        weights[index] = jnp.where(fresh, 0.0, weight)
        masks[index] = (kept + grown).reshape(weight.shape)
        slots[index] = jnp.where(fresh, 0.0, slots[index])
    return state._replace(
        weights=tuple(weights), masks=tuple(masks), weight_slots=tuple(slots), last=state.step, updates=state.updates + 1
    )


def programs(select, ones, feed):
    """The three jitted calls: a gradient step, a mask update, and the two in one conditional."""

    def batch(images, labels, start):
        if feed == "host":
            return images, labels
        return (jax.lax.dynamic_slice_in_dim(array, start, BATCH) for array in (images, labels))

    def differentiate(state, images, labels, start):
        images, labels = batch(images, labels, start)
        return jax.value_and_grad(twin.cross_entropy, argnums=(0, 1))(
            twin.products_of(state), state.biases, images, labels
        )

    def step(state, images, labels, start, key):
        loss, gradients = differentiate(state, images, labels, start)
        return twin.gradient_step(state, *gradients, twin.learning_rate(state.step, dense=False)), loss

    def update(state, images, labels, start, key):
        loss, (gradients, _) = differentiate(state, images, labels, start)
        return mask_update(state, gradients, key, select, ones), loss

    def either(state, images, labels, start, key):
        loss, (gradients, bias_gradients) = differentiate(state, images, labels, start)
        rate = twin.learning_rate(state.step, dense=False)
        return (
            jax.lax.cond(
                twin.Schedule().is_update(state.step, state.last),
                lambda state: mask_update(state, gradients, key, select, ones),
                lambda state: twin.gradient_step(state, gradients, bias_gradients, rate),
                state,
            ),
            loss,
        )

    return (jax.jit(function, donate_argnums=0) for function in (step, update, either))


class Feed:
    """Batches in shuffled order: whole epochs on the device, or slices of host arrays."""

    def __init__(self, feed, images, labels):
        self.feed, self.host, self.random = feed, (images, labels), np.random.default_rng(0)
        self.device = tuple(jnp.asarray(array) for array in self.host) if feed == "device" else None
        self.shuffle = jax.jit(lambda images, labels, order: (images[order], labels[order]))
        self.position = EPOCH_STEPS

    def next(self):
        if self.position == EPOCH_STEPS:
            order = self.random.permutation(len(self.host[1]))
            self.epoch = (
                self.shuffle(*self.device, order) if self.feed == "device" else tuple(array[order] for array in self.host)
            )
            self.position = 0
        start = self.position * BATCH
        self.position += 1
        if self.feed == "device":
            return (*self.epoch, np.int32(start))
        return self.epoch[0][start : start + BATCH], self.epoch[1][start : start + BATCH], np.int32(0)


def measure(feed, update, select, steps, data):
    """Iterations per second over `steps` after 202 of warm-up, and the time of one mask update."""
    state = twin.initial_state("rigl", 0, FREQUENCY)
    ones = tuple(int(mask.sum()) for mask in twin.random_masks(0))
    key = jax.random.key(1)
    step, change, either = programs(select, ones, feed)
    batches = Feed(feed, *data)
    gradient_steps = 0
    last = -FREQUENCY
    loss = None
    for iteration in range(-202, steps):  # two periods of 101, so the timed run begins with an update
        if iteration == 0:
            jax.block_until_ready(state)
            started = time.perf_counter()
        if update == "cond":
            state, loss = either(state, *batches.next(), key)
        elif last + FREQUENCY <= gradient_steps:
            state, loss = change(state, *batches.next(), key)
            last = gradient_steps
        else:
            state, loss = step(state, *batches.next(), key)
            gradient_steps += 1
    jax.block_until_ready((state, loss))
    seconds = time.perf_counter() - started
    if update == "call":
        assert int(state.step) == gradient_steps
    result = {
        "feed": feed,
        "update": update,
        "select": select,
        "steps_per_s": round(steps / seconds, 1),
        "loss": round(float(loss), 4),
        "nonzeros": int(sum(jnp.sum(mask) for mask in state.masks)),
    }
    return {**result, "update_ms": round(time_update(change, state, batches, key), 2)}  # last: it gives the state away


def time_update(change, state, batches, key, repeats=7):
    """Median milliseconds of one call that updates the masks (its forward and backward pass included)."""
    times = []
    for _ in range(repeats):
        batch = batches.next()
        jax.block_until_ready((state, batch))
        started = time.perf_counter()
        state, _ = change(state, *batch, key)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--trial-steps", type=int, default=1000, help="length of the trials that choose the variant")
    parser.add_argument("--feed", choices=FEEDS)
    parser.add_argument("--update", choices=UPDATES)
    parser.add_argument("--select", choices=SELECTS)
    parser.add_argument("--data", default=mnist_data.DEFAULT_DIR)
    args = parser.parse_args()
    data = mnist_data.load(args.data, "train")
    variants = list(
        itertools.product(
            *([given] if given else choices
              for given, choices in ((args.feed, FEEDS), (args.update, UPDATES), (args.select, SELECTS)))
        )
    )
    trials = [measure(*variant, args.trial_steps, data) for variant in variants] if len(variants) > 1 else []
    best = max(trials, key=lambda trial: trial["steps_per_s"], default=dict(zip(("feed", "update", "select"), variants[0])))
    result = measure(best["feed"], best["update"], best["select"], args.steps, data)
    print(json.dumps({"program": "jax", "jax": jax.__version__, "steps": args.steps, **result, "trials": trials}))


if __name__ == "__main__":
    main()
