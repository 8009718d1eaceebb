"""Records schedules and normalised pixels with TensorFlow 1.15 (Python 3.7, packages of scripts/bench/requirements-tf1.txt).

    python tests/data/tf1/schedules.py

Each value is computed in a session whose graph optimizer is on, from a `global_step` variable, by the operations of the
original's optimizers, drivers and pruning library. Writes schedules.csv: what, its settings, step, bits of the float32.
"""
import csv
import os
import random

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
from tensorflow.contrib.model_pruning.python import pruning
from tensorflow.python.eager import context

HERE = os.path.dirname(os.path.abspath(__file__))
RNG = random.Random(0)
IMAGES = 1281167
ROWS = []
assert tf.__version__.startswith("1.15."), tf.__version__


def bits(value):
    return "%08x" % np.float32(value).view(np.uint32)


def record(kind, settings, build, steps):
    """`build` gives a scalar from the global step, and what else is read in the same graph."""
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.train.get_or_create_global_step()
        fetches = build(step)
        session.run(tf.global_variables_initializer())
        for at in sorted(set(steps)):
            step.load(at, session)
            ROWS.append([kind, *settings, at, bits(session.run(fetches)[0])])


def between(begin, end, count):
    return [begin, end, (begin + end) // 2] + [RNG.randint(begin, end) for _ in range(count)]


def drop_fraction(begin, end, initial, anneal):
    """Begin, end and initial value are tensors, and the fraction is selected by whether an update is due."""

    def build(step):
        first, last = (tf.cast(tf.convert_to_tensor(bound), tf.int64) for bound in (begin, end))
        value = tf.convert_to_tensor(initial)
        if anneal == "cosine":
            value = tf.train.cosine_decay(value, step, last - first)
        elif anneal != "constant":
            power = float(anneal.split("_")[1]) if "_" in anneal else 1
            done = tf.divide(tf.cast(step - first, tf.float32), tf.cast(last - first, tf.float32))
            value = tf.multiply(value, tf.pow(1 - done, power))
        return [tf.where(step >= first, value, tf.zeros_like(value))]

    return build


def pruning_sparsity(begin, end, initial, target, exponent):
    settings = [
        "sparsity_function_begin_step=%d" % begin, "sparsity_function_end_step=%d" % end, "target_sparsity=%r" % target,
        "initial_sparsity=%r" % initial, "sparsity_function_exponent=%d" % exponent,
    ]  # fmt: skip

    def build(step):
        parameters = pruning.get_pruning_hparams().parse(",".join(settings))
        return [pruning.Pruning(parameters, global_step=step)._sparsity]

    return build


def epoch_of(step, batch):
    return tf.cast(step, tf.float32) / (IMAGES / batch)


def epochs(batch, base, schedule):
    """Pairs of a factor and the epoch that it holds from; the rate rises from 0 to the first."""

    def build(step):
        epoch, peak = epoch_of(step, batch), base * (batch / 256.0)
        rate = peak * schedule[0][0] * epoch / schedule[0][1]
        for factor, start in schedule:
            rate = tf.where(epoch < start, rate, peak * factor)
        return [rate, epoch]

    return build


def restarts(batch, base, first, t_mul, m_mul):
    """The driver reports the epoch next to the rate, so both are read."""

    def build(step):
        epoch, peak = epoch_of(step, batch), base * (batch / 256.0)
        return [tf.train.cosine_decay_restarts(peak, epoch, first, t_mul=t_mul, m_mul=m_mul), epoch]

    return build


def piecewise(base, divisor, boundaries):
    def build(step):
        values = [base / divisor**i for i in range(len(boundaries) + 1)]
        return [tf.train.piecewise_constant(step, boundaries, values=values)]

    return build


for begin, end in [(0, 25000), (0, 50000), (0, 8), (100, 300), (1000, 33333)]:
    for initial in (0.3, 0.1, 0.5):
        for anneal in ["constant", "cosine"] + ["exponential" + k for k in ("", "_1", "_2", "_3", "_4", "_.5", "_1.5")]:
            steps = between(begin, end, 1 if anneal == "constant" else 9)
            record("drop", [begin, end, initial, anneal], drop_fraction(begin, end, initial, anneal), steps)
for settings in [(2000, 30000, 0.0, 0.98, 3), (20000, 75000, 0.0, 0.9, 3), (100, 4321, 0.2, 0.95, 2), (0, 70, 0.0, 0.5, 1)]:
    begin, end = settings[:2]
    record("sparsity", settings, pruning_sparsity(*settings), between(begin, end, 20) + [end + 5])
for model, warmup, drops in [
    ("resnet50", 5, [(0.1, 30), (0.01, 70), (0.001, 90), (0.0001, 120)]),
    ("mobilenet-v1", 8, [(0.1, 40), (0.01, 75), (0.001, 95), (0.0003, 120)]),
]:
    for batch, base, multiplier in [(4096, 0.1, 1.0), (4096, 0.1, 5.0), (1024, 0.05, 0.5), (256, 0.045, 1.3)]:
        schedule = [(factor, start * multiplier) for factor, start in [(1.0, warmup)] + drops]
        around = [int(start * IMAGES / batch) + i for _, start in schedule for i in (0, 1)]
        record("epochs", [model, batch, base, multiplier], epochs(batch, base, schedule), between(0, around[0], 20) + around)
for settings in [(4096, 0.1, 5.0, 1.5, 0.5), (1024, 0.05, 10.0, 2.0, 1.0), (256, 0.1, 3.0, 1.0, 0.8), (4096, 0.1, 2.5, 1.2, 0.9)]:
    starts = [int(epoch * IMAGES / settings[0]) + i for epoch in (5, 12.5, 23.75) for i in (0, 1)]
    record("sgdr", settings, restarts(*settings), between(0, int(100 * IMAGES / settings[0]), 60) + starts)
for preset, base, divisor, boundaries in [
    ("cifar10-rigl", 0.1, 5.0, [30000, 60000, 90000]),
    ("mnist-rigl", 0.2, 3.0, [45000, 57000]),
    ("mnist-dense", 0.2, 3.0, [36000, 42000, 48000]),
]:
    record("piecewise", [preset], piecewise(base, divisor, boundaries), [0] + [b + i for b in boundaries for i in (0, 1)])
# The TF2 variant's optimizer calls its schedule outside of a graph.
with context.eager_mode():
    for base, steps in [(0.05, 11719), (0.2, 1000)]:
        decay = tf.keras.experimental.CosineDecay(base, steps)
        for at in sorted(set(between(0, steps, 30))):
            ROWS.append(["cosine", base, steps, at, bits(decay(tf.constant(at, tf.int64)).numpy())])
with tf.Graph().as_default(), tf.Session() as session:
    images = tf.placeholder(tf.float32, [1, 256, 1, 3])
    mean, deviation = ([255 * share for share in shares] for shares in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    normalised = (images - tf.constant(mean, shape=[1, 1, 3])) / tf.constant(deviation, shape=[1, 1, 3])
    pixels = np.repeat(np.arange(256.0).reshape(1, 256, 1, 1), 3, axis=3)
    for at, colours in enumerate(session.run(normalised, {images: pixels})[0, :, 0]):
        ROWS += [["pixel", colour, at, bits(value)] for colour, value in enumerate(colours)]
with open(os.path.join(HERE, "schedules.csv"), "w", newline="") as file:
    csv.writer(file, lineterminator="\n").writerows(ROWS)
