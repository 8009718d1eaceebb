"""Python beside rigl-xla: exports JAX models for it, loads what it trained, and reads its run folders.

    from rigl_xla import export
    export(loss, params, batch, "model.rigl")

then `rigl-xla train --model model.rigl --data arrays.npz` trains the model, and

    from rigl_xla import Run
    Run("runs/x").masks(3000)

shows what happened. Only `export`, `step_key`, `load`, `load_masks` and `load_state` need JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._export import export, step_key
    from ._load import load, load_masks, load_state
    from .run import Run

_MODULES = {
    "export": "._export",
    "step_key": "._export",
    "load": "._load",
    "load_masks": "._load",
    "load_state": "._load",
    "Run": ".run",
}

__all__ = ["Run", "export", "load", "load_masks", "load_state", "step_key"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports a module when one of its names is used, so that reading runs does not need JAX."""
    if name not in _MODULES:
        raise AttributeError(f"module 'rigl_xla' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
