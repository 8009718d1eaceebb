"""Reads run folders: metrics, masks and weights at any iteration, topology.

    from rigl_xla import Run

    run = Run("runs/mnist-rigl-0.98-seed0")
    run.metrics                     # a data frame, if pandas is installed
    run.masks(3000)["layer1"]       # NumPy, as it was after 3000 iterations
    run.topology()                  # what each mask update moved

Nothing is written. Needs NumPy; `predict` also needs the program `rigl-xla`.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Iterator

import numpy as np

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

__all__ = ["Run", "Update", "journal"]

_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "U64": "<u8",
    "U32": "<u4",
    "U8": "u1",
    "BOOL": "?",
}


class Update:
    """A mask update: `iteration`, `step`, `kind`, and by layer the flat indices `dropped` and `grown`."""

    KINDS = ("start", "update", "merged")

    def __init__(self, iteration: int, step: int, kind: str, dropped: dict, grown: dict):
        self.iteration, self.step, self.kind = iteration, step, kind
        self.dropped, self.grown = dropped, grown

    def __repr__(self) -> str:
        moved = sum(map(len, self.dropped.values())), sum(map(len, self.grown.values()))
        return f"Update(iteration={self.iteration}, step={self.step}, kind={self.kind!r}, dropped={moved[0]}, grown={moved[1]})"


def journal(path: str | Path) -> tuple[dict[str, tuple[int, ...]], Iterator[Update]]:
    """The shapes of the layers of a topology journal, and its updates. A record that is cut ends it."""
    records = _records(Path(path))
    first = next(records, None)
    if first is None:
        raise ValueError(f"{path}: empty, expected a topology journal")
    header = json.loads(first)
    if header.get("format") != "rigl-xla topology journal" or header["version"] > 1:
        raise ValueError(f"{path}: expected a topology journal of version 1")
    shapes = {layer["name"]: tuple(layer["shape"]) for layer in header["layers"]}
    return shapes, (_update(record, shapes) for record in records)


def _records(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while len(start := file.read(12)) == 12:
            length = int.from_bytes(start[:8], "little")
            record = file.read(length)
            if len(record) < length or len(file.read(4)) < 4:
                return
            yield record


def _update(record: bytes, shapes: dict) -> Update:
    iteration, step = (int.from_bytes(record[at : at + 8], "little", signed=True) for at in (0, 8))
    packed = np.frombuffer(record[17:], np.uint8)
    last = np.flatnonzero(packed < 128)
    first = np.append(0, last[:-1] + 1)
    shifts = 7 * (np.arange(len(packed)) - np.repeat(first, last - first + 1))
    numbers = np.add.reduceat((packed & 127).astype(np.int64) << shifts, first)
    changes: list[dict] = [{}, {}]
    at = 0
    for name in shapes:
        counts = numbers[at : at + 2]
        at += 2
        for count, indices in zip(counts, changes):
            indices[name] = np.cumsum(numbers[at : at + count] + 1) - 1
            at += count
    return Update(iteration, step, Update.KINDS[record[16]], *changes)


def _apply(update: Update, masks: dict[str, np.ndarray]) -> None:
    for name, mask in masks.items():
        mask.reshape(-1)[update.dropped[name]] = False
        mask.reshape(-1)[update.grown[name]] = True


class Run:
    """A run folder of rigl-xla, read-only."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / "config.toml"
        if not path.is_file():
            raise FileNotFoundError(f"{self.folder}: no run there, expected config.toml")
        #: The configuration, as nested dictionaries.
        self.config: dict[str, Any] = tomllib.loads(path.read_text())

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, nested values by dotted name, such as `eval.top1`."""
        found = []
        path = self.folder / "metrics.jsonl"
        for line in path.read_text().splitlines() if path.is_file() else ():
            try:
                found.append(_flat(json.loads(line)))
            except json.JSONDecodeError:
                continue  # cut by a kill
        return found

    @property
    def metrics(self):
        """The metrics as a pandas data frame, a line per launch or evaluation."""
        import pandas

        return pandas.DataFrame(self.records)

    @property
    def iterations(self) -> list[int]:
        """Iterations of the checkpoints, ascending."""
        names = (re.fullmatch(r"ckpt-(\d+)\.safetensors", path.name) for path in self.folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def arrays(self, iteration: int | None = None) -> dict[str, np.ndarray]:
        """Every array of a checkpoint by its name: weights, masks, optimizer slots. The newest, unless `iteration` is given."""
        return _safetensors(self._checkpoint(iteration))

    def weights(self, iteration: int | None = None) -> dict[str, np.ndarray]:
        """The kernels of the masked layers by name, zero where there is no connection, from a checkpoint."""
        arrays = self.arrays(iteration)
        scopes = [name[: -len("/mask")] for name in arrays if name.endswith("/mask")]
        kernel = lambda scope: next(arrays[f"{scope}/{name}"] for name in ("weights", "depthwise_weights") if f"{scope}/{name}" in arrays)
        return {scope: np.where(arrays[scope + "/mask"], kernel(scope), 0) for scope in scopes}

    def masks(self, iteration: int | None = None) -> dict[str, np.ndarray]:
        """The masks after `iteration` iterations, or the last ones, by layer; from the topology journal."""
        shapes, updates = journal(self.folder / "topology.journal")
        masks = {name: np.zeros(shape, bool) for name, shape in shapes.items()}
        found = False
        for update in updates:
            if iteration is not None and update.iteration > iteration:
                break
            _apply(update, masks)
            found = True
        if not found:
            raise ValueError(f"{self.folder}: no masks of iteration {iteration} or before")
        return masks

    def history(self) -> Iterator[tuple[Update, dict[str, np.ndarray]]]:
        """Each update with the masks after it. The arrays change in place: copy what you keep."""
        shapes, updates = journal(self.folder / "topology.journal")
        masks = {name: np.zeros(shape, bool) for name, shape in shapes.items()}
        for update in updates:
            _apply(update, masks)
            yield update, masks

    def topology(self) -> list[dict[str, Any]]:
        """For each update: iteration, step, and by layer the connections dropped, grown and present, and the share ever active."""
        ever: dict[str, np.ndarray] = {}
        rows = []
        for update, masks in self.history():
            row: dict[str, Any] = {"iteration": update.iteration, "step": update.step}
            for name, mask in masks.items():
                ever[name] = ever[name] | mask if name in ever else mask.copy()
                row[f"dropped.{name}"] = len(update.dropped[name])
                row[f"grown.{name}"] = len(update.grown[name])
                row[f"connections.{name}"] = int(mask.sum())
                row[f"ever_active.{name}"] = float(ever[name].mean())
            rows.append(row)
        return rows

    def predict(self, images: np.ndarray, iteration: int | None = None, program: str = "rigl-xla") -> np.ndarray:
        """Logits of images (u8 pixels, or f32 as the network takes them, channels last), computed by the program."""
        with tempfile.TemporaryDirectory() as folder:
            given, found = Path(folder) / "images.safetensors", Path(folder) / "logits.safetensors"
            _write(given, "images", np.ascontiguousarray(images))
            command = [program, "predict", "--checkpoint", self._checkpoint(iteration), "--input", given, "--output", found]
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr.strip())
            return _safetensors(found)["logits"].copy()

    def _checkpoint(self, iteration: int | None) -> Path:
        saved = self.iterations
        if not saved or iteration not in (None, *saved):
            raise ValueError(f"{self.folder}: no checkpoint of iteration {iteration}, expected one of {saved}")
        return self.folder / f"ckpt-{saved[-1] if iteration is None else iteration}.safetensors"


def _flat(value: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {prefix + key: inner})
    return flat


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    arrays = {}
    for name, array in header.items():
        begin, end = (start + offset for offset in array["data_offsets"])
        arrays[name] = np.frombuffer(data[begin:end], _TYPES[array["dtype"]]).reshape(array["shape"])
    return arrays


def _write(path: Path, name: str, array: np.ndarray) -> None:
    names = {np.dtype(code): tensor for tensor, code in _TYPES.items()}
    header = {name: {"dtype": names[array.dtype], "shape": array.shape, "data_offsets": [0, array.nbytes]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + array.tobytes())
