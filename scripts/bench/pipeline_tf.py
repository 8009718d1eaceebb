"""The same pipeline in tf.data, as a user of TensorFlow 2 writes it: DIR train|test THREADS BATCH BATCHES [PREFETCH].

The operators are those of the original: crop at decoding with the fast DCT, TensorFlow 1's bicubic resizing, flip.
"""
import glob
import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf  # noqa: E402

SIZE, PADDING = 224, 32
FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
}


def resize(image):
    resized = tf.raw_ops.ResizeBicubic(images=image[None], size=[SIZE, SIZE])
    return tf.reshape(resized, [SIZE, SIZE, 3])


def decode(picture, window):
    return tf.image.decode_and_crop_jpeg(picture, window, channels=3, dct_method="INTEGER_FAST")


def centre(picture, shape):
    height, width = shape[0], shape[1]
    share = SIZE / (SIZE + PADDING)
    side = tf.cast(share * tf.cast(tf.minimum(height, width), tf.float32), tf.int32)
    return resize(decode(picture, tf.stack([(height - side + 1) // 2, (width - side + 1) // 2, side, side])))


def train(picture, shape):
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        shape, tf.zeros([1, 0, 4]), min_object_covered=0.1, aspect_ratio_range=(3 / 4, 4 / 3), area_range=(0.08, 1.0),
        max_attempts=10, use_image_if_no_bounding_boxes=True,
    )  # fmt: skip
    top, left, _ = tf.unstack(begin)
    tall, wide, _ = tf.unstack(size)
    image = decode(picture, tf.stack([top, left, tall, wide]))
    whole = tf.reduce_all(tf.equal(shape, tf.shape(image)))
    image = tf.cond(whole, lambda: centre(picture, shape), lambda: resize(image))
    return tf.image.random_flip_left_right(image)


def main():
    folder, split, threads, batch, batches = sys.argv[1:6]
    threads, batch, batches = int(threads), int(batch), int(batches)
    prefetch = int(sys.argv[6]) if len(sys.argv) > 6 else 2
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    files = sorted(glob.glob(os.path.join(folder, ("train" if split == "train" else "validation") + "-*")))

    def example(record):
        features = tf.io.parse_single_example(record, FEATURES)
        picture = features["image/encoded"]
        shape = tf.io.extract_jpeg_shape(picture)
        image = train(picture, shape) if split == "train" else centre(picture, shape)
        return image, tf.cast(features["image/class/label"], tf.int32) - 1

    data = tf.data.Dataset.from_tensor_slices(files)
    if split == "train":
        data = data.repeat()
    data = data.interleave(tf.data.TFRecordDataset, cycle_length=64, num_parallel_calls=threads, deterministic=False)
    if split == "train":
        data = data.shuffle(1024)
    data = data.map(example, num_parallel_calls=threads, deterministic=False)
    data = data.batch(batch, drop_remainder=True).prefetch(prefetch)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    taken = iter(data.with_options(options))
    for _ in range(prefetch + 1):
        next(taken)
    started, total = time.perf_counter(), 0
    for _ in range(batches):
        _, labels = next(taken)
        total += int(labels.numpy().sum())
    rate = batch * batches / (time.perf_counter() - started)
    print(json.dumps({"pictures_per_s": rate, "threads": threads, "label_sum": total, "tensorflow": tf.__version__}))


main()
