"""Batches made while the step before runs, on a CUDA device; by a thread, on a stream of its own."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]
"""Images and labels."""
MakeBatch = Callable[[int], Batch]


def prefetched(batches: MakeBatch, *, device: torch.device) -> MakeBatch:
    """Return what makes the same batches, on a CUDA device ahead of the step that needs them.

    On the CPU that is `batches` itself: a thread would take from the step the processors that it gives to the next
    batch, and a batch takes a hundredth of the time of a step.
    """
    return Prefetcher(batches, device=device) if device.type == "cuda" else batches


class Prefetcher:
    """`prefetcher(step)` returns `batches(step)` and has a thread begin `batches(step + 1)`.

    Steps may come in any order, at the price of waiting for a batch that was not begun. An error of the thread is
    raised at the step whose batch it was to make, and at no other. The thread ends with the prefetcher.

    Args:
        batches: makes the batch of a step, from that step alone; never called by two threads at once.
        device: where batches are made; on a CUDA device, on a stream of their own, beside the training step's.
    """

    def __init__(self, batches: MakeBatch, *, device: torch.device) -> None:
        # All that the thread knows: were it the prefetcher, neither would ever end.
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._make = partial(_made, batches, stream)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._begun: tuple[int, Future[_Made]] | None = None

    def __call__(self, step: int) -> Batch:
        """Return images and labels of `step` (from 0)."""
        begun, self._begun = self._begun, None
        if begun is None or begun[0] != step:
            if begun is not None:
                begun[1].cancel()
            begun = step, self._thread.submit(self._make, step)
        made = begun[1].result()
        self._begun = step + 1, self._thread.submit(self._make, step + 1)
        return made.take()


@dataclass(frozen=True, slots=True)
class _Made:
    """A batch, and the event after which it is there; None where it is there already."""

    batch: Batch
    ready: torch.cuda.Event | None

    def take(self) -> Batch:
        """Return the batch for use on the current stream, which waits for it; the host does not."""
        if self.ready is not None:
            stream = torch.cuda.current_stream(self.batch[0].device)
            stream.wait_event(self.ready)
            for tensor in self.batch:
                tensor.record_stream(stream)  # its memory is not given to a later batch while a step reads it
        return self.batch


def _made(batches: MakeBatch, stream: torch.cuda.Stream | None, step: int) -> _Made:
    if stream is None:
        return _Made(batches(step), None)
    with torch.cuda.stream(stream):
        return _Made(batches(step), stream.record_event())
