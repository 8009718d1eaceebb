"""Export of a model: a loss with its gradient, metrics and predictions, as XLA programs in one file."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Callable

import jax
import jax.numpy as jnp
import numpy as np

from ._file import TYPES, save
from ._tree import named_leaves

# Element types that a program's arrays may have.
_DTYPES = {np.dtype(TYPES[name]) for name in TYPES} - {np.dtype(t) for t in (np.int8, np.uint16, np.int16)}


def step_key(key: jax.Array, seed: int, iteration: int, replica: int = 0) -> jax.Array:
    """The key that an iteration (from 0) of a run with `--seed seed` gives to the loss, from the exported key."""
    seed = (seed & 0xFFFFFFFF) ^ (seed >> 32)
    return _folded(key, jnp.uint32(seed), jnp.uint32(iteration), jnp.uint32(replica))


def _folded(key: jax.Array, seed: jax.Array, iteration: jax.Array, replica: jax.Array) -> jax.Array:
    for number in (seed, iteration, replica):
        key = jax.random.fold_in(key, number)
    return key


def export(
    loss: Callable[..., Any],
    params: Any,
    batch: Any,
    path: str | os.PathLike[str],
    *,
    state: Any = None,
    key: jax.Array | None = None,
    evaluate: Callable[..., Any] | None = None,
    predict: Callable[..., Any] | None = None,
    has_aux: bool | None = None,
) -> None:
    """Writes a model file for `rigl-xla train --model`.

    Args:
      loss: `loss(params, [state,] batch [, key])` returns the scalar loss; with metrics `(loss, metrics)`, with state
        `(loss, new_state)` or `(loss, (new_state, metrics))`. Metrics are a scalar or an array per example each, in any
        pytree.
      params: the initial weights, floating point, in any pytree.
      batch: one batch, in any pytree. The first axis of every leaf is the example. A file of data has an array with the
        name of each leaf. The values do not matter, only shapes and types.
      path: the file, usually `*.rigl`.
      state: arrays that the loss updates without a gradient, such as batch statistics.
      key: a random key, if the loss draws random numbers; iterations get `step_key(key, seed, iteration, replica)`.
      evaluate: `evaluate(params, [state,] batch)` returns what `--eval` measures: a loss, `(loss, metrics)` or a dict of
        metrics with a `loss`. Arrays per example count every example of a set; scalars only whole batches. Default: the
        loss and metrics of `loss`.
      predict: `predict(params, [state,] batch)` returns arrays for `rigl-xla predict`, whose first axis is the example.
        It may leave inputs unused, e.g. labels.
      has_aux: as for `jax.grad`; checked if given.

    Raises:
      ValueError: arguments that do not fit together, or a program that other devices cannot run.
    """
    exporter = _Exporter(loss, params, state, batch, key, has_aux)
    train = exporter.train()
    manifest: dict[str, Any] = {
        "format": "rigl-xla model",
        "version": 1,
        "jax": jax.__version__,
        "name": getattr(loss, "__name__", type(loss).__name__),
        "batch": exporter.examples,
        "params": exporter.described(exporter.params, "params"),
        "state": exporter.described(exporter.state, "state"),
        "inputs": exporter.described(exporter.batch, "batch"),
        "key": None if key is None else {"shape": list(exporter.key_data.shape)},
        "metrics": exporter.metrics,
    }
    arrays = {f"params/{name}": np.asarray(leaf) for name, _, leaf in exporter.params}
    arrays |= {f"state/{name}": np.asarray(leaf) for name, _, leaf in exporter.state}
    if exporter.key_data is not None:
        arrays["key"] = np.asarray(exporter.key_data)
    arrays["module/train"] = train
    arrays["module/evaluate"], manifest["evaluation"] = exporter.evaluate(evaluate)
    manifest["prediction"] = None
    if predict is not None:
        arrays["module/predict"], manifest["prediction"] = exporter.predict(predict)
    arrays["manifest"] = np.frombuffer(json.dumps(manifest, indent=1).encode(), np.uint8)
    save(path, arrays)


class _Exporter:
    """Shapes of the arguments, and the programs of an export."""

    def __init__(self, loss: Any, params: Any, state: Any, batch: Any, key: Any, has_aux: bool | None):
        self.loss, self.has_aux = loss, has_aux
        self.trees = [jax.tree_util.tree_map(jnp.asarray, tree) for tree in (params, state, batch)]
        names = ("params", "state", "batch")
        self.params, self.state, self.batch = (named_leaves(t, n) for t, n in zip(self.trees, names))
        self.has_state = state is not None
        self.metrics: list[str] = []
        self._check()
        self.examples = self.batch[0][2].shape[0]
        self.key = key
        self.key_data = None
        if key is not None:
            typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
            self.key_data = jax.random.key_data(key) if typed else key
            self.wrap = (lambda data: jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))) if typed else None

    def _check(self) -> None:
        if not self.params or not self.batch:
            raise ValueError("params and batch must have at least one array each")
        for what, leaves in (("params", self.params), ("state", self.state), ("batch", self.batch)):
            for name, _, leaf in leaves:
                if np.dtype(leaf.dtype) not in _DTYPES:
                    raise ValueError(f"{what}: {name!r} has elements of type {leaf.dtype}, which cannot be exported")
        for name, _, leaf in self.params:
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise ValueError(
                    f"params: {name!r} has elements of type {leaf.dtype}, expected floating point; "
                    "arrays that are not trained belong in state"
                )
        for name, _, leaf in self.batch:
            if leaf.ndim == 0 or leaf.shape[0] != self.batch[0][2].shape[0] or leaf.shape[0] == 0:
                raise ValueError(
                    f"batch: {name!r} has the shape {leaf.shape}, expected the example as its first axis, "
                    f"as in {self.batch[0][0]!r} of shape {self.batch[0][2].shape}"
                )

    def described(self, leaves: list[tuple[str, Any, Any]], what: str) -> list[dict[str, Any]]:
        return [
            {"name": name, "dtype": str(np.dtype(leaf.dtype)), "shape": list(leaf.shape), "path": path}
            for name, path, leaf in leaves
        ]

    def _structures(self) -> list[Any]:
        return [jax.tree_util.tree_structure(tree) for tree in self.trees]

    def _specs(self, *names: str) -> list[jax.ShapeDtypeStruct]:
        lists: dict[str, Any] = {"params": self.params, "state": self.state, "batch": self.batch}
        number = jax.ShapeDtypeStruct((), jnp.uint32)
        specs: list[jax.ShapeDtypeStruct] = []
        for name in names:
            if name != "key":
                specs += [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for _, _, leaf in lists[name]]
            elif self.key_data is not None:
                specs += [jax.ShapeDtypeStruct(self.key_data.shape, self.key_data.dtype), number, number, number]
        return specs

    def _split(self, arrays: tuple[Any, ...], *names: str) -> dict[str, Any]:
        """The pytrees and the key that flat arguments belong to."""
        rest, found = list(arrays), {}
        structures = dict(zip(("params", "state", "batch"), self._structures()))
        for name in names:
            if name == "key":
                if self.key_data is not None:
                    data, numbers, rest = rest[0], rest[1:4], rest[4:]
                    found["key"] = _folded(self.wrap(data) if self.wrap else data, *numbers)
                continue
            count = structures[name].num_leaves
            found[name] = jax.tree_util.tree_unflatten(structures[name], rest[:count])
            rest = rest[count:]
        return found

    def _loss(self, params: Any, given: dict[str, Any]) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Loss, new state and named metrics."""
        arguments = [params] + ([given["state"]] if self.has_state else []) + [given["batch"]]
        result = self.loss(*arguments, *([given["key"]] if "key" in given else []))
        value, aux = result if isinstance(result, (tuple, list)) and len(result) == 2 else (result, None)
        if self.has_aux is not None and self.has_aux == (aux is None):
            raise ValueError(f"loss returns {'no' if aux is None else 'an'} auxiliary value, but has_aux is {self.has_aux}")
        value = jnp.asarray(value)
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(f"loss returns {value.dtype}{list(value.shape)}, expected a floating-point scalar")
        state, metrics = None, aux
        if self.has_state:
            structure = self._structures()[1]
            is_state = lambda tree: jax.tree_util.tree_structure(tree) == structure
            if aux is not None and is_state(aux):
                state, metrics = aux, None
            elif isinstance(aux, (tuple, list)) and len(aux) == 2 and is_state(aux[0]):
                state, metrics = aux
            else:
                raise ValueError(
                    "loss must return (loss, new_state) or (loss, (new_state, metrics)), with a new state of the structure "
                    f"of the state, {structure}"
                )
            self._check_state(state)
        return value, (state, self._named(metrics))

    def _check_state(self, state: Any) -> None:
        for (name, _, old), (_, _, new) in zip(self.state, named_leaves(state, "state")):
            new = jnp.asarray(new)
            if new.shape != old.shape or new.dtype != old.dtype:
                raise ValueError(
                    f"state: the new {name!r} is {new.dtype}{list(new.shape)}, expected {old.dtype}{list(old.shape)}"
                )

    def _named(self, metrics: Any) -> dict[str, jax.Array]:
        """Named metrics in f32: scalars, or one value per example."""
        named = {}
        for name, _, leaf in named_leaves(metrics, "metric"):
            leaf = jnp.asarray(leaf)
            if leaf.shape not in ((), (self.examples,)):
                raise ValueError(
                    f"metric {name!r} has the shape {leaf.shape}, expected a scalar or one value per example, "
                    f"({self.examples},)"
                )
            named[name] = leaf.astype(jnp.float32)
        return named

    def train(self) -> np.ndarray:
        order = ("params", "state", "key", "batch")

        def step(*arrays: Any) -> tuple[Any, ...]:
            given = self._split(arrays, *order)
            differentiated = jax.value_and_grad(lambda params: self._loss(params, given), has_aux=True)
            (value, (state, metrics)), gradients = differentiated(given["params"])
            self.metrics = list(metrics)
            if "loss" in metrics:
                raise ValueError("a metric has the name 'loss'; rename it")
            leaves = jax.tree_util.tree_leaves
            means = [metric.mean() for metric in metrics.values()]
            return (value.astype(jnp.float32), *means, *leaves(state), *leaves(gradients))

        return self._module(step, self._specs(*order))

    def evaluate(self, function: Callable[..., Any] | None) -> tuple[np.ndarray, dict[str, Any]]:
        order = ("params", "state", "key", "batch") if function is None else ("params", "state", "batch")
        results: list[dict[str, Any]] = []

        def measured(*arrays: Any) -> tuple[Any, ...]:
            given = self._split(arrays, *order)
            if function is None:
                value, (_, metrics) = self._loss(given["params"], given)
                named = {"loss": value.astype(jnp.float32), **metrics}
            else:
                result = self._call(function, given)
                if isinstance(result, dict):
                    named = self._named(result)
                else:
                    value, aux = result if isinstance(result, (tuple, list)) and len(result) == 2 else (result, None)
                    named = self._named({"loss": value}) | self._named(aux)
            if "loss" not in named:
                raise ValueError(f"evaluate returns no metric 'loss', but {', '.join(named)}")
            results[:] = [{"name": name, "per_example": value.ndim == 1} for name, value in named.items()]
            return tuple(named.values())

        module = self._module(measured, self._specs(*order))
        return module, {"key": function is None and self.key_data is not None, "results": results}

    def predict(self, function: Callable[..., Any]) -> tuple[np.ndarray, dict[str, Any]]:
        order = ("params", "state", "batch")
        results: list[dict[str, Any]] = []

        def predicted(*arrays: Any) -> tuple[Any, ...]:
            leaves = named_leaves(self._call(function, self._split(arrays, *order)), "prediction")
            leaves = [(name, path, jnp.asarray(leaf)) for name, path, leaf in leaves]
            for name, _, leaf in leaves:
                if leaf.ndim == 0 or leaf.shape[0] != self.examples or np.dtype(leaf.dtype) not in _DTYPES:
                    raise ValueError(
                        f"predict returns {name!r} as {leaf.dtype}{list(leaf.shape)}, expected the example as the first "
                        f"axis, of length {self.examples}"
                    )
            results[:] = self.described(leaves, "prediction")
            return tuple(leaf for _, _, leaf in leaves)

        return self._module(predicted, self._specs(*order)), {"results": results}

    def _call(self, function: Callable[..., Any], given: dict[str, Any]) -> Any:
        return function(*(given[name] for name in ("params", "state", "batch") if name != "state" or self.has_state))

    def _module(self, function: Callable[..., Any], specs: list[jax.ShapeDtypeStruct]) -> np.ndarray:
        # Lowered for CPUs, whose programs have no custom calls of one vendor.
        lowered = jax.jit(function, keep_unused=True).trace(*specs).lower(lowering_platforms=("cpu",))
        module = lowered.compiler_ir("hlo")
        calls = sorted(set(re.findall(r'custom_call_target="([^"]*)"', module.as_hlo_text())))
        if calls:
            raise ValueError(
                f"the program calls {', '.join(calls)}, which not every device has; leave out callbacks, debug.print and "
                "functions of LAPACK"
            )
        return np.frombuffer(module.as_serialized_hlo_module_proto(), np.uint8)
