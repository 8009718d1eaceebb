"""Trains the MNIST network with TensorFlow 1.15 as the original does (reference 2.3, 2.5, 2.9), and saves it midway and at the end.

    python tests/data/tf1/continued.py

Writes `continued/METHOD/model.ckpt-STEP` for RigL, SNFS and gradual pruning (Python 3.7, see make.py): the checkpoint midway is where a
converted run goes on, the one at the end what it must come to. The hidden layers are small; all 32 examples are in every batch.
Network, optimizer and pruning are TensorFlow's own; masks are chosen in NumPy, without noise.
"""
import os
import shutil

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.contrib import layers as contrib_layers
from tensorflow.contrib.model_pruning.python import pruning
from tensorflow.contrib.model_pruning.python.layers import layers

tf.logging.set_verbosity(tf.logging.ERROR)
HERE = os.path.dirname(os.path.abspath(__file__))
F = np.float32
SIZES, SPARSITIES = [784, 8, 6, 10], [0.8, 0.8 * 0.9, 0.0]
EXAMPLES, DECAY, RATE, MOMENTUM = 32, 0.01, 0.05, 0.9
BEGIN, END, FREQUENCY, DROP, AVERAGED = 0, 16, 3, 0.3, 0.9
MIDWAY, ITERATIONS = 11, 24
AVERAGE = "gradients_1/%s/MatMul_grad/tuple/control_dependency_1/ExponentialMovingAverage"


def examples():
    """Pixels and labels by the generator that the test has too."""
    state, pixels = 12345, []
    for _ in range(EXAMPLES * 784):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2 ** 64
        pixels.append((state >> 33) % 256 if (state >> 41) % 4 == 0 else 0)
    images = np.array(pixels, np.uint8).reshape(EXAMPLES, 784).astype(F) * F(1 / 255)
    return images, (np.arange(EXAMPLES) % 10).astype(np.int32)


def drop_fraction(step):
    span = F(END - BEGIN)
    done = F(min(step, END - BEGIN)) * (F(1) / span)
    return F(DROP) * (F(0.5) * (F(1) + F(np.cos(np.float64(F(np.pi) * done)))))


def top(scores, k):
    """Ones at the k largest; the lower index wins among equals."""
    chosen = np.zeros(scores.size, bool)
    chosen[np.argsort(-scores.ravel(), kind="stable")[:k]] = True
    return chosen.reshape(scores.shape)


class Network(object):
    def __init__(self, method):
        tf.get_variable_scope().set_use_resource(True)
        images, labels = examples()
        hidden = tf.constant(images)
        for i, size in enumerate(SIZES[1:]):
            hidden = layers.masked_fully_connected(
                hidden, size, activation_fn=tf.nn.relu if i < 2 else None,
                weights_regularizer=contrib_layers.l2_regularizer(DECAY), scope="layer%d" % (i + 1),
            )  # fmt: skip
        loss = tf.losses.sparse_softmax_cross_entropy(labels=labels, logits=hidden)
        loss += tf.losses.get_regularization_loss()
        self.step = tf.train.get_or_create_global_step()
        optimizer = tf.train.MomentumOptimizer(RATE, MOMENTUM, use_nesterov=True)
        self.train = optimizer.minimize(loss, global_step=self.step)
        self.weights, self.masks = pruning.get_weights(), pruning.get_masks()
        self.slots = [optimizer.get_slot(weights, "momentum") for weights in self.weights]
        self.dense = tf.gradients(loss, pruning.get_masked_weights())
        self.averages = []
        if method == "prune":
            parameters = pruning.get_pruning_hparams().parse(
                "begin_pruning_step=2,sparsity_function_begin_step=2,end_pruning_step=20,sparsity_function_end_step=20,"
                "target_sparsity=0.8,pruning_frequency=3,threshold_decay=0"
            )
            parameters.set_hparam("weight_sparsity_map", ["layer2:%r" % SPARSITIES[1], "layer3:0.0"])
            with tf.control_dependencies([self.train]):
                self.train = pruning.Pruning(parameters, global_step=self.step).conditional_mask_update_op()
        else:
            self.last = tf.get_variable("last_mask_update_step", initializer=np.int64(-FREQUENCY), trainable=False)
        if method == "snfs":
            self.averages = [
                tf.get_variable(AVERAGE % ("layer%d" % (i + 1)), initializer=np.zeros(weights.shape, F), trainable=False)
                for i, weights in enumerate(self.weights)
            ]

    def start(self, session):
        session.run(tf.global_variables_initializer())
        random = np.random.RandomState(4)
        for variable in tf.trainable_variables():
            variable.load(random.normal(0, 0.2, variable.shape.as_list()).astype(F), session)

    def draw_masks(self, session):
        random = np.random.RandomState(5)
        for mask, sparsity in zip(self.masks, SPARSITIES):
            flat = np.ones(int(np.prod(mask.shape.as_list())), F)
            flat[: int(np.floor(sparsity * flat.size))] = 0
            random.shuffle(flat)
            mask.load(flat.reshape(mask.shape.as_list()), session)

    def update(self, session, step, growth):
        """All masks, at this global step (reference 2.3)."""
        for weights, mask, slot, grow in zip(self.weights, self.masks, self.slots, growth):
            w, m, v = session.run([weights, mask, slot])
            ones = int(m.sum())
            pruned = int(F(ones) * drop_fraction(step))
            kept = top(np.abs(m * w), ones - pruned)
            grow = np.abs(grow)
            grown = top(np.where(kept, grow.min() - 1, grow), pruned)
            assert not (kept & grown).any()
            fresh = grown & (m == 0)
            weights.load(np.where(fresh, F(0), w), session)
            slot.load(np.where(fresh, F(0), v), session)
            mask.load((kept | grown).astype(F), session)
        self.last.load(step, session)

    def is_update(self, session, step):
        return BEGIN <= step <= END and session.run(self.last) + FREQUENCY <= step


def rigl(network, session):
    step = session.run(network.step)
    if network.is_update(session, step):
        network.update(session, step, session.run(network.dense))
    else:
        session.run(network.train)


def snfs(network, session):
    m, dense = F(AVERAGED), session.run(network.dense)
    averages = [e * m + (F(1) - m) * g for e, g in zip(session.run(network.averages), dense)]
    for variable, average in zip(network.averages, averages):
        variable.load(average, session)
    session.run(network.train)
    step = session.run(network.step)
    if network.is_update(session, step):
        network.update(session, step, averages)


def prune(network, session):
    session.run(network.train)


for name, iterate in [("rigl", rigl), ("snfs", snfs), ("prune", prune)]:
    folder = os.path.join(HERE, "continued", name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    with tf.Graph().as_default(), tf.Session() as session:
        network = Network(name)
        network.start(session)
        if name != "prune":
            network.draw_masks(session)
        saver = tf.train.Saver(save_relative_paths=True)
        for iteration in range(1, ITERATIONS + 1):
            iterate(network, session)
            if iteration in (MIDWAY, ITERATIONS):
                path = os.path.join(folder, "model.ckpt")
                saver.save(session, path, global_step=network.step, write_meta_graph=False, write_state=False)
        step, masks = session.run([network.step, network.masks])
        print(name, "steps", step, "ones", [int(mask.sum()) for mask in masks])
