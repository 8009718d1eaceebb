"""rigl_xla.Run reads a run folder as the program does, without JAX.

Arguments: the folder of the package, the run folder, the program, and the object of `rigl-xla topology --json`.
"""

import json
import sys

import numpy as np

path, folder, program, topology = sys.argv[1:]
sys.path.insert(0, path)

from rigl_xla import Run  # noqa: E402

run = Run(folder)
assert run.config["method"]["name"] == "rigl"
assert len(run.iterations) > 5
for iteration in run.iterations:
    arrays, masks, weights = run.arrays(iteration), run.masks(iteration), run.weights(iteration)
    assert len(masks) == 3
    for layer, mask in masks.items():
        assert np.array_equal(mask, arrays[layer + "/mask"]), (iteration, layer)
        assert np.array_equal(weights[layer], arrays[layer + "/weights"] * mask)
expected = {layer["name"]: layer for layer in json.loads(topology)["layers"]}
last = run.topology()[-1]
for layer, mask in run.masks().items():
    assert last["connections." + layer] == mask.sum() == expected[layer]["connections"]
    assert abs(last["ever_active." + layer] - expected[layer]["ever_active"]) < 1e-12
evaluated = [record for record in run.records if "eval.top1" in record]
assert [record["iteration"] for record in evaluated] == [20, 40, 50]
assert list(run.metrics["iteration"]) == [record["iteration"] for record in run.records]

images = np.random.default_rng(0).integers(0, 256, (100, 28, 28), np.uint8)
logits = run.predict(images, program=program)
assert logits.shape == (100, 10) and np.isfinite(logits).all()
for wrong in (lambda: run.masks(-1), lambda: run.arrays(3), lambda: Run(folder + "/none")):
    try:
        wrong()
    except (ValueError, FileNotFoundError) as error:
        assert "expected" in str(error) or "no masks" in str(error), error
    else:
        raise AssertionError("accepted")
print("read")
