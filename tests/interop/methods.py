"""The sparse training methods, one class each, written from the reference alone (1.1, 1.2, 2.2-2.9, 2.11), and beyond it
from their papers: GraSP (arXiv 2002.07376), ITOP (arXiv 2102.02887), and gradients averaged over batches for growth.

A method gets a run (`training.Run`) and the batch's gradients, and decides what an iteration does: a gradient step, a
mask update, or both. Drop scores carry no noise. Random growth cannot be replayed: it is taken from what was observed.
"""

import math
import re

import numpy as np
from schedules import drop_fraction, is_due, pruning_sparsity

F = np.float32
STEP, LAST = "global_step", "last_mask_update_step"


def n_zeros(n, sparsity):
    """Zeros of a layer of `n` weights."""
    return math.floor(sparsity * n)


def random_mask(shape, sparsity, generator):
    """Zeros first, then shuffled in place by NumPy's legacy generator."""
    flat = np.ones(math.prod(shape))
    flat[: n_zeros(flat.size, sparsity)] = 0
    generator.shuffle(flat)
    return flat.reshape(shape) == 1


def top(scores, k):
    """Marks the `k` largest by a full descending sort; among equals the lower index comes first."""
    chosen = np.zeros(scores.size, bool)
    chosen[np.argsort(-scores, axis=None, kind="stable")[:k]] = True
    return chosen.reshape(scores.shape)


class Dense:
    """No masks, nothing but gradient steps."""

    masked = False

    def __init__(self, settings):
        self.settings = settings

    def start(self, run):
        """Adds the method's own arrays to the state before the first iteration."""

    def step_gradient(self, run, layer, gradient):
        """The gradient that the optimizer gets for a kernel: by the masked kernel, masked itself and with L2."""
        mask = run.state.get(layer.mask, True)
        return np.where(mask, gradient, F(0)) + F(self.settings["optimizer.weight_decay"]) * run.state[layer.kernel]

    def iterate(self, run, gradients):
        """One iteration; true when it updated masks. `gradients` by layer: of the masked kernel, and of the bias."""
        run.gradient_step(gradients)
        return False


class Scratch(Dense):
    """Random masks that stay (1.2)."""

    masked = True

    def start(self, run):
        generator = np.random.RandomState(self.settings["train.seed"])
        for layer in run.layers:
            shape = run.state[layer.kernel].shape
            run.state[layer.mask] = random_mask(shape, run.sparsity(layer), generator)


class Set(Scratch):
    """Replaces the weakest connections by random ones after the step, at the incremented global step (2.4)."""

    def start(self, run):
        super().start(run)
        run.state[LAST] = np.array(-self.settings["mask_update.frequency_steps"])

    def iterate(self, run, gradients):
        run.gradient_step(gradients)
        due = self.is_due(run)
        if due:
            self.update(run, gradients)
        return due

    def span(self):
        return self.settings["mask_update.begin_step"], self.settings["mask_update.end_step"]

    def is_due(self, run):
        return is_due(run.state[STEP], run.state[LAST], *self.span(), self.settings["mask_update.frequency_steps"])

    def update(self, run, gradients):
        drop, anneal = self.settings["mask_update.drop_fraction"], self.settings["mask_update.anneal"]
        fraction = drop_fraction(int(run.state[STEP]), *self.span(), drop, anneal)
        for layer in run.layers:
            self.update_layer(run, layer, gradients[layer.name][0], fraction)
        run.state[LAST] = run.state[STEP]

    def update_layer(self, run, layer, gradient, fraction):
        weights, mask = run.state[layer.kernel], run.state[layer.mask]
        ones = int(mask.sum())
        pruned = int(F(ones) * fraction)
        drop_scores = np.abs(np.where(mask, weights, F(0)))
        kept = top(drop_scores, ones - pruned)
        run.doubt(layer, drop_scores, kept, np.ones_like(kept))
        kept, grown = self.grow(run, layer, gradient, kept, pruned)
        assert not (kept & grown).any() and (kept | grown).sum() == ones
        new = self.new(grown, mask)
        run.state[layer.kernel] = np.where(new, self.grow_tensor(gradient), weights)
        for slot in run.optimizer.slots(layer.kernel):
            run.state[slot] = np.where(new, self.slot_value(gradient), run.state[slot])
        run.state[layer.mask] = kept | grown

    def grow(self, run, layer, gradient, kept, pruned):
        """Masks of kept and of grown entries: as observed, if those can be a uniform draw from the entries not kept."""
        after, mask = run.observed[layer.mask], run.state[layer.mask]
        assert after[kept & ~run.doubtful(layer)].all() and after.sum() == mask.sum()
        kept = kept & after
        grown = after & ~kept
        free = mask.size - kept.sum()
        inactive = np.sum(~mask & ~kept) / max(free, 1)
        expected, spread = pruned * inactive, math.sqrt(pruned * inactive * (1 - inactive))
        assert abs((grown & ~mask).sum() - expected) <= 6 * spread + 1e-9, (expected, spread)
        return kept, grown

    def new(self, grown, mask):
        """Connections to re-initialise. One that is dropped and grown again at once keeps its weight and slots."""
        return grown & ~mask

    def grow_tensor(self, gradient):
        """Weights of new connections; only those that are not random."""
        name, divisor = re.fullmatch(r"([a-z_]*[a-z])(?:_([0-9.]+))?", self.settings["method.grow_init"]).groups()
        divisor = F(divisor or 1)
        return {"zeros": F(0), "grad_scale": gradient / divisor, "grad_sign": np.sign(gradient) / divisor}[name]

    def slot_value(self, gradient):
        return F(0)


class Scored(Set):
    """Grows by scores: kept entries are put below all others."""

    def scores(self, run, layer, gradient):
        raise NotImplementedError

    def grow(self, run, layer, gradient, kept, pruned):
        scores = self.scores(run, layer, gradient)
        grown = top(np.where(kept, scores.min() - 1, scores), pruned)
        run.doubt(layer, scores, grown, ~kept)
        return kept, grown


class Static(Scored):
    """Dropped connections grow again, re-initialised, in dense layers too (2.6)."""

    def scores(self, run, layer, gradient):
        return run.state[layer.mask].astype(F)

    def new(self, grown, mask):
        return grown


class Snfs(Scored):
    """Grows where the averaged dense gradient is largest; the average comes before the step (2.5)."""

    def start(self, run):
        super().start(run)
        for layer in run.layers:
            run.state[self.average(layer)] = np.zeros_like(run.state[layer.kernel])

    def average(self, layer):
        return f"{layer.kernel}/ExponentialMovingAverage"

    def iterate(self, run, gradients):
        m = self.settings["method.ema_momentum"]
        for layer in run.layers:
            name = self.average(layer)
            run.state[name] = F(m) * run.state[name] + F(1 - m) * gradients[layer.name][0]
        return super().iterate(run, gradients)

    def scores(self, run, layer, gradient):
        return np.abs(run.state[self.average(layer)])


class Rigl(Scored):
    """Grows where the dense gradient is largest, in the place of a gradient step (2.3)."""

    def iterate(self, run, gradients):
        due = self.is_due(run)
        if due:
            self.update(run, gradients)
        else:
            run.gradient_step(gradients)
        return due

    def scores(self, run, layer, gradient):
        return np.abs(gradient)

    def slot_value(self, gradient):
        return gradient * F(self.settings["method.initial_accumulator_scale"])


class RiglAveraged(Rigl):
    """RigL that grows by the mean gradient of the last batches up to the update's own, or of as many as there were."""

    def start(self, run):
        super().start(run)
        self.iteration = 0
        for layer in run.layers:
            run.state[self.average(layer)] = np.zeros_like(run.state[layer.kernel])

    def average(self, layer):
        return f"{layer.kernel}/GradientAverage"

    def iterations_to_update(self, run):
        """How many iterations lie before the next one that updates masks; `None` when there is none."""
        begin, end = self.span()
        due = max(run.state[STEP], begin, run.state[LAST] + self.settings["mask_update.frequency_steps"])
        return int(due - run.state[STEP]) if due <= end or end < 0 else None

    def iterate(self, run, gradients):
        left, batches = self.iterations_to_update(run), self.settings["method.gradient_batches"]
        if left is not None and left < batches:
            update = self.iteration + left
            first = max(update - batches + 1, 0)
            for layer in run.layers:
                name = self.average(layer)
                before = run.state[name] if self.iteration > first else F(0)
                run.state[name] = before + gradients[layer.name][0] * F(1 / (update - first + 1))
        self.iteration += 1
        return super().iterate(run, gradients)

    def update_layer(self, run, layer, gradient, fraction):
        super().update_layer(run, layer, run.state[self.average(layer)], fraction)


class RiglItop(Rigl):
    """RigL that remembers which weights were ever active."""

    def start(self, run):
        super().start(run)
        for layer in run.layers:
            run.state[f"{layer.name}/explored"] = run.state[layer.mask].copy()

    def update_layer(self, run, layer, gradient, fraction):
        super().update_layer(run, layer, gradient, fraction)
        name = f"{layer.name}/explored"
        # As observed, where rounding may have turned a choice.
        turned = run.doubtful(layer) & run.observed[layer.mask]
        run.state[name] = run.state[name] | (run.state[layer.mask] & ~run.doubtful(layer)) | turned


class RiglInverted(Rigl):
    """Grows where the dense gradient is smallest; new connections are 0 throughout (2.11)."""

    def scores(self, run, layer, gradient):
        return -np.abs(gradient)

    def grow_tensor(self, gradient):
        return F(0)

    def slot_value(self, gradient):
        return F(0)


class Full(Dense):
    """Masks that start as ones."""

    masked = True

    def start(self, run):
        for layer in run.layers:
            run.state[layer.mask] = np.ones_like(run.state[layer.kernel], bool)

    def keep_largest(self, run, layer, scores):
        """A mask with the layer's budget of ones."""
        mask = top(scores, scores.size - n_zeros(scores.size, run.sparsity(layer)))
        run.doubt(layer, scores, mask, np.ones_like(mask))
        run.state[layer.mask] = mask


class Snip(Full):
    """The first iteration chooses masks by `|g w|`, L2 included, and makes no step (2.7)."""

    def start(self, run):
        super().start(run)
        run.state["is_snipped"] = np.array(False)

    def iterate(self, run, gradients):
        if run.state[STEP] > 0 or run.state["is_snipped"]:
            return super().iterate(run, gradients)
        for layer in run.layers:
            gradient = self.step_gradient(run, layer, gradients[layer.name][0])
            self.keep_largest(run, layer, np.abs(gradient * run.state[layer.kernel]))
        run.state["is_snipped"] = np.array(True)
        return True


class Grasp(Snip):
    """The first iteration removes the weights with the largest `-w Hg`, over all sparse layers together.

    H and g are those of the cross entropy of logits divided by the temperature, without L2.
    """

    # Relative to the largest score: of a second derivative in float32.
    ERROR = 1e-5

    def iterate(self, run, gradients):
        if run.state[STEP] > 0 or run.state["is_snipped"]:
            return Dense.iterate(self, run, gradients)
        products = run.network.hessian_gradients(run.state, self.settings["method.temperature"])
        sparse = [layer for layer in run.layers if run.sparsity(layer) > 0]
        scores = [-run.state[layer.kernel] * products[layer.name] for layer in sparse]
        keep = sum(score.size - n_zeros(score.size, run.sparsity(layer)) for score, layer in zip(scores, sparse))
        kept = top(-np.concatenate([score.ravel() for score in scores]), keep)
        everything = np.concatenate([score.ravel() for score in scores])
        limit, margin = everything[kept].max(), self.ERROR * np.abs(everything).max()
        for layer, score in zip(sparse, scores):
            mask, kept = kept[: score.size].reshape(score.shape), kept[score.size :]
            run.state[layer.mask] = mask
            run.doubts[layer.mask] = np.abs(score - limit) <= margin
        run.state["is_snipped"] = np.array(True)
        return True


class Dnw(Full):
    """Raw weights take the dense gradient, without L2; after every step masks keep the largest of them (2.8)."""

    def step_gradient(self, run, layer, gradient):
        return gradient

    def iterate(self, run, gradients):
        run.gradient_step(gradients)
        for layer in run.layers:
            self.keep_largest(run, layer, np.abs(run.state[layer.kernel]))
        return True


class Prune(Full):
    """Gradual magnitude pruning, after the step (2.9).

    The original does not say whether it reads the global step before or after the step's increment; here it is after.
    """

    LAST = "model_pruning/last_mask_update_step"

    def start(self, run):
        super().start(run)
        run.state[self.LAST] = np.array(0, np.int32)
        run.state.update({f"{layer.name}/threshold": np.array(0, F) for layer in run.layers})

    def iterate(self, run, gradients):
        run.gradient_step(gradients)
        begin, end = self.settings["prune.begin_step"], self.settings["prune.end_step"]
        due = is_due(run.state[STEP], run.state[self.LAST], begin, end, self.settings["prune.frequency_steps"])
        if due:
            initial, exponent = self.settings["prune.initial_sparsity"], self.settings["prune.exponent"]
            target = self.settings["sparsity.target"]
            sparsity = pruning_sparsity(int(run.state[STEP]), begin, end, target, initial, exponent)
            for layer in run.layers:
                self.prune_layer(run, layer, sparsity * (F(run.sparsity(layer)) / F(target)))
            run.state[self.LAST] = run.state[STEP].astype(np.int32)
        return due

    def prune_layer(self, run, layer, sparsity):
        size = np.abs(run.state[layer.kernel])
        k = int(np.rint(F(size.size) * (F(1) - sparsity)))
        decay = self.settings["prune.threshold_decay"]
        threshold = np.sort(size, axis=None)[size.size - k] * F(1 - decay)
        threshold += run.state[f"{layer.name}/threshold"] * F(decay)
        mask = size >= threshold
        run.doubt(layer, size, mask, np.ones_like(mask))
        run.state[layer.mask], run.state[f"{layer.name}/threshold"] = mask, np.array(threshold)


METHODS = {
    "dense": Dense,
    "scratch": Scratch,
    "static": Static,
    "set": Set,
    "snfs": Snfs,
    "rigl": Rigl,
    "rigl-inverted": RiglInverted,
    "rigl-itop": RiglItop,
    "rigl-averaged": RiglAveraged,
    "grasp": Grasp,
    "snip": Snip,
    "dnw": Dnw,
    "prune": Prune,
}
