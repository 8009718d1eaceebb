"""Checks a checkpoint, its logits and its scores against NumPy: inference.py CHECKPOINT DATA LOGITS SCORES.

Also writes the same network as converted from the original system: masks in float32, thresholds, no metadata of ours.
"""

import json
import sys
from pathlib import Path

import numpy as np
from network import forward, iteration, load, read_split, scaled
from safetensors.numpy import save_file

checkpoint, data, logits_file, scores = sys.argv[1:]
state, metadata = load(checkpoint)
assert iteration(metadata) > 0
assert {state[f"layer{i}/mask"].dtype for i in (1, 2, 3)} == {np.dtype(bool)}
assert state["layer1/weights"].shape == (784, 300) and state["global_step"].dtype == np.int64

pixels, labels = read_split(data, "t10k")
ours = load(logits_file)[0]["logits"]
assert ours.shape == (256, 10) and ours.dtype == np.float32
theirs = forward(state, scaled(pixels[:256]))[1]
error = np.abs(ours - theirs).max() / np.abs(theirs).max()
assert error < 1e-5, error
assert np.abs(theirs).max() > 1

logits = forward(state, scaled(pixels))[1]
report = json.loads(scores)
top1 = np.mean(logits.argmax(axis=1) == labels)
own = logits[np.arange(len(labels)), labels]
top5 = np.mean((logits > own[:, None]).sum(axis=1) < 5)
shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
loss = np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels])
assert report["examples"] == len(labels) == 10000
# A pair of logits closer than their error may swap.
assert abs(report["top1"] - top1) < 1.5e-4 and abs(report["top5"] - top5) < 1.5e-4, (report, top1, top5)
assert abs(report["loss"] / loss - 1) < 1e-5, (report, loss)
assert top1 > 0.85

converted = {name: array for name, array in state.items() if "Momentum" not in name and "step" not in name}
for layer in ("layer1", "layer2", "layer3"):
    converted[f"{layer}/mask"] = converted[f"{layer}/mask"].astype(np.float32)
    converted[f"{layer}/threshold"] = np.zeros((), np.float32)
save_file(converted, Path(logits_file).with_name("converted.safetensors"))
print(f"logits within {error:.1e}, top-1 {top1}")
