"""Read a loss from the device without making the device wait."""

from __future__ import annotations

import torch
from torch import Tensor


class LateLoss:
    """A loss on its way from a CUDA device to the host.

    `item()` on a device tensor waits for everything queued on the stream, so that reading the loss of step t after step
    t + 1 was launched waits for step t + 1 as well. Instead `send` queues the copy to page-locked memory right behind
    the step that computed the loss, and `read` waits for that copy alone. The value is the one at the time of `send`,
    also where the tensor is overwritten later.
    """

    def __init__(self, loss: Tensor) -> None:
        self._host = torch.empty((), dtype=loss.dtype, pin_memory=True)
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def fits(self, loss: Tensor) -> bool:
        """Return whether the buffer can take `loss` without a conversion."""
        return self._host.dtype == loss.dtype

    def send(self, loss: Tensor) -> None:
        """Queue the copy of `loss`, one element; the call does not wait."""
        self._host.copy_(loss.detach().reshape(()), non_blocking=True)
        self._copied.record(torch.cuda.current_stream(loss.device))

    def read(self) -> float:
        """Return the loss that was sent last, waiting only for the work before its copy."""
        self._copied.synchronize()
        return float(self._host.item())
