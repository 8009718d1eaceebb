"""Records standardised pictures with TensorFlow 1.15 (Python 3.7, packages of scripts/bench/requirements-tf1.txt, scikit-image 0.19).

    python tests/data/tf1/standardise.py

Pictures of 32 x 32 pixels, cut from photographs and made, go one by one through the map of a data set, as CIFAR-10's do in the
original. Writes standardised.safetensors: the pixels, and what each value of a pixel becomes in each picture (NaN where no pixel
has the value).
"""
import json
import os
import struct

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import skimage.data
import tensorflow as tf
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
SIDE = 32
assert tf.__version__.startswith("1.15."), tf.__version__


def photographs():
    """The middle of each photograph, made small, and a detail of it."""
    for name in ("astronaut", "coffee", "hubble_deep_field", "rocket", "chelsea", "immunohistochemistry"):
        photograph = Image.fromarray(getattr(skimage.data, name)())
        side = min(photograph.size)
        left, top = ((length - side) // 2 for length in photograph.size)
        small = photograph.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.BICUBIC)
        yield np.asarray(small)
        yield np.asarray(photograph)[top + side // 3 :, left + side // 3 :][:SIDE, :SIDE]


def made():
    """Without contrast; with the least, which is below the bound of the deviation; with the most; noise."""
    shape = (SIDE, SIDE, 3)
    for level in (0, 77, 255):
        yield np.full(shape, level)
    for level, other in ((100, 101), (0, 255)):
        picture = np.full(shape, level)
        picture[3, 5, 1] = other
        yield picture
    yield np.indices(shape).sum(axis=0) % 2 * 255
    random = np.random.RandomState(0)
    yield random.randint(0, 256, shape)
    yield random.randint(120, 124, shape)


def standardised(pictures):
    data = tf.data.Dataset.from_tensor_slices(pictures)
    data = data.map(lambda picture: tf.image.per_image_standardization(tf.cast(picture, tf.float32)))
    following = tf.compat.v1.data.make_one_shot_iterator(data).get_next()
    with tf.compat.v1.Session() as session:
        return np.stack([session.run(following) for _ in pictures])


pictures = np.stack(list(photographs()) + list(made())).astype(np.uint8)
values = np.full((len(pictures), 256), np.nan, np.float32)
for picture, result, becomes in zip(pictures, standardised(pictures), values):
    becomes[picture] = result
    assert (becomes[picture] == result).all(), "a value of a pixel becomes one number"
tensors, header, end = {"pixels": pictures, "values": values}, {}, 0
for name, tensor in tensors.items():
    dtype = {"uint8": "U8", "float32": "F32"}[tensor.dtype.name]
    header[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [end, end + tensor.nbytes]}
    end += tensor.nbytes
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(os.path.join(HERE, "standardised.safetensors"), "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text + b"".join(tensor.tobytes() for tensor in tensors.values()))
