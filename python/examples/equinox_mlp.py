"""An Equinox network: its arrays are the parameters, all else stays in Python.

    python equinox_mlp.py FOLDER          # writes FOLDER/model.rigl and FOLDER/arrays.npz
    rigl-xla train --model FOLDER/model.rigl --data FOLDER/arrays.npz --steps 200 --out RUN
    python equinox_mlp.py FOLDER RUN      # predicts with the sparse weights
"""

import equinox as eqx
import jax
import optax
import points
from rigl_xla import export, load

network = eqx.nn.MLP(32, points.CLASSES, width_size=64, depth=2, key=jax.random.key(0))
params, static = eqx.partition(network, eqx.is_inexact_array)


def predict(params, batch):
    return jax.vmap(eqx.combine(params, static))(batch["x"])


def loss(params, batch):
    logits = predict(params, batch)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return losses.mean(), {"accuracy": logits.argmax(-1) == batch["label"]}


if __name__ == "__main__":
    folder = points.folder()
    if points.run() is None:
        export(loss, params, points.BATCH_OF_ZEROS, f"{folder}/model.rigl", predict=predict)
    else:
        trained = load(points.run(), like=params)
        print("accuracy", (predict(trained, points.TEST).argmax(-1) == points.TEST["label"]).mean())
        print("zeros", (trained.layers[0].weight == 0).mean())
