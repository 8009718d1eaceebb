"""TensorFlow 1.15 restores what `convert --to-tf` wrote: by hand, as it needs Python 3.7 (see make.py).

    rigl-xla convert --to-tf F.safetensors PREFIX && python tests/data/tf1/restore.py F.safetensors PREFIX

Every array is restored and compared with the file's: by a saver into variables, and by the operation that savers use where
TensorFlow 1.15 has no variables of the type.
"""
import json
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import numpy as np
import tensorflow as tf

assert tf.__version__.startswith("1.15."), tf.__version__
source, prefix = sys.argv[1:]
DTYPES = {
    "F64": tf.float64, "F32": tf.float32, "F16": tf.float16, "BF16": tf.bfloat16, "I64": tf.int64, "I32": tf.int32,
    "I16": tf.int16, "I8": tf.int8, "U64": tf.uint64, "U32": tf.uint32, "U16": tf.uint16, "U8": tf.uint8, "BOOL": tf.bool,
}  # fmt: skip
NO_VARIABLES = (tf.bfloat16, tf.uint64, tf.uint32, tf.uint16)

with open(source, "rb") as file:
    header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    data = file.read()
header.pop("__metadata__", None)
arrays, dtypes = {}, {}
for name, info in header.items():
    begin, end = info["data_offsets"]
    dtypes[name] = DTYPES[info["dtype"]]
    array = np.frombuffer(data[begin:end], dtypes[name].as_numpy_dtype).reshape(info["shape"])
    if name.endswith("/mask"):
        array, dtypes[name] = array.astype(np.float32), tf.float32
    arrays[name] = array

with tf.Graph().as_default(), tf.Session() as session:
    found = {
        name: tf.raw_ops.RestoreV2(prefix=prefix, tensor_names=[name], shape_and_slices=[""], dtypes=[dtype])[0]
        if dtype in NO_VARIABLES
        else tf.get_variable(name, dtype=dtype, shape=arrays[name].shape)
        for name, dtype in dtypes.items()
    }
    tf.train.Saver().restore(session, prefix)
    for name, value in session.run(found).items():
        assert value.dtype == arrays[name].dtype and value.shape == arrays[name].shape, name
        assert value.tobytes() == arrays[name].tobytes(), name
print("TensorFlow", tf.__version__, "restored", len(arrays), "arrays")
