"""The backbone through torch.compile: compiled once in a process, however many workloads are built in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from tuner.errors import UserError

_SHOWN: Final = 200
"""Characters of what the compiler said."""


def compiled(backbone: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what computes `backbone(images)`, compiled when it is first called with images of a shape.

    The compiled code belongs to the backbone's class, not to this object, and takes the weights as arguments: a later
    backbone of the same architecture finds it in the process, and a later process finds it in torch's cache on disk.
    The backbone itself, and with it its state dict, stays as it is.
    """
    forward: Callable[[Tensor], Tensor] = torch.compile(backbone, dynamic=False)
    return forward


@contextmanager
def compiler_at_hand() -> Iterator[None]:
    """Say what is missing where something inside cannot be compiled; UserError then."""
    try:
        yield
    except RuntimeError as error:
        if not _is_of_compiler(error):
            raise
        said = " ".join(str(error).split())
        raise UserError(
            "`compile` takes a working C++ compiler, and on a GPU Triton, but the backbone cannot be compiled"
            f" ({said[:_SHOWN]}); install g++ or name another in CXX, or set `compute.compile` to false"
        ) from error


def _is_of_compiler(error: RuntimeError) -> bool:
    from torch._dynamo.exc import BackendCompilerFailed  # takes a second, which only an error is worth

    return isinstance(error, BackendCompilerFailed)
