"""Sparse files as docs/formats.md describes them: the reader printed there, and SciPy or PyTorch on the csr form.

Arguments: docs/formats.md, a complete checkpoint, the same as bitmask and as csr; then the packages to check csr with.
"""

import json
import re
import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

docs, complete, bitmask, csr, *packages = sys.argv[1:]

blocks = re.findall(r"```python\n(.*?)```", open(docs).read(), re.S)
(source,) = [block for block in blocks if "def read(" in block]
namespace = {}
exec(source, namespace)
read = namespace["read"]

dense = load_file(complete)
found = read(bitmask)
masked = [name[: -len("/mask")] for name in dense if name.endswith("/mask")]
assert masked
for scope in masked:
    dense[scope + "/weights"] *= dense[scope + "/mask"]
assert found.keys() == dense.keys(), found.keys() ^ dense.keys()
for name, array in dense.items():
    assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name
assert all(np.array_equal(array, np.asarray(load_file(complete)[name])) for name, array in read(complete).items())

with safe_open(csr, "np") as file:
    layers = json.loads(file.metadata()["rigl-xla"])["sparse"]["layers"]
assert sorted(layers) == sorted(masked)
arrays = load_file(csr)
random = np.random.default_rng(0)
for scope, layer in layers.items():
    kernel = dense[scope + "/weights"]
    assert layer["shape"] == list(kernel.shape)
    rows, columns = kernel.shape[-1], kernel.size // kernel.shape[-1]
    crow, col, values = (arrays[f"{scope}/weights.{part}"] for part in ("crow_indices", "col_indices", "values"))
    assert len(values) == layer["connections"] == dense[scope + "/mask"].sum()
    expected = kernel.reshape(columns, rows).T
    inputs = random.standard_normal((columns, 3), dtype=np.float32)
    if "scipy" in packages:
        from scipy.sparse import csr_array

        matrix = csr_array((values, col, crow), shape=(rows, columns))
        matrix.check_format(full_check=True)
        assert matrix.has_canonical_format and np.array_equal(matrix.toarray(), expected), scope
        assert np.allclose(matrix @ inputs, expected @ inputs, atol=1e-4)
    if "torch" in packages:
        import torch

        parts = [torch.from_numpy(part) for part in (crow, col, values)]
        tensor = torch.sparse_csr_tensor(*parts, size=(rows, columns), check_invariants=True)
        assert np.array_equal(tensor.to_dense().numpy(), expected), scope
        assert np.allclose((tensor @ torch.from_numpy(inputs)).numpy(), expected @ inputs, atol=1e-4)
        if kernel.ndim == 4:
            height, width, channels, _ = kernel.shape
            image = torch.randn(1, channels, 8, 9)
            direct = torch.nn.functional.conv2d(image, torch.from_numpy(kernel).permute(3, 2, 0, 1))
            # Patches [channels, height, width] become [height, width, channels].
            patches = torch.nn.functional.unfold(image, (height, width)).reshape(channels, height * width, -1)
            unfolded = tensor @ patches.permute(1, 0, 2).reshape(columns, -1)
            assert torch.allclose(unfolded.reshape(direct.shape), direct, atol=1e-3), scope
others = [name for name in dense if not any(name in (s + "/mask", s + "/weights") for s in masked)]
assert all(np.array_equal(arrays[name], dense[name]) for name in others)
print(f"{len(layers)} layers with {' and '.join(packages)}")
