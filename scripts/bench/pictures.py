#!/usr/bin/env python3
"""Pictures made ready per second, compared with tf.data of TensorFlow 2 with the same operations, both on the same JPEG files.

    scripts/bench/pictures.py [--threads 1 2] [--seconds 10] [--binary COMMAND]

Needs Python packages tensorflow-cpu==2.21.0, scikit-image==0.24.0 and pillow. 64 pictures of 500 x 375 pixels (quality 90, 4:2:0), the
most usual size of ImageNet, are cut from photographs of scikit-image into target/bench/pictures. `nasm` should be installed before
the binary is built. Prints one JSON object; rates per processor second are least disturbed by other programs.
"""

import argparse
import json
import os
import pathlib
import random
import resource
import shlex
import subprocess
import sys
import time

FOLDER = pathlib.Path("target/bench/pictures")
SIZE = 224


def make_pictures():
    import skimage.data
    from PIL import Image

    FOLDER.mkdir(parents=True, exist_ok=True)
    names = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field")
    photographs = [Image.fromarray(getattr(skimage.data, name)()) for name in names]
    generator = random.Random(0)
    for i in range(64):
        photograph = photographs[i % len(photographs)]
        width, height = (500, 375) if i % 4 else (375, 500)
        share = generator.uniform(0.6, 1.0) * min(photograph.width / width, photograph.height / height)
        wide, tall = int(width * share), int(height * share)
        left, top = generator.randint(0, photograph.width - wide), generator.randint(0, photograph.height - tall)
        picture = photograph.crop((left, top, left + wide, top + tall)).resize((width, height), Image.BICUBIC)
        picture.save(FOLDER / f"{i:02}.jpg", quality=90, subsampling="4:2:0")


def tensorflow(threads, seconds):
    """The original's functions in tf.data: one map with as many calls at once as there are threads."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    files = [path.read_bytes() for path in sorted(FOLDER.glob("*.jpg"))]

    def resized(data, window):
        cut = tf.image.decode_and_crop_jpeg(data, window, channels=3)
        return tf.compat.v1.image.resize_bicubic([cut], [SIZE, SIZE])[0]

    def central(data):
        shape = tf.image.extract_jpeg_shape(data)
        share = SIZE / (SIZE + 32)
        side = tf.cast(share * tf.cast(tf.minimum(shape[0], shape[1]), tf.float32), tf.int32)
        return resized(data, tf.stack([(shape[0] - side + 1) // 2, (shape[1] - side + 1) // 2, side, side]))

    def train(data):
        shape = tf.image.extract_jpeg_shape(data)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            shape,
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            min_object_covered=0.1,
            aspect_ratio_range=(3.0 / 4, 4.0 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
        )
        window = tf.concat([begin[:2], size[:2]], 0)
        whole = tf.reduce_all(tf.equal(size[:2], shape[:2]))
        image = tf.cond(whole, lambda: central(data), lambda: resized(data, window))
        return tf.image.random_flip_left_right(image)

    def decode(data):
        return tf.image.decode_jpeg(data, channels=3)

    def rate(operation):
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        options.threading.max_intra_op_parallelism = 1
        data = tf.data.Dataset.from_tensor_slices(files).repeat()
        data = data.map(operation, num_parallel_calls=threads, deterministic=True).with_options(options)
        pictures = iter(data)
        for _ in range(2 * len(files)):
            next(pictures)
        count, begun, before = 0, time.monotonic(), processor_seconds()
        while time.monotonic() < begun + seconds:
            for _ in range(20):
                next(pictures)
            count += 20
        return [round(count / (time.monotonic() - begun)), round(count / (processor_seconds() - before))]

    return {"train": rate(train), "eval": rate(central), "decode": rate(decode), "version": tf.__version__}


def processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--binary", default="cargo bench --quiet --bench pictures --")
    parser.add_argument("--peer", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        print(json.dumps(tensorflow(args.peer, args.seconds)))
        return
    if not any(FOLDER.glob("*.jpg")):
        make_pictures()
    runs = []
    for threads in args.threads:
        ours = shlex.split(args.binary) + [str(FOLDER.resolve()), str(threads), str(args.seconds)]
        peer = [sys.executable, __file__, "--peer", str(threads), "--seconds", str(args.seconds)]
        load = os.getloadavg()[0]
        ours, peer = (json.loads(subprocess.check_output(command)) for command in (ours, peer))
        ratio = {name: [round(a / b, 2) for a, b in zip(ours[name], peer[name])] for name in ("train", "eval", "decode")}
        runs.append({"threads": threads, "load before": load, "rigl-xla": ours, "tf.data": peer, "ratio": ratio})
    print(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()
