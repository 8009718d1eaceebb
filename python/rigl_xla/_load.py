"""Weights, masks and state of checkpoints as pytrees."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from . import _file
from ._tree import named_leaves, rebuilt

Source = str | os.PathLike[str]


def load(checkpoint: Source, like: Any = None, *, masked: bool = True, model: Source | None = None) -> Any:
    """The weights of a checkpoint, or of the newest one in a run folder, as the pytree that was exported.

    Args:
      checkpoint: a file `ckpt-*.safetensors` or a run folder.
      like: a pytree of that structure. Without it, dictionaries and lists are built; other containers become
        dictionaries.
      masked: whether weights without a connection are zero. Otherwise they have their last value.
      model: the model file, where it is not in the run folder.
    """
    arrays, manifest = _read(checkpoint, model)
    zeroed = {}
    for leaf in manifest["params"]:
        array = _array(arrays, leaf["name"], checkpoint)
        mask = arrays.get(f"{leaf['name']}/mask")
        if masked and mask is not None:
            array = np.where(mask, array, np.zeros_like(array))
        zeroed[leaf["name"]] = np.asarray(array).astype(_dtype(leaf["dtype"]))
    return _tree(manifest["params"], zeroed, like, "params")


def load_masks(checkpoint: Source, like: Any = None, *, model: Source | None = None) -> Any:
    """The masks of a checkpoint as a pytree of booleans; leaves without a mask are all true."""
    arrays, manifest = _read(checkpoint, model)
    masks = {}
    for leaf in manifest["params"]:
        mask = arrays.get(f"{leaf['name']}/mask")
        masks[leaf["name"]] = np.ones(leaf["shape"], bool) if mask is None else np.asarray(mask).astype(bool)
    return _tree(manifest["params"], masks, like, "params")


def load_state(checkpoint: Source, like: Any = None, *, model: Source | None = None) -> Any:
    """The state of a checkpoint, such as batch statistics, as a pytree."""
    arrays, manifest = _read(checkpoint, model)
    states = {}
    for leaf in manifest["state"]:
        array = _array(arrays, f"state/{leaf['name']}", checkpoint)
        states[leaf["name"]] = np.asarray(array).astype(_dtype(leaf["dtype"]))
    return _tree(manifest["state"], states, like, "state")


def _dtype(name: str) -> np.dtype:
    return np.dtype(_file.TYPES["BF16"] if name == "bfloat16" else name)


def _array(arrays: dict[str, np.ndarray], name: str, path: Source) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"{path}: has no array {name!r}")
    return arrays[name]


def _read(checkpoint: Source, model: Source | None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    path = Path(checkpoint)
    if path.is_dir():
        numbered = [(int(m[1]), p) for p in path.iterdir() if (m := re.fullmatch(r"ckpt-(\d+)\.safetensors", p.name))]
        if not numbered:
            raise ValueError(f"{path}: no checkpoint (ckpt-*.safetensors) in the folder")
        path = max(numbered)[1]
    model = Path(model) if model is not None else path.with_name("model.rigl")
    if not model.is_file():
        raise ValueError(f"{model}: no such file; give the model file with model=")
    manifest = json.loads(_file.load(model)["manifest"].tobytes())
    return _file.load(path), manifest


def _tree(leaves: list[dict[str, Any]], arrays: dict[str, np.ndarray], like: Any, what: str) -> Any:
    if like is None:
        return rebuilt([(leaf["path"], arrays[leaf["name"]]) for leaf in leaves]) if leaves else None
    names = [name for name, _, _ in named_leaves(like, what)]
    known = [leaf["name"] for leaf in leaves]
    if names != known:
        missing = sorted(set(known) ^ set(names))
        raise ValueError(f"like has other leaves than the model: {', '.join(missing[:5])}")
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), [arrays[name] for name in names])
