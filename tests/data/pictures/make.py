"""Small pictures of every kind, and their pixels by TensorFlow 1.15.

    python3.7 -m venv tf1 && tf1/bin/pip install -r scripts/bench/requirements-tf1.txt pillow==9.5.0 scikit-image==0.19.3
    tf1/bin/python tests/data/pictures/make.py

The photographs are those of scikit-image that are in the public domain: astronaut, chelsea, coffee, camera, rocket, hubble.
Writes the pictures, `expected.json` (digests of pixels and of float32 arrays, little-endian, and windows), `*.f32` (whole arrays) and
`portrait.pillow` (bytes). Pictures that exist already are kept, so that another version of Pillow does not change them.
"""

import hashlib
import io
import json
import os
import random
import sys

import numpy
import skimage.data
import tensorflow as tf
from PIL import Image
from tensorflow.python.ops import gen_image_ops

HERE = os.path.dirname(os.path.abspath(__file__))
tf.compat.v1.logging.set_verbosity("ERROR")


def photograph(name, width, height, left=0, top=0):
    pixels = {"hubble": skimage.data.hubble_deep_field}.get(name, getattr(skimage.data, name, None))()
    return Image.fromarray(pixels).crop((left, top, left + width, top + height))


def jpeg(image, **options):
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def adobe(data, transform):
    """With Adobe's marker, which specifies the colour space."""
    return data[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform]) + data[2:]


def without_adobe(data):
    at = data.index(b"\xff\xee\x00\x0eAdobe")
    return data[:at] + data[at + 16 :]


def orientation(turn):
    exif = Image.Exif()
    exif[0x112] = turn
    return exif


def pictures():
    inks = photograph("coffee", 90, 70, 120, 90).convert("CMYK")
    yield "landscape.jpg", jpeg(photograph("chelsea", 451, 300), quality=75, subsampling="4:2:0")
    yield "portrait.jpg", jpeg(photograph("astronaut", 219, 333, 120, 0), quality=85, subsampling="4:4:4")
    yield "odd.jpg", jpeg(photograph("rocket", 127, 201, 230, 100), quality=90, subsampling="4:2:2")
    yield "wide.jpg", jpeg(photograph("rocket", 640, 37, 0, 300), quality=60, subsampling="4:2:0")
    yield "large.jpg", jpeg(photograph("hubble", 1000, 872), quality=15, subsampling="4:2:0")
    yield "small.jpg", jpeg(photograph("coffee", 50, 41, 200, 100), quality=95, subsampling="4:2:0")
    yield "progressive.jpg", jpeg(photograph("coffee", 160, 120, 200, 100), quality=80, progressive=True)
    yield "turned.jpg", jpeg(photograph("astronaut", 96, 64, 200, 50), quality=80, exif=orientation(6))
    yield "grey.jpg", jpeg(Image.fromarray(skimage.data.camera()).crop((150, 50, 311, 170)), quality=80)
    yield "cmyk.jpg", jpeg(inks, quality=80)
    yield "cmyk_plain.jpg", without_adobe(jpeg(inks, quality=80))
    ycck = jpeg(inks, quality=80).replace(b"Adobe\x00\x64\x00\x00\x00\x00\x00", b"Adobe\x00\x64\x00\x00\x00\x00\x02")
    yield "ycck.jpg", ycck
    yield "rgb.jpg", adobe(jpeg(photograph("chelsea", 60, 44, 100, 100), quality=80, subsampling="4:4:4"), 0)
    yield "tiny.jpg", jpeg(photograph("coffee", 5, 9, 200, 100), quality=90)
    yield "two.jpg", jpeg(photograph("coffee", 2, 2, 200, 100), quality=90)
    yield "one.jpg", jpeg(photograph("coffee", 1, 1, 200, 100), quality=90)


def write_pictures():
    for name, data in pictures():
        path = os.path.join(HERE, name)
        if not os.path.exists(path):
            with open(path, "wb") as file:
                file.write(data)
    png = os.path.join(HERE, "grey_alpha.png")
    if not os.path.exists(png):
        photograph("coffee", 40, 30, 200, 100).convert("LA").save(png)
    return [name for name, _ in pictures()]


def digest(array):
    """The first 64 bits of the SHA-256."""
    assert array.dtype in (numpy.uint8, numpy.float32), array.dtype
    return hashlib.sha256(numpy.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()[:16]


class Graph:
    """The original's operations, built once."""

    def __init__(self):
        self.data = tf.compat.v1.placeholder(tf.string, [])
        self.window = tf.compat.v1.placeholder(tf.int32, [4])
        self.size = tf.compat.v1.placeholder(tf.int32, [])
        self.shape = tf.image.extract_jpeg_shape(self.data)
        self.fast = tf.image.decode_jpeg(self.data, channels=3)
        self.accurate = tf.image.decode_jpeg(self.data, channels=3, dct_method="INTEGER_ACCURATE")
        self.cut = tf.image.decode_and_crop_jpeg(self.data, self.window, channels=3)
        self.cut_accurate = tf.image.decode_and_crop_jpeg(
            self.data, self.window, channels=3, dct_method="INTEGER_ACCURATE"
        )
        self.resized = tf.compat.v1.image.resize_bicubic([self.cut], [self.size, self.size])[0]
        self.mirrored = tf.image.flip_left_right(self.resized)
        self.middle = {size: self.central(size) for size in (224, 192, 12)}
        self.session = tf.compat.v1.Session()

    def central(self, size):
        height, width = self.shape[0], self.shape[1]
        share = size / (size + 32)
        side = tf.cast(share * tf.cast(tf.minimum(height, width), tf.float32), tf.int32)
        window = [((height - side) + 1) // 2, ((width - side) + 1) // 2, side, side]
        cut = tf.image.decode_and_crop_jpeg(self.data, tf.stack(window), channels=3)
        return tf.stack(window), tf.compat.v1.image.resize_bicubic([cut], [size, size])[0]

    def run(self, fetch, data, window=(0, 0, 1, 1), size=1):
        return self.session.run(fetch, {self.data: data, self.window: window, self.size: size})

    def attempt(self, fetch, data, window=(0, 0, 1, 1), size=1):
        """A digest, or nothing where TensorFlow stops."""
        try:
            return digest(self.run(fetch, data, window, size))
        except tf.errors.OpError:
            return None


def windows(generator, height, width):
    """Parts at the edges, on and off the borders of blocks, and the whole."""
    yield 0, 0, height, width
    yield height // 3, width // 3, height - height // 3, width - width // 3
    for _ in range(6):
        tall, wide = generator.randint(1, height), generator.randint(1, width)
        yield generator.randint(0, height - tall), generator.randint(0, width - wide), tall, wide


def of_picture(graph, name, generator):
    with open(os.path.join(HERE, name), "rb") as file:
        data = file.read()
    shape = [int(n) for n in graph.run(graph.shape, data)]
    entry = {"name": name, "shape": shape}
    entry["fast"], entry["accurate"] = (graph.attempt(fetch, data) for fetch in (graph.fast, graph.accurate))
    entry["eval"] = []
    for size, (window, resized) in graph.middle.items():
        entry["eval"].append(
            {"size": size, "window": graph.run(window, data).tolist(), "digest": graph.attempt(resized, data)}
        )
        if size == 12 and name in ("landscape.jpg", "cmyk.jpg", "grey.jpg"):
            with open(os.path.join(HERE, name.replace(".jpg", ".f32")), "wb") as file:
                file.write(graph.run(resized, data).astype("<f4").tobytes())
    entry["parts"] = []
    for window in windows(generator, *shape[:2]):
        fetches = {"fast": graph.cut, "accurate": graph.cut_accurate, "train": graph.resized}
        fetches["mirrored"] = graph.mirrored
        part = {name: graph.attempt(fetch, data, window, 224) for name, fetch in fetches.items()}
        entry["parts"].append(dict(part, window=list(window)))
    return entry


def damaged(graph, generator):
    """Truncated and changed files: [[position, change], ...], the length left, a window, and what becomes of it."""
    for name in ("turned.jpg", "small.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg", "odd.jpg"):
        with open(os.path.join(HERE, name), "rb") as file:
            data = file.read()
        height, width = graph.run(graph.shape, data)[:2]
        whole, top = (0, 0, int(height), int(width)), (0, 3, int(height) // 3, int(width) - 5)
        low = (int(height) // 2, 0, int(height) - int(height) // 2, int(width) // 2)
        for number in range(60):
            changes, length = [], len(data)
            if number < 24:
                length = len(data) - number if number < 8 else generator.randint(1, len(data) - 1)
            else:
                for _ in range(generator.randint(1, 3)):
                    changes.append([generator.randint(0, len(data) - 1), 1 << generator.randint(0, 7)])
            bad = bytearray(data)
            for at, change in changes:
                bad[at] ^= change
            for window in (whole, top, low):
                yield [name, changes, length, list(window), graph.attempt(graph.cut, bytes(bad[:length]), window)]


def samples():
    """Windows that `sample_distorted_bounding_box` draws from its two seeds."""
    shapes = [(375, 500), (500, 333), (224, 224), (37, 640), (600, 20), (9, 5), (2, 2), (1, 1), (1200, 1600), (3, 100)]
    objects = {
        "whole": [[0.0, 0.0, 1.0, 1.0]],
        "small": [[0.4, 0.45, 0.52, 0.6]],
        "two": [[0.0, 0.0, 0.2, 0.15], [0.7, 0.8, 1.0, 0.95]],
        "nothing": [[0.3, 0.3, 0.3, 0.9]],
    }
    for number, (height, width) in enumerate(shapes):
        for name, boxes in objects.items():
            with tf.Graph().as_default(), tf.compat.v1.Session() as session:
                drawn = []
                for seed in range(40 if name == "whole" else 12):
                    begin, size, _ = gen_image_ops.sample_distorted_bounding_box_v2(
                        tf.constant([height, width, 3]),
                        tf.constant([boxes]),
                        min_object_covered=0.1,
                        aspect_ratio_range=(3.0 / 4, 4.0 / 3.0),
                        area_range=(0.08, 1.0),
                        max_attempts=10,
                        use_image_if_no_bounding_boxes=False,
                        seed=seed + 1,
                        seed2=1000 * number + 7,
                    )
                    drawn.append(tf.concat([begin[:2], size[:2]], 0))
                found = session.run(drawn)
                yield {
                    "shape": [height, width],
                    "objects": boxes,
                    "seed2": 1000 * number + 7,
                    "windows": [window.tolist() for window in found],
                }


def write_antialiased(size=40):
    """The central part as Pillow resizes it, from a picture without subsampled colours, whose parts are those of the whole."""
    image = Image.open(os.path.join(HERE, "portrait.jpg"))
    side = int(size / (size + 32) * min(image.size))
    left, top = ((length - side + 1) // 2 for length in image.size)
    middle = image.crop((left, top, left + side, top + side)).resize((size, size), Image.BICUBIC)
    with open(os.path.join(HERE, "portrait.pillow"), "wb") as file:
        file.write(middle.tobytes())


def main():
    write_antialiased()
    generator = random.Random(1)
    names = write_pictures()
    graph = Graph()
    expected = {
        "tensorflow": tf.__version__,
        "pictures": [of_picture(graph, name, generator) for name in names],
        "damaged": list(damaged(graph, generator)),
        "samples": list(samples()),
    }
    lines = []
    for key, value in expected.items():
        items = [json.dumps(item) for item in value] if isinstance(value, list) else None
        lines.append(f'"{key}": ' + ("[\n" + ",\n".join(items) + "\n]" if items else json.dumps(value)))
    with open(os.path.join(HERE, "expected.json"), "w") as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    sys.exit(main())
