"""Exports JAX models for sparse training with rigl-xla, and loads the results.

    from rigl_xla import export
    export(loss, params, batch, "model.rigl")

then `rigl-xla train --model model.rigl --data arrays.npz` trains it.
"""

from ._export import export, step_key
from ._load import load, load_masks, load_state

__all__ = ["export", "load", "load_masks", "load_state", "step_key"]
__version__ = "0.1.0"
