"""Find the right FastFace learning-rate schedule with as few GPU hours as possible."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.schedulers.torch_adapter import FastFaceLR, HaarLR

__all__ = ["FastFaceLR", "HaarLR"]


def __getattr__(name: str) -> Any:
    # The adapters import torch, seconds that the rest of the package must not cost.
    if name in __all__:
        from tuner.schedulers import torch_adapter

        return getattr(torch_adapter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
