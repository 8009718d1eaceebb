#!/usr/bin/env python3
"""Predictions of ONNX Runtime, OpenVINO and DeepSparse on the CPU, of the networks of peer_networks.py with sparse weights.

    peer_predictions.py make resnet50 0.9 resnet50.onnx     needs onnx and numpy
    peer_predictions.py serve openvino resnet50.onnx 8      for every line read, about a second of predictions

`make` writes random weights with uniform sparsity: all kernels but the first layer's and depthwise ones. Normalisation is folded
into kernels and biases, as exporters do. `serve` prints the median seconds of a prediction for every line that it reads, so that
several engines can take turns. DeepSparse is measured in an environment of its own (Python 3.11, deepsparse==1.8.0).
"""
import argparse
import math
import os
import statistics
import sys
import time

import numpy as np

THREADS = len(os.sched_getaffinity(0))


class OnnxOps:
    """Builds an ONNX graph from the networks' functions; arrays are (name, channels, side)."""

    def __init__(self, sparsity):
        self.sparsity, self.rng = sparsity, np.random.default_rng(0)
        self.nodes, self.constants, self.names, self.first = [], [], 0, True

    def name(self):
        self.names += 1
        return f"array_{self.names}"

    def constant(self, array):
        from onnx import numpy_helper

        name = self.name()
        self.constants.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def node(self, kind, inputs, **attributes):
        from onnx import helper

        name = self.name()
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def weights(self, shape, fan_in):
        weights = self.rng.normal(0, math.sqrt(2 / fan_in), shape)
        return weights * (self.rng.random(shape) >= self.sparsity)

    def conv(self, x, filters, size, stride, groups=1):
        name, channels, side = x
        inner = channels // groups
        shape, fan_in = (filters, inner, size, size), inner * size * size
        if groups > 1 or self.first:
            kernel = self.rng.normal(0, math.sqrt(2 / fan_in), shape)
        else:
            kernel = self.weights(shape, fan_in * max(1 - self.sparsity, 1e-3))
        self.first = False
        out = -(-side // stride)
        pad = max((out - 1) * stride + size - side, 0)
        low, high = pad // 2, pad - pad // 2
        inputs = [name, self.constant(kernel), self.constant(self.rng.normal(0, 0.1, filters))]
        y = self.node(
            "Conv", inputs, group=groups, strides=[stride] * 2, kernel_shape=[size] * 2, pads=[low, low, high, high]
        )
        return y, filters, out

    def depthwise(self, x, stride):
        return self.conv(x, x[1], 3, stride, groups=x[1])

    def norm(self, x):
        return Array(x)

    def relu(self, x):
        return Array((self.node("Relu", [x[0]]), *x[1:]))

    def add(self, x, y):
        return Array((self.node("Add", [x[0], y[0]]), *x[1:]))

    def max_pool(self, x):
        name, channels, side = x
        y = self.node("MaxPool", [name], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
        return Array((y, channels, side // 2))

    def mean(self, x):
        name = self.node("GlobalAveragePool", [x[0]])
        return Array((self.node("Flatten", [name]), *x[1:]))

    def dense(self, x, units):
        kernel = self.constant(self.weights((x[1], units), x[1]))
        return self.node("Gemm", [x[0], kernel, self.constant(np.zeros(units))])


class Array(tuple):
    """An array whose sum is a node."""

    ops = None

    def __add__(self, other):
        return Array.ops.add(self, other)


def make(network, sparsity, path):
    import onnx
    from onnx import TensorProto, helper
    from peer_networks import NETWORKS

    apply, side, classes = NETWORKS[network]
    ops = Array.ops = OnnxOps(sparsity)
    plain = ops.conv
    ops.conv = lambda x, filters, size, stride, groups=1: Array(plain(x, filters, size, stride, groups))
    logits = apply(ops, Array(("pixels", 3, side)))
    shape = ["batch", 3, side, side]
    graph = helper.make_graph(
        ops.nodes, network, [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", classes])], ops.constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def onnxruntime(path, pixels):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"pixels": pixels})


def openvino(path, pixels):
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(pixels.shape)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer([pixels], share_inputs=True)


def deepsparse(path, pixels):
    from deepsparse import compile_model

    engine = compile_model(path, batch_size=len(pixels), num_cores=THREADS)
    return lambda: engine.run([pixels])


ENGINES = {"onnxruntime": onnxruntime, "openvino": openvino, "deepsparse": deepsparse}


def serve(engine, path, batch, side):
    pixels = np.random.default_rng(1).random((batch, 3, side, side), np.float32)
    predict = ENGINES[engine](path, pixels)
    for _ in range(3):
        predict()
    print("ready", flush=True)
    for _ in sys.stdin:
        predict()
        begun, seconds = time.perf_counter(), []
        while time.perf_counter() - begun < 1:
            started = time.perf_counter()
            predict()
            seconds.append(time.perf_counter() - started)
        print(statistics.median(seconds), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make")
    maker.add_argument("network")
    maker.add_argument("sparsity", type=float)
    maker.add_argument("path")
    server = commands.add_parser("serve")
    server.add_argument("engine", choices=ENGINES)
    server.add_argument("path")
    server.add_argument("batch", type=int)
    server.add_argument("--side", type=int, default=224)
    args = parser.parse_args()
    if args.command == "make":
        make(args.network, args.sparsity, args.path)
    else:
        serve(args.engine, args.path, args.batch, args.side)


if __name__ == "__main__":
    main()
