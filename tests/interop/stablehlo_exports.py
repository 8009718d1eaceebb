"""Runs exported StableHLO programs in JAX: stablehlo_exports.py FOLDER NAME…

FOLDER has NAME-pixels.safetensors, NAME-logits.safetensors, NAME-baked.mlir, and NAME-inputs.mlir with .safetensors.
"""

import json
import sys

import jax
import numpy as np
from jax._src.lib import xla_client
from safetensors import safe_open
from safetensors.numpy import load_file

client = jax.devices("cpu")[0].client


def run(path, arguments):
    program = client.compile(open(path).read(), xla_client.CompileOptions())
    return np.asarray(program.execute([jax.device_put(argument) for argument in arguments])[0])


folder, *names = sys.argv[1:]
for name in names:
    pixels = load_file(f"{folder}/{name}-pixels.safetensors")["images"]
    expected = load_file(f"{folder}/{name}-logits.safetensors")["logits"]
    with safe_open(f"{folder}/{name}-inputs.safetensors", "np") as file:
        weights = [file.get_tensor(key) for key in json.loads(file.metadata()["program"])["inputs"]]
    for path, arguments in (("baked", []), ("inputs", weights)):
        found = run(f"{folder}/{name}-{path}.mlir", [*arguments, pixels])
        difference = np.abs(found - expected).max()
        assert difference < 1e-4 * max(1.0, np.abs(expected).max()), (name, path, difference)
    description = json.loads(open(f"{folder}/{name}-baked.mlir").readline().removeprefix("// rigl-xla "))
    assert description["classes"][0] == "class0" and description["preprocessing"]["name"]
