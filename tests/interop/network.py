"""The MNIST network in NumPy float32, written from the reference alone (3.6, 4.4), and the files it meets."""

import gzip
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import safe_open

LAYERS = ("layer1", "layer2", "layer3")


def load(path):
    """Arrays and metadata of a safetensors file."""
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def iteration(metadata):
    """The number of iterations in the metadata of one of our checkpoints."""
    return json.loads(metadata["rigl-xla"])["iteration"]


def read_split(folder, stem):
    """Pixels `u8[n, 784]` and labels of IDX files."""

    def body(kind, rank):
        path = Path(folder) / f"{stem}-{kind}-idx{rank}-ubyte"
        data = path.read_bytes() if path.exists() else gzip.open(f"{path}.gz").read()
        dims = np.frombuffer(data, ">i4", rank, 4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(dims)

    return body("images", 3).reshape(-1, 784), body("labels", 1).astype(np.int64)


def scaled(pixels):
    """Pixels as the network takes them."""
    return pixels.astype(np.float32) * np.float32(1 / 255)


def names(state, layer):
    """Names of a layer's kernel and bias: the dense baseline has its own."""
    if f"{layer}/weights" in state:
        return f"{layer}/weights", f"{layer}/biases"
    return f"{layer}/kernel", f"{layer}/bias"


def product(state, layer):
    """The kernel that a layer computes with."""
    kernel = state[names(state, layer)[0]]
    mask = state.get(f"{layer}/mask")
    return kernel if mask is None else np.where(mask != 0, kernel, np.float32(0))


def forward(state, images):
    """Inputs of every layer, and the logits."""
    inputs = [images]
    for layer in LAYERS:
        outputs = inputs[-1] @ product(state, layer) + state[names(state, layer)[1]]
        inputs.append(np.maximum(outputs, 0) if layer != LAYERS[-1] else outputs)
    return inputs[:-1], inputs[-1]


def gradients(state, images, labels, temperature=1.0):
    """Gradient of the batch's mean cross entropy by layer: of the product kernel (dense), and of the bias.

    Logits are divided by the temperature first.
    """
    inputs, logits = forward(state, images)
    logits = logits / temperature
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    delta = e / e.sum(axis=1, keepdims=True)
    delta[np.arange(len(labels)), labels] -= 1
    delta /= np.float32(len(labels)) * temperature
    found = {}
    for layer, x in zip(reversed(LAYERS), reversed(inputs)):
        found[layer] = x.T @ delta, delta.sum(axis=0)
        delta = (delta @ product(state, layer).T) * (x > 0)
    return found


class Layer(NamedTuple):
    """A layer by name, with the names of its arrays; `None` for what it lacks."""

    name: str
    kernel: str
    bias: str | None
    mask: str | None


class Mnist:
    """The network on one batch that is the whole data set."""

    def __init__(self, parameters, masked, data):
        masks = [f"{layer}/mask" if masked else None for layer in LAYERS]
        self.layers = [Layer(name, *names(parameters, name), mask) for name, mask in zip(LAYERS, masks)]
        pixels, self.labels = read_split(data, "train")
        self.images = scaled(pixels)

    def gradients(self, state):
        return gradients(state, self.images, self.labels)

    def hessian_gradients(self, state, temperature):
        """By layer, the product of the Hessian over all kernels with the gradient, by central differences in float64."""
        wide = {name: array.astype(float) for name, array in state.items() if array.dtype == np.float32}

        def kernel_gradients(kernels):
            found = gradients(wide | kernels, self.images.astype(float), self.labels, temperature)
            return {layer.kernel: found[layer.name][0] for layer in self.layers}

        kernels = {layer.kernel: wide[layer.kernel] for layer in self.layers}
        slope = kernel_gradients(kernels)
        # So small that next to no unit crosses the kink of its ReLU on the way.
        size = 1e-8 / max(np.abs(g).max() for g in slope.values())
        ahead, behind = (
            kernel_gradients({name: kernels[name] + sign * size * slope[name] for name in kernels}) for sign in (1, -1)
        )
        return {layer.name: (ahead[layer.kernel] - behind[layer.kernel]) / (2 * size) for layer in self.layers}
