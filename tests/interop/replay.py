"""Compares a run, iteration by iteration, with what NumPy makes of the same start: replay.py RUN PARAMETERS.

The run saved every iteration, and its batch is the whole training set, so the order of examples does not matter. Its
first masks are NumPy's. Every iteration starts from what the run saved before it, so that errors do not add up: the
chain is as long as the run, and each link is held to one iteration's rounding.
"""

import json
import sys
from pathlib import Path

import numpy as np
from network import LAYERS, Mnist, load, names
from optimizers import ROUNDING
from training import Run

# Choices that rounding may turn in a whole run.
MOST_TURNED = 4


def turned(run, saved):
    """By kernel, the mask entries that differ: none but what rounding may have turned."""
    found = {}
    for layer in run.layers:
        if layer.mask:
            differs = saved[layer.mask] != run.state[layer.mask]
            wrong = int((differs & ~run.doubtful(layer)).sum())
            assert wrong == 0, f"{layer.mask} differs in {wrong} entries"
            assert saved[layer.mask].sum() == run.state[layer.mask].sum()
            found[layer.kernel] = differs
    return found


def errors(run, saved, differing):
    """By float array, its largest relative error. Kernels and their slots are not compared in `differing` entries."""
    found = {}
    for name, array in run.state.items():
        if array.dtype == np.float32:
            error = np.abs(saved[name] - array)
            kernel = next((kernel for kernel in differing if f"{name}/".startswith(f"{kernel}/")), None)
            error = np.where(differing[kernel], 0, error) if kernel else error
            found[name] = float(error.max() / max(np.abs(array).max(), 1e-30))
    return found


def compare(run, saved):
    """The largest error, and the number of mask entries that differ. Names, types, counters and flags are equal."""
    assert set(run.state) == set(saved), sorted(set(run.state) ^ set(saved))
    for name, array in run.state.items():
        assert saved[name].dtype == array.dtype, (name, saved[name].dtype, array.dtype)
        counts = array.ndim == 0 and array.dtype != np.float32
        assert not counts or saved[name] == array, f"{name} is {saved[name]}, expected {array}"
    differing = turned(run, saved)
    found = errors(run, saved, differing)
    wrong = {name: error for name, error in found.items() if not error < ROUNDING}
    assert not wrong, f"relative errors are {wrong}"
    return max(found.values()), sum(int(differs.sum()) for differs in differing.values())


def first_parameters(path):
    """Kernels and biases of a checkpoint."""
    saved, _ = load(path)
    return {name: saved[name] for layer in LAYERS for name in names(saved, layer)}


def main():
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    parameters = first_parameters(options["start"])
    run = Run(options["method"], options["settings"], Mnist(parameters, options["method"] != "dense", options["data"]))
    run.start(parameters)
    chosen = folder / "ckpt-0.safetensors"
    if chosen.exists():
        run.state, _ = load(chosen)
    updates, moved, worst, all_turned = [], 0, 0.0, 0
    for iteration in range(1, options["iterations"] + 1):
        saved, _ = load(folder / f"ckpt-{iteration}.safetensors")
        before = dict(run.state)
        if run.iterate(saved):
            updates.append(iteration)
        moved += sum(int((before[layer.mask] != saved[layer.mask]).sum()) for layer in run.layers if layer.mask)
        try:
            error, differing = compare(run, saved)
        except AssertionError as wrong:
            raise AssertionError(f"after {iteration} iterations: {wrong}") from None
        worst, all_turned = max(worst, error), all_turned + differing
        run.state = saved
    assert all_turned <= MOST_TURNED, all_turned
    print(json.dumps({"updates": updates, "moved": moved, "worst": worst, "turned": all_turned}))


if __name__ == "__main__":
    main()
