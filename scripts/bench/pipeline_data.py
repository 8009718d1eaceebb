"""TFRecords like ImageNet's, written by TensorFlow: DIR EXAMPLES. Needs Pillow.

Pictures are random parts of the photographs among the tests' pictures, resized to the usual 500 x 375 or 375 x 500 with
some grain, so that their files have the size of ImageNet's, 110 kB on average.
"""
import io
import os
import random
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
PICTURES = os.path.join(HERE, "..", "..", "tests", "data", "pictures")
SOURCES = ["landscape.jpg", "portrait.jpg", "large.jpg"]
SHARDS = {"train": 4, "validation": 2}


def pictures(count):
    sources = [Image.open(os.path.join(PICTURES, name)).convert("RGB") for name in SOURCES]
    rng, noise = random.Random(0), np.random.default_rng(0)
    for i in range(count):
        source = sources[i % len(sources)]
        size = (500, 375) if rng.random() < 0.7 else (375, 500)
        share = rng.uniform(0.6, 1.0)
        width = int(min(source.width, source.height * size[0] / size[1]) * share)
        height = int(width * size[1] / size[0])
        left, top = rng.randint(0, source.width - width), rng.randint(0, source.height - height)
        part = source.resize(size, Image.BICUBIC, (left, top, left + width, top + height))
        grain = np.asarray(part, np.float32) + noise.normal(0, 7, (size[1], size[0], 1))
        file = io.BytesIO()
        Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=95, subsampling=2)
        yield file.getvalue()


def main():
    folder, count = sys.argv[1], int(sys.argv[2])
    os.makedirs(folder, exist_ok=True)
    files = list(pictures(count))
    for split, shards in SHARDS.items():
        for shard in range(shards):
            path = os.path.join(folder, f"{split}-{shard:05}-of-{shards:05}")
            with tf.io.TFRecordWriter(path) as writer:
                for i in range(shard, count, shards):
                    features = {
                        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[files[i]])),
                        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[i % 1000 + 1])),
                    }
                    example = tf.train.Example(features=tf.train.Features(feature=features))
                    writer.write(example.SerializeToString())
    print(f'{{"examples": {count}, "mean_bytes": {sum(map(len, files)) // count}}}')


main()
