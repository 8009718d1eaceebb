"""Rules of the gradient step and the arrays they keep (reference 2.10; TensorFlow 1.15's Adam)."""

import numpy as np

F = np.float32
# Two correct float32 programs differ by less in one iteration, relative to an array's largest entry. Seen were 1.1e-6
# in what is made of gradients alone, 1.9e-6 in Adam's squares of them, and 2.3e-7 in other kernels.
ROUNDING = 4e-6


class Sgd:
    """`W <- W - lr g`."""

    SLOTS = ()

    def __init__(self, settings):
        self.momentum, self.nesterov = F(settings["optimizer.momentum"]), settings["optimizer.nesterov"]

    def slots(self, name):
        """Names of a parameter's slots."""
        return [f"{name}/{slot}" for slot in self.SLOTS]

    def start(self, state, names):
        """Adds the optimizer's arrays, for parameters of these names."""
        for name in names:
            state.update({slot: np.zeros_like(state[name]) for slot in self.slots(name)})

    def step(self, state, name, gradient, rate, observed):
        """Moves one parameter. `observed` are the slots after it in a run that is replayed, which may lack them."""
        state[name] = state[name] - rate * gradient

    def finish(self, state):
        """Called once all parameters have moved."""


class Momentum(Sgd):
    """`V <- m V + g`, then `W <- W - lr V`, or with Nesterov `W <- W - lr (g + m V)`."""

    SLOTS = ("Momentum",)

    def step(self, state, name, gradient, rate, observed):
        (slot,) = self.slots(name)
        velocity = self.momentum * state[slot] + gradient
        state[slot] = velocity
        state[name] = state[name] - rate * (gradient + self.momentum * velocity if self.nesterov else velocity)


class Adam(Sgd):
    """Adam as TensorFlow has it: epsilon is added to the root without bias correction; `1 - beta` is float32's.

    The quotient of the moments blows the rounding of small gradients up, so that it is taken of the observed moments
    where those are ours but for rounding.
    """

    SLOTS = ("Adam", "Adam_1")
    BETA1, BETA2, EPSILON = F(0.9), F(0.999), F(1e-8)

    def start(self, state, names):
        super().start(state, names)
        # One power ahead: the first step divides by 1 - beta.
        state.update({"beta1_power": np.array(self.BETA1), "beta2_power": np.array(self.BETA2)})

    def step(self, state, name, gradient, rate, observed):
        first, second = self.slots(name)
        state[first] = self.BETA1 * state[first] + (F(1) - self.BETA1) * gradient
        state[second] = self.BETA2 * state[second] + (F(1) - self.BETA2) * gradient * gradient
        rate = rate * np.sqrt(F(1) - state["beta2_power"]) / (F(1) - state["beta1_power"])
        mean, square = (settled(state[slot], observed.get(slot)) for slot in (first, second))
        state[name] = state[name] - rate * mean / (np.sqrt(square) + self.EPSILON)

    def finish(self, state):
        state["beta1_power"] = np.array(state["beta1_power"] * self.BETA1)
        state["beta2_power"] = np.array(state["beta2_power"] * self.BETA2)


def settled(ours, observed):
    """The observed array, except where it differs by more than rounding."""
    if observed is None:
        return ours
    return np.where(np.abs(observed - ours) <= ROUNDING * np.abs(ours).max(), observed, ours)


OPTIMIZERS = {"sgd": Sgd, "momentum": Momentum, "adam": Adam}
