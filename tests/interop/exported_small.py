"""Writes a small exported model, its data, and damaged copies. Argument: the folder."""

import json
import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "../../python"))
import jax
import jax.numpy as jnp
import numpy as np

import rigl_xla
from rigl_xla import _file

folder = sys.argv[1]
bad = os.path.join(folder, "bad")
os.makedirs(bad)
random = np.random.default_rng(0)
CLASSES, WIDTH, BATCH, EXAMPLES = 4, 24, 8, 52


def logits(params, image, key=None):
    hidden = jax.nn.relu(image @ params["w1"] + params["embedding"][0])
    if key is not None:
        hidden = jnp.where(jax.random.bernoulli(key, 0.9, hidden.shape), hidden / 0.9, 0)
    return hidden @ params["w2"]


def losses(found, label):
    return -jnp.take_along_axis(jax.nn.log_softmax(found), label[:, None], 1)[:, 0]


def loss(params, state, batch, key):
    value = losses(logits(params, batch["image"], key), batch["label"]).mean()
    return value, ({"mean": 0.9 * state["mean"] + 0.1 * batch["image"].mean(), "steps": state["steps"] + 1}, {})


def evaluate(params, state, batch):
    found = logits(params, batch["image"])
    return losses(found, batch["label"]), {"accuracy": found.argmax(-1) == batch["label"]}


image = random.normal(size=(EXAMPLES, 12)).astype(np.float32)
label = (image @ random.normal(size=(12, CLASSES))).argmax(1)
params = {
    "embedding": jnp.zeros((1, WIDTH)),
    "w1": jnp.array(random.normal(size=(12, WIDTH)), jnp.float32) / 4,
    "w2": jnp.array(random.normal(size=(WIDTH, CLASSES)), jnp.float32) / 5,
}
state = {"mean": jnp.float32(0), "steps": jnp.int32(0)}
batch = {"image": image[:BATCH], "label": label[:BATCH].astype(np.int32)}
model = os.path.join(folder, "model.rigl")
rigl_xla.export(loss, params, batch, model, state=state, key=jax.random.PRNGKey(1), evaluate=evaluate)
plain = lambda params, batch: losses(logits(params, batch["image"]), batch["label"]).mean()
for name, rows in ("whole", 2 * BATCH), ("half", BATCH):
    batch_of = {"image": image[:rows], "label": label[:rows].astype(np.int32)}
    rigl_xla.export(plain, params, batch_of, os.path.join(folder, f"{name}.rigl"))
part = {"train": slice(0, EXAMPLES), "test": slice(0, 50)}
np.savez(
    os.path.join(folder, "data.npz"),
    **{f"{name}/image": image[rows] for name, rows in part.items()},
    **{f"{name}/label": label[rows] for name, rows in part.items()},
)
np.savez(os.path.join(bad, "labels.npz"), label=label)

arrays = dict(_file.load(model))


def damaged(name, change):
    changed = dict(arrays)
    manifest = json.loads(changed["manifest"].tobytes())
    change(changed, manifest)
    changed["manifest"] = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    _file.save(os.path.join(bad, f"{name}.rigl"), changed)


def with_lapack(changed, manifest):
    solve = lambda embedding, w1, w2: jnp.linalg.eigh(w1 @ w1.T)[0].sum()
    specs = [jax.ShapeDtypeStruct(p["shape"], np.float32) for p in manifest["params"]]
    lowered = jax.jit(solve, keep_unused=True).lower(*specs)
    changed["module/train"] = np.frombuffer(lowered.compiler_ir("hlo").as_serialized_hlo_module_proto(), np.uint8)


damaged("custom", with_lapack)
damaged("lacks", lambda changed, manifest: changed.pop("params/w2"))
damaged("unknown", lambda changed, manifest: changed.update(more=np.zeros(3, np.float32)))
damaged("field", lambda changed, manifest: manifest.update(colour="red"))
damaged("newer", lambda changed, manifest: manifest.update(version=2))
damaged("shape", lambda changed, manifest: manifest["params"][0].update(shape=[2, 12]))
try:
    printing = lambda p, b: (jax.debug.print("{x}", x=b["image"][0, 0]), p["w1"].sum())[1]
    rigl_xla.export(printing, params, batch, model + "x")
    raise AssertionError("a debug.print was exported")
except ValueError as error:
    assert "callback" in str(error), error
