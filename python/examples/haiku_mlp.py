"""A Haiku network.

    python haiku_mlp.py FOLDER            # writes FOLDER/model.rigl and FOLDER/arrays.npz
    rigl-xla train --model FOLDER/model.rigl --data FOLDER/arrays.npz --steps 200 --out RUN
    python haiku_mlp.py FOLDER RUN        # predicts with the sparse weights
"""

import haiku as hk
import jax
import optax
import points
from rigl_xla import export, load

network = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([64, 32, points.CLASSES])(x)))
params = network.init(jax.random.PRNGKey(0), points.BATCH_OF_ZEROS["x"])


def predict(params, batch):
    return network.apply(params, batch["x"])


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
        print("zeros", (trained["mlp/~/linear_0"]["w"] == 0).mean())
