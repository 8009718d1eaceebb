"""The second peer: RigL on MNIST as a TensorFlow 1.15 graph, in the manner of the original program.

One `session.run` per batch from a `tf.data` pipeline; a conditional chooses between the optimizer and the mask update; entries
are selected by `top_k` over the whole layer and a scatter (reference 2.3). For Python 3.7. Prints one JSON object.
"""
from __future__ import print_function

import argparse
import json
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow.compat.v1 as tf

import mnist_data

tf.logging.set_verbosity(tf.logging.ERROR)
LAYERS = ((784, 300, 0.98), (300, 100, 0.98 * 0.9), (100, 10, 0.0))
BATCH, L2, LEARNING_RATE, MOMENTUM = 100, 1e-4, 0.2, 0.9
BEGIN, END, FREQUENCY, DROP, NOISE_STD = 0, 50000, 100, 0.3, 1e-5


def random_mask(random, shape, sparsity):
    flat = np.ones(shape[0] * shape[1])
    flat[: int(np.floor(sparsity * flat.size))] = 0
    random.shuffle(flat)
    return flat.reshape(shape).astype(np.float32)


def top_k_mask(scores, k, shape):
    """1 at the k largest of the whole layer: a full sort, then a scatter of the ranks below k."""
    size = shape[0] * shape[1]
    _, order = tf.nn.top_k(tf.reshape(scores, [-1]), k=size)
    flags = tf.cast(tf.range(size) < k, tf.float32)
    return tf.reshape(tf.scatter_nd(tf.expand_dims(order, 1), flags, [size]), shape)


class Layer(object):
    """Raw weights, mask and bias; the network uses the product, and the dense gradient is with respect to it."""

    def __init__(self, name, random, fan_in, fan_out, sparsity):
        self.shape = (fan_in, fan_out)
        with tf.variable_scope(name):
            self.weight = tf.get_variable("weights", self.shape, initializer=tf.glorot_uniform_initializer())
            self.mask = tf.get_variable("mask", initializer=random_mask(random, self.shape, sparsity), trainable=False)
            self.bias = tf.get_variable("biases", [fan_out], initializer=tf.zeros_initializer())
        self.product = self.mask * self.weight

    def update(self, gradient, fraction, slot, step, seed):
        """The operations that move this layer's mask."""
        noise = NOISE_STD * tf.random.stateless_normal(self.shape, seed=[seed, tf.cast(step, tf.int32)])
        score, growth = tf.abs(self.product) + noise, tf.abs(gradient)
        ones = tf.cast(tf.reduce_sum(self.mask), tf.int32)
        pruned = tf.cast(tf.cast(ones, tf.float32) * fraction, tf.int32)
        kept = top_k_mask(score, ones - pruned, self.shape)
        lifted = tf.where(tf.equal(kept, 1), tf.ones_like(growth) * (tf.reduce_min(growth) - 1), growth)
        grown = top_k_mask(lifted, pruned, self.shape)
        fresh = tf.logical_and(tf.equal(grown, 1), tf.equal(self.mask, 0))
        zeros = tf.zeros_like(self.weight)
        with tf.control_dependencies([fresh, kept, grown]):
            return [
                tf.assign(self.weight, tf.where(fresh, zeros, self.weight)).op,
                tf.assign(slot, tf.where(fresh, zeros, slot)).op,
                tf.assign(self.mask, kept + grown).op,
            ]


def build(images, labels):
    """The whole graph: (train operation, loss, step, last update, masks)."""
    image_feed, label_feed = tf.placeholder(tf.float32, images.shape), tf.placeholder(tf.int32, labels.shape)
    dataset = tf.data.Dataset.from_tensor_slices((image_feed, label_feed))
    iterator = tf.data.make_initializable_iterator(dataset.shuffle(len(labels)).repeat().batch(BATCH))
    batch_images, batch_labels = iterator.get_next()

    random = np.random.RandomState(0)
    layers = [Layer("layer%d" % (index + 1), random, *spec) for index, spec in enumerate(LAYERS)]
    hidden = batch_images
    for index, layer in enumerate(layers):
        hidden = tf.matmul(hidden, layer.product) + layer.bias
        hidden = tf.nn.relu(hidden) if index < 2 else hidden
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=batch_labels, logits=hidden))
    loss += L2 * tf.add_n([tf.nn.l2_loss(layer.weight) for layer in layers])

    step = tf.train.get_or_create_global_step()
    last = tf.get_variable("last_mask_update_step", initializer=np.int64(-FREQUENCY), trainable=False)
    rate = tf.train.piecewise_constant(step, [45000, 57000], [LEARNING_RATE / 3 ** k for k in range(3)])
    optimizer = tf.train.MomentumOptimizer(rate, MOMENTUM, use_nesterov=True)
    gradients = optimizer.compute_gradients(loss)
    dense = tf.gradients(loss, [layer.product for layer in layers])

    # Slots exist once the optimizer has been applied; inside the conditional they would be created too late.
    optimizer._create_slots([variable for _, variable in gradients])
    slots = [optimizer.get_slot(layer.weight, "momentum") for layer in layers]
    fraction = tf.train.cosine_decay(DROP, step, END - BEGIN)
    due = tf.logical_and(tf.logical_and(step >= BEGIN, step <= END), last + FREQUENCY <= step)

    def update():
        operations = [tf.assign(last, step).op]
        for seed, (layer, gradient, slot) in enumerate(zip(layers, dense, slots)):
            operations += layer.update(gradient, fraction, slot, step, seed)
        with tf.control_dependencies(operations):
            return tf.constant(True)

    def apply():
        with tf.control_dependencies([optimizer.apply_gradients(gradients, global_step=step)]):
            return tf.constant(False)

    with tf.control_dependencies([gradient for gradient, _ in gradients] + dense):
        updated = tf.cond(due, update, apply)
    feeds = {image_feed: images, label_feed: labels}
    return updated, loss, step, [layer.mask for layer in layers], iterator.initializer, feeds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000, help="iterations timed, after 202 of warm-up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", default=mnist_data.DEFAULT_DIR)
    args = parser.parse_args()
    updated, loss, step, masks, initializer, feeds = build(*mnist_data.load(args.data, "train"))
    config = tf.ConfigProto(intra_op_parallelism_threads=args.threads, inter_op_parallelism_threads=args.threads)
    with tf.Session(config=config) as session:
        session.run(tf.global_variables_initializer())
        session.run(initializer, feeds)
        for _ in range(202):  # two periods of 101, so the timed run begins with an update
            session.run([updated, loss])
        updates, others = [], []
        started = time.time()
        for _ in range(args.steps):
            before = time.time()
            moved, value = session.run([updated, loss])
            (updates if moved else others).append(time.time() - before)
        seconds = time.time() - started
        nonzeros = int(sum(mask.sum() for mask in session.run(masks)))
        print(json.dumps({
            "program": "tf1", "tensorflow": tf.__version__, "steps": args.steps, "threads": args.threads,
            "steps_per_s": round(args.steps / seconds, 1),
            "update_ms": round(1e3 * float(np.median(updates)), 2) if updates else None,
            "step_ms": round(1e3 * float(np.median(others)), 3),
            "mask_updates": len(updates), "gradient_steps": int(session.run(step)), "loss": round(float(value), 4),
            "nonzeros": nonzeros,
        }))


if __name__ == "__main__":
    main()
