"""The data of the examples: points in 32 dimensions, of 4 classes."""

import os
import sys

import numpy as np

BATCH, CLASSES = 16, 4


def examples(number: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    label = random.integers(0, CLASSES, number).astype(np.int32)
    centres = np.random.default_rng(0).normal(size=(CLASSES, 32))
    return {"x": (centres[label] + random.normal(size=(number, 32))).astype(np.float32), "label": label}


TRAIN, TEST = examples(512, 1), examples(128, 2)
BATCH_OF_ZEROS = {name: np.zeros((BATCH, *array.shape[1:]), array.dtype) for name, array in TRAIN.items()}


def folder() -> str:
    """The folder of the model, with the arrays in it."""
    path = sys.argv[1] if len(sys.argv) > 1 else "."
    os.makedirs(path, exist_ok=True)
    parts = {"train": TRAIN, "test": TEST}
    arrays = {f"{part}/{name}": array for part, of in parts.items() for name, array in of.items()}
    np.savez(os.path.join(path, "arrays.npz"), **arrays)
    return path


def run() -> str | None:
    """The run folder, if it is given."""
    return sys.argv[2] if len(sys.argv) > 2 else None
