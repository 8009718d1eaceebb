"""The image networks in JAX double precision, written from the reference alone (3.1 to 3.5).

Reads a file of arrays that one of our graphs took (`input/...`) and gave (`eval/...`, `train/...`), and compares.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiling takes longer than running

import jax
import jax.numpy as jnp
from jax import lax
from safetensors import safe_open

jax.config.update("jax_enable_x64", True)


class Pass:
    """Layers over named arrays; batch norms are numbered as they come, their moving statistics kept."""

    def __init__(self, arrays, train, fused):
        self.arrays, self.train, self.fused = arrays, train, fused
        self.norms, self.moved, self.used = 0, {}, set()
        self.margin = jnp.inf  # least distance from the kink of a ReLU

    def get(self, *names):
        """The one array that has any of these names."""
        (name,) = [name for name in names if name in self.arrays]
        assert name not in self.used, name
        self.used.add(name)
        return self.arrays[name]

    def kernel(self, scope):
        own = scope.split("/")[-1]
        return self.get(f"{scope}/weights", f"{scope}/{own}/weights", f"{scope}/kernel")

    def conv(self, x, scope, stride=1, padding="SAME", groups=1, kernel=None):
        kernel = self.kernel(scope) if kernel is None else kernel
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
        )

    def padded_conv(self, x, scope, size, stride=1, **more):
        """Same padding without a stride; with one, explicit zeros and a valid convolution."""
        if stride == 1:
            return self.conv(x, scope, **more)
        before = (size - 1) // 2
        edges = (before, size - 1 - before)
        x = jnp.pad(x, ((0, 0), edges, edges, (0, 0)))
        return self.conv(x, scope, stride, "VALID", **more)

    def depthwise(self, x, scope, stride):
        kernel = self.get(f"{scope}/depthwise_weights")
        channels = kernel.shape[2]
        return self.padded_conv(x, scope, 3, stride, groups=channels, kernel=kernel.reshape(3, 3, 1, channels))

    def dense(self, x, scope):
        own = scope.split("/")[-1]
        bias = self.get(f"{scope}/biases", f"{scope}/{own}/biases", f"{scope}/bias")
        return x @ self.kernel(scope) + bias

    def batch_norm(self, x):
        name = "resnet_model/batch_normalization" + (f"_{self.norms}" if self.norms else "")
        self.norms += 1
        gamma, beta, mean, variance = (
            self.get(f"{name}/{part}") for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        if self.train:
            axes = tuple(range(x.ndim - 1))
            batch_mean, batch_variance = x.mean(axes), x.var(axes)
            n = x.size // x.shape[-1]
            stored = batch_variance * n / (n - 1) if self.fused else batch_variance
            self.moved[f"{name}/moving_mean"] = 0.9 * mean + 0.1 * batch_mean
            self.moved[f"{name}/moving_variance"] = 0.9 * variance + 0.1 * stored
            mean, variance = batch_mean, batch_variance
        return gamma * (x - mean) / jnp.sqrt(variance + 1e-5) + beta

    def relu(self, x):
        self.margin = jnp.minimum(self.margin, jnp.abs(x).min())
        return jnp.maximum(x, 0)


def max_pool(x, size, stride, padding):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), padding)


def resnet(p, x, name):
    blocks, bottleneck = {"resnet18": ([2, 2, 2, 2], False), "resnet50": ([3, 4, 6, 3], True)}[name]
    x = p.relu(p.batch_norm(p.padded_conv(x, "resnet_model/initial_conv", 7, 2)))
    x = max_pool(x, 3, 2, "SAME")
    for group, count in enumerate(blocks, 1):
        for block in range(count):
            stride = 2 if group > 1 and block == 0 else 1
            end = f"block_group{group}_{block}_1" if block else f"block_group_projection_block_group{group}"
            kind = "bottleneck" if bottleneck else "residual"
            conv = lambda x, part, size, stride=1: p.batch_norm(
                p.padded_conv(x, f"resnet_model/{kind}_{part}_{end}", size, stride)
            )
            shortcut = conv(x, "projection", 1, stride) if block == 0 else x
            if bottleneck:
                x = p.relu(conv(x, 1, 1))
                x = p.relu(conv(x, 2, 3, stride))
                x = conv(x, 3, 1)
            else:
                x = p.relu(conv(x, 1, 3, stride))
                x = conv(x, 2, 3)
            x = p.relu(x + shortcut)
    return p.dense(x.mean((1, 2)), "resnet_model/final_dense")


def mobilenet_v1(p, x, name):
    x = p.relu(p.batch_norm(p.padded_conv(x, "resnet_model/initial_conv", 3, 2)))
    for i, stride in enumerate([1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]):
        x = p.relu(p.batch_norm(p.depthwise(x, f"resnet_model/depthwise_nxn_{i}", stride)))
        x = p.relu(p.batch_norm(p.conv(x, f"resnet_model/contraction_1x1_{i}")))
    return p.dense(x.mean((1, 2)), "resnet_model/final_dense")


def mobilenet_v2(p, x, name):
    x = p.relu(p.batch_norm(p.padded_conv(x, "resnet_model/initial_conv", 3, 2)))
    for i, stride in enumerate([1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]):
        shortcut = x
        if i > 0:
            x = p.relu(p.batch_norm(p.conv(x, f"resnet_model/expand_1x1_{i}")))
        x = p.relu(p.batch_norm(p.depthwise(x, f"resnet_model/depthwise_nxn_{i}", stride)))
        x = p.batch_norm(p.conv(x, f"resnet_model/contraction_1x1_{i}"))
        if stride == 1 and x.shape == shortcut.shape:
            x = x + shortcut
    x = p.relu(p.batch_norm(p.conv(x, "resnet_model/final_1x1_conv")))
    return p.dense(x.mean((1, 2)), "resnet_model/final_dense")


def wide_resnet(p, x, name):
    n = (int(name.split("-")[1]) - 4) // 6
    x = p.conv(x, "resnet_model/conv_1")
    for group in (2, 3, 4):
        for block in range(n):
            stride = 2 if group > 2 and block == 0 else 1
            a = p.relu(p.batch_norm(x))
            end = f"conv_{group}_{block}"
            changes = p.arrays[f"resnet_model/{end}_1/weights"].shape[3] != x.shape[3]
            shortcut = p.conv(a, f"resnet_model/skip_conv_{group}", stride, "VALID") if changes else x
            x = p.conv(a, f"resnet_model/{end}_1", stride)
            x = p.relu(p.batch_norm(x))
            x = p.conv(x, f"resnet_model/{end}_2") + shortcut
    x = p.relu(p.batch_norm(x))
    return p.dense(x.mean((1, 2)), "resnet_model/logits")


def vgg(p, x, name):
    counts = {"vgg-a": [1, 1, 2, 2, 2], "vgg-16": [2, 2, 3, 3, 3]}[name]
    scope = name.replace("-", "_")
    for group, count in enumerate(counts, 1):
        for conv in range(1, count + 1):
            x = p.relu(p.conv(x, f"{scope}/conv{group}/conv{group}_{conv}"))
        if group < 5:
            x = max_pool(x, 2, 2, "VALID")
    return p.conv(x.mean((1, 2), keepdims=True), f"{scope}/fc8")[:, 0, 0, :]


NETWORKS = {"resnet": resnet, "mobilenet-v1": mobilenet_v1, "mobilenet-v2": mobilenet_v2, "wrn": wide_resnet, "vgg": vgg}


def loss(params, others, name, train):
    (network,) = [f for prefix, f in NETWORKS.items() if name.startswith(prefix)]
    p = Pass({**others, **params}, train, fused=not name.startswith("wrn"))
    logits = network(p, others["images"], name)
    assert p.used | {"images", "labels"} == set(p.arrays), set(p.arrays) ^ p.used
    picked = jax.nn.log_softmax(logits)[jnp.arange(len(logits)), others["labels"]]
    return -picked.mean(), (logits, p.moved, p.margin)


def compare(inputs, outputs, name, train):
    """The largest difference between outputs and what should be, by kind, relative to each array's largest element."""
    trainable = {name for name in inputs if f"gradient/{name}" in outputs}
    params = {name: inputs[name] for name in trainable}
    others = {name: inputs[name] for name in inputs.keys() - trainable}
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnames=("name", "train"))
    (value, aux), gradients = gradient(params, others, name=name, train=train)
    logits, moved, margin = aux
    want = {"logits": logits, "loss": value, **moved, **{f"gradient/{name}": g for name, g in gradients.items()}}
    assert want.keys() == outputs.keys(), want.keys() ^ outputs.keys()
    worst = {"margin": float(margin)}
    # Where normalisation takes a shift away again, its gradient is zero but for rounding.
    least = 0.01 * max(float(jnp.abs(g).max()) for g in gradients.values())
    for name, array in want.items():
        assert array.shape == outputs[name].shape, name
        kind = name.split("/")[0] if name.startswith("gradient") else name.split("/")[-1]
        scale = max(float(jnp.abs(array).max()), least)
        error = float(jnp.abs(array - outputs[name]).max()) / scale
        worst[kind] = max(error, worst.get(kind, 0.0))
    return worst


def compare_logits(inputs, outputs, name):
    """The largest difference of an evaluation's logits, relative to the largest logit."""
    logits = jax.jit(lambda others: loss({}, others, name, False)[1][0])(inputs)
    assert outputs.keys() == {"logits"} and logits.shape == outputs["logits"].shape
    return {"logits": float(jnp.abs(logits - outputs["logits"]).max() / jnp.abs(logits).max())}


def main(path, name):
    with safe_open(path, framework="numpy") as file:
        arrays = {name: jnp.asarray(file.get_tensor(name)) for name in file.keys()}
    whole = any(name.startswith("full/") for name in arrays)  # whose convolutions would take minutes in double precision
    double = lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 and not whole else a
    below = lambda side: {n.removeprefix(side): double(a) for n, a in arrays.items() if n.startswith(side)}
    inputs = below("input/")
    if full := below("full/"):
        errors = {"full": compare_logits(inputs, full, name)}
    else:
        errors = {mode: compare(inputs, below(f"{mode}/"), name, mode == "train") for mode in ("eval", "train")}
    print(json.dumps(errors))


if __name__ == "__main__":
    main(*sys.argv[1:])
