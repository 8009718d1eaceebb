"""A training run in NumPy float32, written from the reference alone: state by checkpoint name, and how it moves."""

import numpy as np
from methods import METHODS, STEP
from optimizers import OPTIMIZERS
from schedules import learning_rate

F = np.float32
# Two scores this close, relative to the largest, may change places between two correct float32 programs.
SCORE_ERROR = 1e-6

# The published MNIST recipe (reference 4.4, 4.5).
DEFAULTS = {
    "optimizer.name": "momentum",
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": True,
    "optimizer.weight_decay": 1e-4,
    "learning_rate.base": 0.2,
    "learning_rate.boundaries": [45000, 57000],
    "learning_rate.factors": [1 / 3, 1 / 9],
    "method.grow_init": "zeros",
    "method.initial_accumulator_scale": 0.0,
    "method.ema_momentum": 0.9,
    "method.gradient_batches": 1,
    "method.temperature": 200.0,
    "sparsity.target": 0.98,
    "mask_update.begin_step": 0,
    "mask_update.end_step": 50000,
    "mask_update.frequency_steps": 100,
    "mask_update.drop_fraction": 0.3,
    "mask_update.anneal": "cosine",
    "prune.begin_step": 2000,
    "prune.end_step": 30000,
    "prune.frequency_steps": 500,
    "prune.initial_sparsity": 0.0,
    "prune.exponent": 3.0,
    "prune.threshold_decay": 0.0,
    "train.seed": 0,
}


class Run:
    """A network in training. `settings` are those of the program, by dotted key."""

    def __init__(self, method, settings, network):
        self.settings = DEFAULTS | settings
        averaged = "-averaged" if self.settings["method.gradient_batches"] > 1 else ""
        self.method = METHODS[method + averaged](self.settings)
        self.optimizer = OPTIMIZERS[self.settings["optimizer.name"]](self.settings)
        self.network, self.layers = network, network.layers
        self.state, self.observed, self.doubts = {}, {}, {}

    def sparsity(self, layer):
        """Share of zeros of a layer: its own, or the target (3.6, 4.4)."""
        target = self.settings["sparsity.target"]
        own = {"layer2": target * 0.9, "layer3": 0.0}.get(layer.name, target)
        return self.settings.get(f"sparsity.layers.{layer.name}", own)

    def start(self, parameters):
        """The state before the first iteration, from kernels and biases."""
        self.state = {name: array.copy() for name, array in parameters.items()}
        self.method.start(self)
        self.optimizer.start(self.state, list(parameters))
        self.state[STEP] = np.array(0)

    def gradient_step(self, gradients):
        s = self.settings
        boundaries, factors = s["learning_rate.boundaries"], s["learning_rate.factors"]
        rate = learning_rate(self.state[STEP], s["learning_rate.base"], boundaries, factors)
        for layer in self.layers:
            by_kernel, by_bias = gradients[layer.name]
            by_kernel = self.method.step_gradient(self, layer, by_kernel)
            self.optimizer.step(self.state, layer.kernel, by_kernel, rate, self.observed)
            if layer.bias:
                self.optimizer.step(self.state, layer.bias, by_bias, rate, self.observed)
        self.optimizer.finish(self.state)
        self.state[STEP] = self.state[STEP] + 1

    def iterate(self, observed=None):
        """One iteration; true when it updated masks. `observed` is the state after it of the run that is replayed."""
        self.observed, self.doubts = observed or {}, {}
        return self.method.iterate(self, self.network.gradients(self.state))

    def doubt(self, layer, scores, chosen, candidates):
        """Notes the candidates whose choice rounding may turn: nearly, but not exactly, as good as the last ones."""
        chosen, others = chosen & candidates, candidates & ~chosen
        if not chosen.any() or not others.any():
            return
        least, most, margin = scores[chosen].min(), scores[others].max(), SCORE_ERROR * np.abs(scores).max()
        near = chosen & (scores - most <= margin) & (scores != most)
        near |= others & (least - scores <= margin) & (scores != least)
        self.doubts[layer.mask] = self.doubtful(layer) | near

    def doubtful(self, layer):
        return self.doubts.get(layer.mask, np.zeros_like(self.state[layer.kernel], bool))
