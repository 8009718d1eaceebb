"""Puts a start of our choice into a run folder, in the place of its checkpoint: starts.py RUN PARAMETERS.

`start_as` says what the kernels are. Biases, slots and averages get values too, so that what an update must reset, or
must leave alone, shows.
"""

import json
import sys
from pathlib import Path

import numpy as np
from network import Mnist, load
from replay import first_parameters
from safetensors.numpy import save_file
from training import Run

F = np.float32
KERNELS = {
    # Few distinct values, zero among them: ties in every selection.
    "quantised": lambda name, kernel: np.round(kernel * 64) / 64,
    "equal": lambda name, kernel: np.copysign(F(1 / 32), kernel),
    "zero-layer2": lambda name, kernel: kernel * (not name.startswith("layer2/")),
}


def main():
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    parameters = first_parameters(options["start"])
    run = Run(options["method"], options["settings"], Mnist(parameters, options["method"] != "dense", options["data"]))
    run.start(parameters)
    (old,) = folder.glob("ckpt-*.safetensors")
    metadata = load(old)[1]
    generator = np.random.default_rng(1)
    for name, array in run.state.items():
        if array.dtype != F or array.ndim == 0:
            continue
        if name in (layer.kernel for layer in run.layers):
            run.state[name] = KERNELS[options["start_as"]](name, array).astype(F)
        else:
            run.state[name] = generator.uniform(0, 0.01, array.shape).astype(F)
    metadata["rigl-xla"] = json.dumps(json.loads(metadata["rigl-xla"]) | {"iteration": 0})
    save_file(run.state, folder / "ckpt-0.safetensors", metadata)
    old.unlink()


main()
