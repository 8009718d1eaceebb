"""MNIST from IDX files (plain or gzip), for the twin and the peers. Runs on Python 3.7 and later."""
import gzip
import os
import struct

import numpy as np

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
DEFAULT_DIR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "target", "bench", "mnist")


def read_idx(path):
    """The array of one IDX file of unsigned bytes; `path` or `path.gz`."""
    name = path if os.path.exists(path) else path + ".gz"
    with (gzip.open if name.endswith(".gz") else open)(name, "rb") as file:
        raw = file.read()
    zero, kind, rank = struct.unpack_from(">HBB", raw)
    if zero != 0 or kind != 8:
        raise ValueError("%s: magic %r, expected unsigned bytes (0, 8)" % (name, (zero, kind)))
    dims = struct.unpack_from(">%dI" % rank, raw, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(dims)


def load(folder, split):
    """Images f32[n, 784] in [0, 1] and labels i32[n] (reference 4.4)."""
    images, labels = (read_idx(os.path.join(folder, name)) for name in FILES[split])
    return images.reshape(len(images), -1).astype(np.float32) * np.float32(1 / 255), labels.astype(np.int32)
