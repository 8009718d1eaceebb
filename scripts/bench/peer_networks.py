#!/usr/bin/env python3
"""ResNet-50, MobileNet-v1 and WideResNet-22-2 as a user of JAX, PyTorch or TensorFlow 1.15 writes them, in float32, or in
JAX and PyTorch with activations in bfloat16.

A training step is forward and backward pass with batch normalisation, cross entropy, weight decay and Nesterov momentum,
of dense networks, and in JAX also with masks that RigL updates. Runs on the CPU, or on a GPU where the library finds one.
Prints one JSON object with the seconds of each step after the first. Runs on Python 3.7, for TensorFlow 1.15.
"""
import argparse
import json
import math
import time

import numpy as np


def resnet50(o, x):
    x = o.relu(o.norm(o.conv(x, 64, 7, 2)))
    x = o.max_pool(x)
    for filters, blocks, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            stride = first if block == 0 else 1
            shortcut = o.norm(o.conv(x, 4 * filters, 1, stride)) if block == 0 else x
            y = o.relu(o.norm(o.conv(x, filters, 1, 1)))
            y = o.relu(o.norm(o.conv(y, filters, 3, stride)))
            x = o.relu(o.norm(o.conv(y, 4 * filters, 1, 1)) + shortcut)
    return o.dense(o.mean(x), 1000)


def mobilenet_v1(o, x):
    x = o.relu(o.norm(o.conv(x, 32, 3, 2)))
    for filters, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)):
        x = o.relu(o.norm(o.depthwise(x, stride)))
        x = o.relu(o.norm(o.conv(x, filters, 1, 1)))
    return o.dense(o.mean(x), 1000)


def wrn_22_2(o, x, dropout=0.0):
    x = o.conv(x, 16, 3, 1)
    for filters, first in ((32, 1), (64, 2), (128, 2)):
        for block in range(3):
            stride = first if block == 0 else 1
            y = o.relu(o.norm(x))
            shortcut = o.conv(y, filters, 1, stride) if block == 0 else x
            y = o.relu(o.norm(o.conv(y, filters, 3, stride)))
            x = o.conv(o.dropout(y, dropout) if dropout else y, filters, 3, 1) + shortcut
    return o.dense(o.mean(o.relu(o.norm(x))), 10)


def mobilenet_v2(o, x):
    x = o.relu(o.norm(o.conv(x, 32, 3, 2)))
    blocks = ((16, 1, 1), (24, 2, 2), (32, 2, 3), (64, 2, 4), (96, 1, 3), (160, 2, 3), (320, 1, 1))
    inner, first = 32, True
    for filters, stride, repeats in blocks:
        for block in range(repeats):
            step = stride if block == 0 else 1
            y = x if first else o.relu(o.norm(o.conv(x, 6 * inner, 1, 1)))
            y = o.norm(o.conv(o.relu(o.norm(o.depthwise(y, step))), filters, 1, 1))
            x = y + x if step == 1 and inner == filters else y
            inner, first = filters, False
    return o.dense(o.mean(o.relu(o.norm(o.conv(x, 1280, 1, 1)))), 1000)


NETWORKS = {
    "resnet50": (resnet50, 224, 1000),
    "mobilenet-v1": (mobilenet_v1, 224, 1000),
    "mobilenet-v2": (mobilenet_v2, 224, 1000),
    "wrn-22-2": (wrn_22_2, 32, 10),
    "wrn-22-2-dropout": (lambda o, x: wrn_22_2(o, x, 0.3), 32, 10),
}
RATE, MOMENTUM, DECAY = 1e-3, 0.9, 1e-4


def timed(step, steps, launch=1, wait=lambda value: None):
    """Seconds of the first call, and of one in each of `steps` further launches, after whose last call `wait` waits."""
    seconds = []
    for calls in (1, *[launch] * steps):
        started = time.perf_counter()
        for _ in range(calls):
            value = step()
        wait(value)
        seconds.append((time.perf_counter() - started) / calls)
    return seconds[0], seconds[1:]


def with_jax(network, images, labels, train, steps, launch, bf16, rigl=False, ahead=None):
    """With `ahead`, a sharding or a mesh of devices that are only described, the compiled training step alone; on a mesh each
    device computes its part of the batch and gradients are averaged."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    apply, side, classes = network
    dtype = jnp.bfloat16 if bf16 else jnp.float32

    class Ops:
        """Parameters by position; those that do not exist yet are drawn."""

        def __init__(self, params, moving, key=None):
            """With a key, for training."""
            self.params, self.moving, self.key, self.moved = params, moving, key, []
            self.count = [0, 0, 0]

        def param(self, shape, scale):
            i, self.count[0] = self.count[0], self.count[0] + 1
            if i == len(self.params):
                value = np.ones(shape) if scale is None else np.random.normal(0, scale, shape)
                self.params.append(value.astype(np.float32))
            return self.params[i]

        def conv(self, x, filters, size, stride, groups=1):
            inner = x.shape[-1] // groups
            kernel = self.param((size, size, inner, filters), math.sqrt(2 / (size * size * inner)))
            strides, dimensions = (stride, stride), ("NHWC", "HWIO", "NHWC")
            x, kernel = x.astype(dtype), kernel.astype(dtype)
            return lax.conv_general_dilated(
                x, kernel, strides, "SAME", dimension_numbers=dimensions, feature_group_count=groups
            )

        def depthwise(self, x, stride):
            return self.conv(x, x.shape[-1], 3, stride, groups=x.shape[-1])

        def norm(self, x):
            gamma, beta = self.param(x.shape[-1:], None), self.param(x.shape[-1:], 0.0)
            i, self.count[1] = self.count[1], self.count[1] + 1
            if i == len(self.moving):
                self.moving.append((np.zeros(x.shape[-1:], np.float32), np.ones(x.shape[-1:], np.float32)))
            mean, variance = self.moving[i]
            x = x.astype(jnp.float32)
            if self.key is not None:
                # In one pass, as Flax does.
                old, mean = (mean, variance), x.mean((0, 1, 2))
                variance = jnp.maximum(jnp.square(x).mean((0, 1, 2)) - jnp.square(mean), 0)
                self.moved.append((old[0] * 0.9 + mean * 0.1, old[1] * 0.9 + variance * 0.1))
            return ((x - mean) * (lax.rsqrt(variance + 1e-5) * gamma) + beta).astype(dtype)

        def relu(self, x):
            return jnp.maximum(x, 0)

        def dropout(self, x, rate):
            if self.key is None:
                return x
            i, self.count[2] = self.count[2], self.count[2] + 1
            kept = jax.random.bernoulli(jax.random.fold_in(self.key, i), 1 - rate, x.shape)
            return jnp.where(kept, x / (1 - rate), 0)

        def max_pool(self, x):
            return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")

        def mean(self, x):
            return x.mean((1, 2))

        def dense(self, x, units):
            product = x @ self.param((x.shape[-1], units), 0.01).astype(dtype)
            return product.astype(jnp.float32) + self.param((units,), 0.0)

    axis = ahead.axis_names[0] if isinstance(ahead, jax.sharding.Mesh) else None
    params, moving = [], []
    jax.eval_shape(lambda x: apply(Ops(params, moving), x), jax.ShapeDtypeStruct(images[:1].shape, np.float32))
    state = jax.tree.map(jnp.asarray, (params, [np.zeros_like(p) for p in params], moving))
    images, labels = jnp.asarray(images), jnp.asarray(labels)

    def loss(params, moving, x, labels, key):
        ops = Ops(params, moving, key)
        logits = jax.nn.log_softmax(apply(ops, x))
        return -jnp.mean(jnp.take_along_axis(logits, labels[:, None], 1)), ops.moved

    def averaged(*values):
        return lax.pmean(values, axis) if axis else values

    def compiled_for(function, donated, arguments):
        """`function` of state, …, images, labels, …, jitted for `ahead` if it is given."""
        if axis:
            batch, whole = jax.sharding.PartitionSpec(axis), jax.sharding.PartitionSpec()
            specs = tuple(batch if value is images or value is labels else whole for value in arguments)
            return jax.jit(jax.shard_map(function, mesh=ahead, in_specs=specs, out_specs=whole, check_vma=False), donate_argnums=donated)
        where = {} if ahead is None else {"in_shardings": ahead, "out_shardings": ahead}
        return jax.jit(function, donate_argnums=donated, **where)

    def train_step(state, x, labels, key):
        params, velocity, moving = state
        (value, moved), grads = jax.value_and_grad(loss, has_aux=True)(params, moving, x, labels, key)
        value, grads = averaged(value, grads)
        grads = [g + DECAY * p if p.ndim > 1 else g for g, p in zip(grads, params)]
        velocity = [MOMENTUM * v + g for v, g in zip(velocity, grads)]
        params = [p - RATE * (g + MOMENTUM * v) for p, g, v in zip(params, grads, velocity)]
        return (params, velocity, moved), value

    def by_rank(score, count, shape):
        """The `count` largest, which the compiler does not know: as the original, which sorts and scatters."""
        order = jnp.argsort(-score)
        return jnp.zeros(score.shape, bool).at[order].set(jnp.arange(score.size) < count).reshape(shape)

    def updated(weights, velocity, mask, gradient, drop_fraction, key):
        """A layer after RigL's update."""
        ones = mask.sum()
        dropped = (ones * drop_fraction).astype(jnp.int32)
        magnitude = jnp.where(mask, jnp.abs(weights), 0)
        noise = jax.random.normal(key, weights.shape) * 1e-5
        kept = by_rank((magnitude + noise).ravel(), ones - dropped, mask.shape)
        score = jnp.where(kept, -jnp.inf, jnp.abs(gradient))
        grown = by_rank(score.ravel(), dropped, mask.shape)
        new = grown & ~mask
        return jnp.where(new, 0, weights), jnp.where(new, 0, velocity), kept | grown

    def rigl_step(state, masks, x, labels, update, drop_fraction, key):
        params, velocity, moving = state
        masked = [p if m is None else jnp.where(m, p, 0) for p, m in zip(params, masks)]
        (value, moved), grads = jax.value_and_grad(loss, has_aux=True)(masked, moving, x, labels, key)
        value, grads = averaged(value, grads)

        def mask_update():
            found = [
                (p, v, m) if m is None else updated(p, v, m, g, drop_fraction, jax.random.fold_in(key, i))
                for i, (p, v, m, g) in enumerate(zip(params, velocity, masks, grads))
            ]
            return tuple(map(list, zip(*found)))

        def gradient_step():
            inner = [g if m is None else jnp.where(m, g, 0) for g, m in zip(grads, masks)]
            inner = [g + DECAY * p if p.ndim > 1 else g for g, p in zip(inner, params)]
            after = [MOMENTUM * v + g for v, g in zip(velocity, inner)]
            return [p - RATE * (g + MOMENTUM * v) for p, g, v in zip(params, inner, after)], after, masks

        params, velocity, masks = lax.cond(update, mask_update, gradient_step)
        return (params, velocity, moved), masks, value

    if not train:
        program = jax.jit(lambda params, moving, x: apply(Ops(params, moving), x))
        return timed(lambda: program(state[0], state[2], images), steps, launch, jax.block_until_ready)
    masks, key = None, jax.random.key(0)
    if rigl:  # All kernels but the first one and those of depthwise convolutions.
        sparse = [i > 0 and p.ndim > 1 and p.shape[-2] > 1 for i, p in enumerate(params)]
        masks = [jnp.asarray(np.random.rand(*p.shape) < 0.2) if s else None for p, s in zip(params, sparse)]
        arguments = lambda update: (state, masks, images, labels, update, jnp.float32(0.3), key)
    else:
        arguments = lambda update: (state, images, labels, key)
    function, donated = (rigl_step, (0, 1)) if rigl else (train_step, 0)
    program = compiled_for(function, donated, arguments(jnp.bool_(True)))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments(jnp.bool_(True)))
    started = time.perf_counter()
    program = program.lower(*shapes).compile()
    compiled = time.perf_counter() - started
    if ahead is not None:
        return program

    def step(update=False):
        nonlocal state, masks, key
        key = jax.random.fold_in(key, 0)
        state, *after, value = program(*arguments(jnp.bool_(update)))
        if rigl:
            (masks,) = after
        return value

    if rigl and steps > 0:
        update = timed(lambda: step(True), 1, wait=float)[1][0]
        return compiled, timed(step, steps, launch, float)[1], update
    return compiled, timed(step, steps, launch, float)[1]


def with_torch(network, images, labels, train, steps, launch, bf16):
    import torch
    from torch import nn
    from torch.nn import functional

    apply, side, classes = network
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(2)
    torch.backends.cudnn.benchmark = True  # tries the convolutions it has on the first step, as XLA does
    mixed = torch.autocast(device, torch.bfloat16, enabled=bf16)

    class Network(nn.Module):
        """Modules by position; those that do not exist yet are made."""

        def __init__(self):
            super().__init__()
            self.parts, self.count = nn.ModuleList(), 0

        def part(self, make):
            i, self.count = self.count, self.count + 1
            if i == len(self.parts):
                self.parts.append(make().to(device))
            return self.parts[i]

        def conv(self, x, filters, size, stride, groups=1):
            make = lambda: nn.Conv2d(x.shape[1], filters, size, stride, size // 2, groups=groups, bias=False)
            return self.part(make)(x)

        def depthwise(self, x, stride):
            return self.conv(x, x.shape[1], 3, stride, groups=x.shape[1])

        def norm(self, x):
            return self.part(lambda: nn.BatchNorm2d(x.shape[1]))(x)

        def relu(self, x):
            return functional.relu(x)

        def dropout(self, x, rate):
            return functional.dropout(x, rate, self.training)

        def max_pool(self, x):
            return functional.max_pool2d(x, 3, 2, 1)

        def mean(self, x):
            return x.mean((2, 3))

        def dense(self, x, units):
            return self.part(lambda: nn.Linear(x.shape[1], units))(x)

        def forward(self, x):
            self.count = 0
            return apply(self, x)

    model = Network()
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).to(device)
    y = torch.from_numpy(labels).long().to(device)
    with torch.no_grad():
        model(x[:2] if len(x) > 1 else x)
    model = model.to(memory_format=torch.channels_last)
    if not train:
        model.eval()

        def predict():
            with torch.inference_mode(), mixed:
                return model(x)

        return timed(predict, steps, launch, lambda logits: logits.cpu())
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, weight_decay=DECAY, nesterov=True)

    def step():
        optimizer.zero_grad()
        with mixed:
            loss = functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return timed(step, steps, launch, lambda loss: loss.item())


def with_tf1(network, images, labels, train, steps, launch):
    import tensorflow as tf

    apply, side, classes = network
    tf.logging.set_verbosity(tf.logging.ERROR)

    class Ops:
        def variable(self, shape, scale):
            start = tf.ones(shape) if scale is None else tf.random_normal(shape, stddev=scale)
            return tf.Variable(start)

        def conv(self, x, filters, size, stride):
            inner = x.shape[-1].value
            kernel = self.variable((size, size, inner, filters), math.sqrt(2 / (size * size * inner)))
            return tf.nn.conv2d(x, kernel, strides=[1, stride, stride, 1], padding="SAME")

        def depthwise(self, x, stride):
            kernel = self.variable((3, 3, x.shape[-1].value, 1), 0.5)
            return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")

        def norm(self, x):
            channels = [x.shape[-1].value]
            gamma, beta = self.variable(channels, None), self.variable(channels, 0.0)
            mean = tf.Variable(tf.zeros(channels), trainable=False)
            variance = tf.Variable(tf.ones(channels), trainable=False)
            if not train:
                return tf.nn.fused_batch_norm(x, gamma, beta, mean, variance, 1e-5, is_training=False)[0]
            x, m, v = tf.nn.fused_batch_norm(x, gamma, beta, epsilon=1e-5)
            for moving, batch in ((mean, m), (variance, v)):
                tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.assign_sub(moving, 0.1 * (moving - batch)))
            return x

        def relu(self, x):
            return tf.nn.relu(x)

        def dropout(self, x, rate):
            return tf.nn.dropout(x, rate=rate) if train else x

        def max_pool(self, x):
            return tf.nn.max_pool2d(x, 3, 2, "SAME")

        def mean(self, x):
            return tf.reduce_mean(x, (1, 2))

        def dense(self, x, units):
            return tf.matmul(x, self.variable((x.shape[-1].value, units), 0.01)) + self.variable((units,), 0.0)

    x = tf.Variable(images, trainable=False)
    logits = apply(Ops(), x)
    fetch = logits
    if train:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.constant(labels), logits=logits)
        loss = tf.reduce_mean(losses)
        decay = tf.add_n([tf.nn.l2_loss(v) for v in tf.trainable_variables() if len(v.shape) > 1])
        optimizer = tf.train.MomentumOptimizer(RATE, MOMENTUM, use_nesterov=True)
        with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
            update = optimizer.minimize(loss + DECAY * decay)
        fetch = [update, loss]
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        return timed(lambda: session.run(fetch), steps, launch)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=["jax", "torch", "tf1"])
    parser.add_argument("what", choices=["train", "predict"])
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("batch", type=int)
    parser.add_argument("steps", type=int)
    parser.add_argument("--launch", type=int, default=1, help="steps that are timed together")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="of activations (JAX, PyTorch)")
    parser.add_argument("--rigl", action="store_true", help="masks, and RigL's update of them in the same program (JAX)")
    args = parser.parse_args()
    network = NETWORKS[args.network]
    _, side, classes = network
    np.random.seed(0)
    images = np.random.uniform(-1, 1, (args.batch, side, side, 3)).astype(np.float32)
    labels = (np.arange(args.batch) % classes).astype(np.int32)
    run = {"jax": with_jax, "torch": with_torch, "tf1": with_tf1}[args.library]
    options = {"rigl": True} if args.rigl else {}
    if args.library != "tf1":
        options["bf16"] = args.precision == "bf16"
    first, seconds, *update = run(network, images, labels, args.what == "train", args.steps, args.launch, **options)
    print(json.dumps({"compile_s": first, "seconds": seconds, **({"with_update_s": update[0]} if update else {})}))


if __name__ == "__main__":
    main()
