"""TensorFlow 2 reads the records that our writer wrote, and writes what our reader is to read.

    records.py FOLDER

FOLDER holds `ours.plain`, `ours.gzip` and `ours.zlib` with the same seven pictures; it gets `theirs.*` with the same pictures
and lists of every kind.
"""
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf

folder = sys.argv[1]
compressions = {"plain": "", "gzip": "GZIP", "zlib": "ZLIB"}


def path(*parts):
    return os.path.join(folder, *parts)


def picture(i):
    at = np.arange(1 + 90_000 * i, dtype=np.int64)
    return (at * at >> 5).astype(np.uint8).tobytes()


def feature(values):
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


one = {
    "image/encoded": tf.string,
    "image/format": tf.string,
    "image/colorspace": tf.string,
    "image/filename": tf.string,
    "image/class/synset": tf.string,
    "image/class/text": tf.string,
    "image/class/label": tf.int64,
    "image/height": tf.int64,
    "image/width": tf.int64,
    "image/channels": tf.int64,
}
boxes = {f"image/object/bbox/{side}": tf.float32 for side in ("xmin", "xmax", "ymin", "ymax")}
boxes["image/object/bbox/label"] = tf.int64
features = {key: tf.io.FixedLenFeature([], dtype) for key, dtype in one.items()}
features.update({key: tf.io.VarLenFeature(dtype) for key, dtype in boxes.items()})

for name, compression in compressions.items():
    records = list(tf.data.TFRecordDataset(path("ours." + name), compression).as_numpy_iterator())
    assert len(records) == 7
    for i, record in enumerate(records):
        assert len(tf.train.Example.FromString(record).features.feature) == len(features)
        found = tf.io.parse_single_example(record, features)
        for key in boxes:
            assert found.pop(key).values.shape == [0]
        found = {key: value.numpy() for key, value in found.items()}
        assert found == {
            "image/encoded": picture(i),
            "image/format": b"JPEG",
            "image/colorspace": b"RGB",
            "image/filename": b"n01440764_18.JPEG",
            "image/class/synset": b"n01440764",
            "image/class/text": b"tench, Tinca tinca",
            "image/class/label": 994 + i,
            "image/height": 10 + i,
            "image/width": 20 + i,
            "image/channels": 3,
        }

    with tf.io.TFRecordWriter(path("theirs." + name), compression) as writer:
        for i in range(7):
            values = {
                "image/encoded": feature([picture(i)]),
                "image/class/label": feature([994 + i]),
                "floats": feature([0.5, -1.0, float("inf")]),
                "integers": feature([-(2**63), -1, 0, 2**63 - 1]),
                "strings": feature([b"", b"\xff\x00"]),
                "empty": tf.train.Feature(),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString())

print("TensorFlow", tf.__version__.split(".")[0])
