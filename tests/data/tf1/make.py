"""Writes the checkpoints of this folder with TensorFlow 1.15 (Python 3.7, packages of scripts/bench/requirements-tf1.txt).

    python tests/data/tf1/make.py

Values are simple functions of the index, which the tests know too.
"""
import json
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import numpy as np
import tensorflow as tf

HERE = os.path.dirname(os.path.abspath(__file__))
assert tf.__version__.startswith("1.15."), tf.__version__


def path(*parts):
    target = os.path.join(HERE, *parts)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    return target


def wave(shape, scale):
    """Numbers that no rounding touches: multiples of 1/64."""
    n = int(np.prod(shape))
    return (((np.arange(n) * 37 % 101) - 50) / 64.0 * scale).astype(np.float32).reshape(shape)


def save(write, **options):
    """Initialises and saves in a graph of its own: `write` builds the variables and gives the prefix."""
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"CPU": 2})) as session:
        prefix = write()
        session.run(tf.global_variables_initializer())
        tf.train.Saver(save_relative_paths=True, **options).save(session, prefix, write_meta_graph=False)


def mnist():
    """The masked network under the original's names, with small hidden layers, and its logits for one image."""
    sizes = [784, 4, 3, 10]
    x = np.arange(784, dtype=np.float32)[None] % 3 / 2
    for i in range(3):
        shape, layer = sizes[i : i + 2], "layer%d" % (i + 1)
        weights = wave(shape, 0.25)
        mask = (np.arange(weights.size).reshape(shape) % 4 == i).astype(np.float32)
        biases = wave(shape[1:], 1)
        for name, value in [
            ("weights", weights), ("mask", mask), ("threshold", np.float32(0)), ("biases", biases),
            ("weights/Momentum", 0 * weights + 0.5), ("biases/Momentum", 0 * biases - 0.5),
        ]:  # fmt: skip
            tf.get_variable("%s/%s" % (layer, name), initializer=value)
        x = x @ (weights * mask) + biases
        x = np.maximum(x, 0) if i < 2 else x
    tf.get_variable("global_step", initializer=np.int64(32000))
    tf.get_variable("last_mask_update_step", initializer=np.int64(31900))
    with open(path("mnist", "logits.json"), "w") as file:
        json.dump([float(logit) for logit in x[0]], file)
    return path("mnist", "model.ckpt-32000")


DTYPES = [
    "float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "bool",
]  # fmt: skip


def sharded():
    """Variables on two devices, two of them partitioned; a string among them."""
    for i in range(4):
        with tf.device("/cpu:%d" % (i % 2)):
            tf.get_variable("variable%d" % i, initializer=np.arange(6, dtype=np.float32) + i)
    tf.get_variable("string", initializer=tf.constant(["one", "three"]))
    for name, axis in [("rows", 0), ("columns", 1)]:
        values = np.arange(30, dtype=np.float32).reshape(5, 6)
        partitioner = tf.fixed_size_partitioner(3, axis=axis)
        tf.get_variable(
            name, [5, 6], partitioner=partitioner,
            initializer=lambda shape, dtype, partition_info: tf.slice(values, partition_info.var_offset, shape),
        )  # fmt: skip
    return path("sharded", "model.ckpt")


def merged(name, *pieces):
    """A bundle of a file per piece, each a list of (tensor, slice, value), by the operations that savers use."""
    prefixes = [path(name, "piece%d" % i) for i in range(len(pieces))]
    with tf.Graph().as_default(), tf.Session() as session:
        for prefix, piece in zip(prefixes, pieces):
            names, slices, values = zip(*piece)
            session.run(tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=slices, tensors=values))
        session.run(tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=prefixes, destination_prefix=path(name, "model.ckpt")))


def types():
    """Every type: the values 0 to 5, or whether they are odd; and an array without elements."""
    values = np.arange(6).reshape(2, 3)
    pieces = [[], [("empty", "", np.zeros([0, 4], np.float32))]]
    for i, dtype in enumerate(DTYPES):
        kind = tf.as_dtype(dtype).as_numpy_dtype
        pieces[i % 2].append((dtype, "", (values % 2 if dtype == "bool" else values).astype(kind)))
    merged("types", *pieces)


def grid():
    """Six parts of a matrix, and two of a vector with long numbers in their keys."""
    matrix, vector = np.arange(30, dtype=np.int32).reshape(5, 6), np.arange(300, dtype=np.int16)
    pieces = [[], [("whole", "", np.float32(1.5))]]
    for i, (top, height) in enumerate([(0, 2), (2, 3)]):
        for left, width in [(0, 1), (1, 2), (3, 3)]:
            part = "5 6 %d,%d:%d,%d" % (top, height, left, width)
            pieces[i].append(("grid", part, matrix[top : top + height, left : left + width]))
        pieces[i].append(("vector", "300 %d,150" % (150 * i), vector[150 * i : 150 * (i + 1)]))
    merged("grid", *pieces)


def complex_numbers():
    tf.get_variable("fourier", initializer=np.array([1 + 2j], np.complex64))
    tf.get_variable("weights", initializer=np.float32(1))
    return path("complex", "model.ckpt")


def old():
    """The first version of the format: tables that hold the tensors too."""
    tf.get_variable("weights", initializer=np.zeros([8, 8], np.float32))
    tf.get_variable("biases", initializer=np.arange(8, dtype=np.float32))
    return path("v1", "model.ckpt-5")


save(mnist)
save(sharded, sharded=True)
types()
grid()
save(complex_numbers)
save(old, write_version=tf.train.SaverDef.V1)
