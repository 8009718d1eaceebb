"""TensorBoard's own reader finds in the event files of two equal runs, the second resumed, what their metrics say.

Arguments: the two run folders.
"""

import json
import os
import struct
import sys

from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.hparams import plugin_data_pb2

RATE = "train/steps_per_s"


def load(run):
    accumulator = event_accumulator.EventAccumulator(run, size_guidance={kind: 0 for kind in event_accumulator.DEFAULT_SIZE_GUIDANCE})
    accumulator.Reload()
    return accumulator


def series(accumulator, tag):
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


whole, resumed = map(load, sys.argv[1:])
tags = whole.Tags()
assert resumed.Tags() == tags
for tag in tags["scalars"]:
    found = series(whole, tag)
    steps = [step for step, _ in found]
    assert steps == sorted(set(steps)), (tag, steps)
    assert [step for step, _ in series(resumed, tag)] == steps, tag
    assert tag == RATE or series(resumed, tag) == found, tag

lines = [json.loads(line) for line in open(os.path.join(sys.argv[1], "metrics.jsonl"))]
launches = [line for line in lines if "eval" not in line]
for key in ("loss", "cross_entropy", "accuracy", "learning_rate"):
    found, expected = series(whole, "train/" + key), [(line["iteration"], line[key]) for line in launches]
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert all(abs(a - b) <= 1e-6 * abs(b) for (_, a), (_, b) in zip(found, expected)), key
for key in ("gradient_norm", "weight_norm"):
    for layer in ("layer1", "layer2", "layer3"):
        found = series(whole, f"{key}/{layer}")
        assert [step for step, _ in found] == [line["iteration"] for line in launches]
        assert all(norm > 0 and abs(norm - line[key][layer]) <= 1e-6 * norm for (_, norm), line in zip(found, launches)), key
tested = [(line["iteration"], line["eval"]["top1"]) for line in lines if "eval" in line]
assert len(tested) > 2 and [step for step, _ in series(whole, "eval/top1")] == [step for step, _ in tested]

updates = [step for step, _ in series(whole, "drop_fraction")]
assert len(updates) == 5, updates
for kind in ("histograms", "images"):
    assert len(tags[kind]) == 3, tags[kind]
for layer, weights in (("layer1", 235200), ("layer2", 30000), ("layer3", 1000)):
    assert [step for step, _ in series(whole, "moved/" + layer)] == updates
    sparsity = series(whole, "sparsity/" + layer)[-1][1]
    histogram = whole.Histograms("weights/" + layer)[-1]
    value = histogram.histogram_value
    assert histogram.step == updates[-1] and value.num == sum(value.bucket) == round(weights * (1 - sparsity))
    norm = next(norm for step, norm in series(whole, "weight_norm/" + layer) if step >= histogram.step)  # of the same launch
    assert abs(norm - value.sum_squares**0.5) < 1e-3 * norm
    image = whole.Images("mask/" + layer)[-1]
    assert image.encoded_image_string.startswith(b"\x89PNG")
    assert struct.unpack(">II", image.encoded_image_string[16:24]) == (image.width, image.height)
ever = [share for _, share in series(whole, "ever_active/layer1")]
assert ever == sorted(ever) and ever[0] < ever[-1]

content = whole.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
hparams = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
assert hparams["method.name"].string_value == "rigl" and hparams["sparsity.target"].number_value == 0.98
content = whole.SummaryMetadata("_hparams_/session_end_info").plugin_data.content
assert plugin_data_pb2.HParamsPluginData.FromString(content).session_end_info.status == 1
print(len(tags["scalars"]), "scalars")
