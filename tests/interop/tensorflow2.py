"""TensorFlow 2 restores what `convert --to-tf` and our writer wrote, and writes what `convert` is to read.

    tensorflow2.py FOLDER PREFIX...

FOLDER holds `ours/model.ckpt` with the arrays of `ours.safetensors`, and `snappy.ckpt`, the same variables in a compressed
index, two shards and slices; and for each PREFIX, a checkpoint of TensorFlow 1.15, what was made of it. It gets `theirs/model.ckpt` in two shards with partitioned variables, `object/ckpt-1` of
`tf.train.Checkpoint`, and the values of both in `theirs.safetensors` and `object.safetensors`.
"""
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
from safetensors.numpy import load_file, save_file

folder = sys.argv[1]
v1 = tf.compat.v1


def path(*parts):
    return os.path.join(folder, *parts)


def restored(prefix, arrays):
    """A saver's values of variables of these shapes and types, masks as float32."""
    with tf.Graph().as_default(), v1.Session() as session:
        variables = {
            name: v1.get_variable(name, dtype=tf.float32 if name.endswith("/mask") else array.dtype, shape=array.shape)
            for name, array in arrays.items()
        }
        v1.train.Saver(variables).restore(session, prefix)
        return session.run(variables)


def compare(found, arrays):
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


ours = load_file(path("ours.safetensors"))
assert tf.train.latest_checkpoint(path("ours")) == path("ours", "model.ckpt")
compare(restored(path("ours", "model.ckpt"), ours), ours)
assert dict(tf.train.list_variables(path("ours"))) == {name: list(array.shape) for name, array in ours.items()}

# Read whole, through the table's look-ups; and in slices other than those it was written in.
reader = tf.train.load_checkpoint(path("snappy.ckpt"))
sliced = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
assert len(sliced) == 301
for i in range(300):
    np.testing.assert_array_equal(sliced["variable%d" % i], np.full([2, 3], i, np.float32))
np.testing.assert_array_equal(sliced["parts"], np.arange(100 * 70, dtype=np.int64).reshape(100, 70))
rows = tf.raw_ops.RestoreV2(
    prefix=path("snappy.ckpt"), tensor_names=["parts"], shape_and_slices=["100 70 68,5:10,60"], dtypes=[tf.int64]
)
np.testing.assert_array_equal(rows[0], sliced["parts"][68:73, 10:70])

for i, prefix in enumerate(sys.argv[2:]):
    reader = tf.train.load_checkpoint(prefix)
    names = reader.get_variable_to_shape_map()
    compare({name: reader.get_tensor(name) for name in names}, load_file(path("converted%d.safetensors" % i)))

with tf.Graph().as_default(), v1.Session(config=v1.ConfigProto(device_count={"CPU": 2})) as session:
    values = {"theirs/%s" % dtype: (np.arange(12).reshape(3, 4) % 2).astype(dtype) for dtype in [
        "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool",
    ]}  # fmt: skip
    for i, (name, value) in enumerate(values.items()):
        with tf.device("/cpu:%d" % (i % 2)):
            v1.get_variable(name, initializer=value, use_resource=True)
    for axis in range(2):
        name = "theirs/axis%d" % axis
        values[name] = np.random.default_rng(axis).normal(size=[130, 140]).astype(np.float32)
        v1.get_variable(
            name, [130, 140], partitioner=v1.fixed_size_partitioner(3, axis=axis),
            initializer=lambda shape, dtype, partition_info: tf.slice(values[name], partition_info.var_offset, shape),
        )  # fmt: skip
    session.run(v1.global_variables_initializer())
    os.mkdir(path("theirs"))
    v1.train.Saver(sharded=True).save(session, path("theirs", "model.ckpt"), write_meta_graph=False)
    save_file(values, path("theirs.safetensors"))

layer = tf.Module()
layer.kernel = tf.Variable(np.eye(3, dtype=np.float32))
layer.bias = tf.Variable(tf.cast([1, 2, 3], tf.bfloat16))
tf.train.Checkpoint(layer=layer).save(path("object", "ckpt"))
save_file({
    "layer/kernel/.ATTRIBUTES/VARIABLE_VALUE": np.eye(3, dtype=np.float32),
    "save_counter/.ATTRIBUTES/VARIABLE_VALUE": np.array(1, np.int64),
}, path("object.safetensors"))  # fmt: skip
print("TensorFlow", tf.__version__.split(".")[0])
