"""A Flax network with batch normalisation and dropout.

    python flax_mlp.py FOLDER             # writes FOLDER/model.rigl and FOLDER/arrays.npz
    rigl-xla train --model FOLDER/model.rigl --data FOLDER/arrays.npz --steps 200 --out RUN
    python flax_mlp.py FOLDER RUN         # predicts with the sparse weights
"""

import flax.linen as nn
import jax
import optax
import points
from rigl_xla import export, load, load_state


class Network(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(64)(x)))
        x = nn.Dropout(0.1, deterministic=not train)(x)
        return nn.Dense(points.CLASSES)(x)


network = Network()
variables = network.init(jax.random.key(0), points.BATCH_OF_ZEROS["x"], train=False)
params, state = variables["params"], variables["batch_stats"]


def loss(params, state, batch, key):
    variables = {"params": params, "batch_stats": state}
    logits, changed = network.apply(variables, batch["x"], True, mutable=["batch_stats"], rngs={"dropout": key})
    value = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
    return value, (changed["batch_stats"], {"accuracy": (logits.argmax(-1) == batch["label"]).mean()})


def predict(params, state, batch):
    return network.apply({"params": params, "batch_stats": state}, batch["x"], False)


def evaluate(params, state, batch):
    logits = predict(params, state, batch)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return losses, {"accuracy": logits.argmax(-1) == batch["label"]}


if __name__ == "__main__":
    folder = points.folder()
    if points.run() is None:
        export(
            loss, params, points.BATCH_OF_ZEROS, f"{folder}/model.rigl",
            state=state, key=jax.random.key(1), evaluate=evaluate, predict=predict,
        )  # fmt: skip
    else:
        trained, statistics = load(points.run(), like=params), load_state(points.run(), like=state)
        logits = predict(trained, statistics, points.TEST)
        print("accuracy", (logits.argmax(-1) == points.TEST["label"]).mean())
        print("zeros", (trained["Dense_0"]["kernel"] == 0).mean())
