"""Find the right FastFace learning-rate schedule with as few GPU hours as possible."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.schedulers.torch_adapter import FastFaceLR, HaarLR
    from tuner.sweep.load import load_sweep

__all__ = ["FastFaceLR", "HaarLR", "load_sweep"]

# The adapters import torch, and tables pandas: seconds that the rest of the package must not cost.
_HOMES = {
    "FastFaceLR": "tuner.schedulers.torch_adapter",
    "HaarLR": "tuner.schedulers.torch_adapter",
    "load_sweep": "tuner.sweep.load",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
