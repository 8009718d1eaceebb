"""The topology journal as docs/formats.md describes it: the reader printed there gives the masks of checkpoints.

Arguments: docs/formats.md, a journal, and checkpoints named by iteration, in ascending order.
"""

import re
import sys

import numpy as np
from safetensors.numpy import load_file

docs, journal, *checkpoints = sys.argv[1:]

source = re.search(r"```python\n(import json\nimport numpy as np\n\ndef masks.*?)```", open(docs).read(), re.S).group(1)
namespace = {}
exec(source, namespace)

saved = {int(re.search(r"ckpt-(\d+)", path).group(1)): load_file(path) for path in checkpoints}
records = namespace["masks"](journal)
found, history = {}, []
for iteration, step, layers in records:
    history.append((iteration, {name: mask.copy() for name, mask in layers.items()}))
for iteration, arrays in saved.items():
    masks = [masks for at, masks in history if at <= iteration][-1]
    for name, mask in masks.items():
        assert np.array_equal(mask, arrays[name + "/mask"]), (iteration, name)
        found[iteration] = found.get(iteration, 0) + 1
print(len(history), "records,", len(saved), "checkpoints,", min(found.values()), "layers")
