"""Runs exported networks in ONNX Runtime and PyTorch: onnx_exports.py FOLDER NAME…

FOLDER has NAME-pixels.safetensors and NAME-logits.safetensors, ONNX models NAME-KIND.onnx, and NAME.py with NAME.safetensors.
"""

import glob
import importlib.util
import json
import sys

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.numpy import load_file
from torch.nn.utils import parametrize


def close(found, expected, what):
    difference = np.abs(found - expected).max()
    assert difference < 1e-4 * max(1.0, np.abs(expected).max()), f"{what}: {difference}"


folder, *names = sys.argv[1:]
for name in names:
    pixels = load_file(f"{folder}/{name}-pixels.safetensors")["images"]
    expected = load_file(f"{folder}/{name}-logits.safetensors")["logits"]
    models = glob.glob(f"{folder}/{name}-*.onnx")
    assert models
    for path in models:
        model = onnx.load(path)
        # The checker's inference of types does not know that programs make sparse initializers dense.
        onnx.checker.check_model(model, full_check="sparse" not in path)
        properties = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(properties["classes"])[:2] == ["class0", "class1"], properties
        assert "name" in json.loads(properties["preprocessing"])
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        rounded = "bf16" in path
        logits = load_file(f"{folder}/{name}-bf16-logits.safetensors")["logits"] if rounded else expected
        close(session.run(None, {"pixels": pixels})[0], logits, path)
        # Any batch size.
        close(session.run(None, {"pixels": pixels[:1]})[0], logits[:1], path)
        if "sparse" in path:
            assert model.graph.sparse_initializer, path

    spec = importlib.util.spec_from_file_location("loader", f"{folder}/{name}.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    network = loader.load(f"{folder}/{name}.safetensors")
    with torch.no_grad():
        close(network(torch.from_numpy(pixels)).numpy(), expected, f"{name} in PyTorch")
    # A gradient step moves connections alone.
    masked = [part for part in network.parts.values() if parametrize.is_parametrized(part)]
    assert masked
    before = [part.weight.detach().clone() for part in masked]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network.train()(torch.from_numpy(pixels)).logsumexp(1).sum().backward()
    optimizer.step()
    for part, weight in zip(masked, before):
        mask = part.parametrizations.weight[0].mask
        assert not part.weight[~mask].any() and not weight[~mask].any()
    assert any((part.weight != weight).any() for part, weight in zip(masked, before))
