"""Files of named arrays in safetensors format, written and read with numpy alone."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes  # a dependency of jax
import numpy as np

TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
}
_NAMES = {np.dtype(dtype): name for name, dtype in TYPES.items()}


def save(path: str | os.PathLike[str], arrays: dict[str, np.ndarray]) -> None:
    """Writes the arrays, replacing the file in one step."""
    # Widest elements first, so that each array is aligned.
    ordered = sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    header, end = {}, 0
    for name, array in ordered:
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = Path(path)
    file = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)
    try:
        with file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, array in ordered:
                file.write(np.ascontiguousarray(array).tobytes())
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except BaseException:
        os.unlink(file.name)
        raise


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads every array; maps the file into memory."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{path}: not a safetensors file, or truncated")
        header = json.loads(file.read(length))
    data = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else np.empty(0, np.uint8)
    arrays = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        if info["dtype"] not in TYPES:
            raise ValueError(f"{path}: {name!r} has elements of type {info['dtype']}")
        begin, end = info["data_offsets"]
        dtype = np.dtype(TYPES[info["dtype"]])
        if end > len(data) or end - begin != dtype.itemsize * int(np.prod(info["shape"], dtype=np.int64)):
            raise ValueError(f"{path}: {name!r} does not have the size of its shape; the file is damaged or truncated")
        arrays[name] = data[begin:end].view(dtype).reshape(info["shape"])
    return arrays
