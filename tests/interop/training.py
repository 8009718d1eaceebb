"""Replays training in NumPy float32 and compares it with a run's checkpoints: training.py RUN PARAMETERS.

The run saved every iteration, and its batch is the whole training set, so the order of examples does not matter. Its
drop scores carry no noise. The state before the first iteration comes from `start`, a static run without learning rate.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
from network import LAYERS, gradients, load, names, read_split, scaled

F = np.float32
TOLERANCE = 1e-5


class Twin:
    """State and counters of a run, and how they change."""

    def __init__(self, start, recipe, data):
        self.state = {name: array.copy() for name, array in start.items() if not name.endswith(("/Momentum", "_step"))}
        kernels_and_biases = [name for layer in LAYERS for name in names(self.state, layer)]
        self.slots = {name: np.zeros_like(self.state[name]) for name in kernels_and_biases}
        self.recipe = recipe
        self.step, self.last = 0, -recipe["frequency"]
        pixels, labels = read_split(data, "train")
        self.images, self.labels = scaled(pixels), labels

    def learning_rate(self):
        after = self.step > self.recipe["boundary"]
        return F(self.recipe["rate"] * (self.recipe["factor"] if after else 1.0))

    def is_update(self):
        r = self.recipe
        return r["begin"] <= self.step <= r["end"] and self.last + r["frequency"] <= self.step

    def drop_fraction(self):
        span = self.recipe["end"] - self.recipe["begin"]
        return F(self.recipe["drop"] * 0.5 * (1 + math.cos(math.pi * min(self.step, span) / span)))

    def gradient_step(self, found):
        rate, m, decay = self.learning_rate(), F(0.9), F(self.recipe["decay"])
        for layer in LAYERS:
            kernel, bias = names(self.state, layer)
            mask = self.state.get(f"{layer}/mask", np.ones((), bool))
            by_kernel = np.where(mask, found[layer][0], F(0)) + decay * self.state[kernel]
            for name, g in ((kernel, by_kernel), (bias, found[layer][1])):
                self.slots[name] = m * self.slots[name] + g
                self.state[name] = self.state[name] - rate * (g + m * self.slots[name])
        self.step += 1

    def sparse_layers(self):
        return [layer for layer in LAYERS if not self.state[f"{layer}/mask"].all()]

    def mask_update(self, found, adopted):
        """`adopted` has the masks to take where growth is random, and is checked against what growth may do."""
        for layer in self.sparse_layers():
            kernel, mask = f"{layer}/weights", self.state[f"{layer}/mask"]
            ones = int(mask.sum())
            pruned = int(F(ones) * self.drop_fraction())
            order = np.argsort(-np.abs(np.where(mask, self.state[kernel], F(0))).ravel(), kind="stable")
            kept = np.zeros(mask.size, bool)
            kept[order[: ones - pruned]] = True
            if self.recipe["method"] == "rigl":
                score = np.abs(found[layer][0]).ravel()
                lifted = np.where(kept, score.min() - 1, score)
                after = kept.copy()
                after[np.argsort(-lifted, kind="stable")[:pruned]] = True
            else:
                after = adopted[f"{layer}/mask"].ravel()
                assert after.sum() == ones and after[kept].all()
                # Random growth among 99 % of the entries hardly takes back what was just dropped.
                assert (after & ~mask.ravel()).sum() > pruned * 0.8
            assert after.sum() == ones
            after = after.reshape(mask.shape)
            # Not what was kept: among equal scores an inactive entry may be, and then is not new (the noise quirk of 2.3).
            new = after & ~kept.reshape(mask.shape) & ~mask
            self.state[kernel] = np.where(new, F(0), self.state[kernel])
            self.slots[kernel] = np.where(new, F(0), self.slots[kernel])
            self.state[f"{layer}/mask"] = after
        self.last = self.step

    def iterate(self, adopted):
        """One iteration; true when it updated masks."""
        found = gradients(self.state, self.images, self.labels)
        method = self.recipe["method"]
        if method == "rigl" and self.is_update():
            self.mask_update(found, adopted)
            return True
        self.gradient_step(found)
        if method == "set" and self.is_update():
            self.mask_update(found, adopted)
            return True
        return False

    def compare(self, saved, iteration):
        """The largest error of any array, relative to its largest entry. Masks and counters must be equal."""
        assert saved["global_step"] == self.step, (iteration, saved["global_step"], self.step)
        if self.recipe["method"] in ("rigl", "set"):
            assert saved["last_mask_update_step"] == self.last, iteration
        ours = self.state | {f"{name}/Momentum": slot for name, slot in self.slots.items()}
        assert set(ours) == {name for name in saved if not name.endswith("_step")}
        worst = 0.0
        for name, array in ours.items():
            if name.endswith("/mask"):
                differing = int((saved[name] != array).sum())
                assert differing == 0, f"{name} differs in {differing} entries after {iteration} iterations"
                continue
            assert array.dtype == np.float32
            error = np.abs(saved[name] - array).max() / max(np.abs(array).max(), 1e-30)
            assert error < TOLERANCE, f"{name} is off by {error:.1e} after {iteration} iterations"
            worst = max(worst, float(error))
        return worst


def main():
    run, recipe = Path(sys.argv[1]), json.loads(sys.argv[2])
    twin = Twin(load(recipe["start"])[0], recipe, recipe["data"])
    updates, moved, worst = [], 0, 0.0
    for iteration in range(1, recipe["iterations"] + 1):
        saved, _ = load(run / f"ckpt-{iteration}.safetensors")
        before = twin.state
        twin.state = dict(before)
        if twin.iterate(saved):
            updates.append(iteration)
            moved += int((before["layer1/mask"] != twin.state["layer1/mask"]).sum())
        worst = max(worst, twin.compare(saved, iteration))
    print(json.dumps({"updates": updates, "moved": moved, "worst": worst, "step": twin.step}))


main()
