"""What is told of a training that does not fit into memory, and what a person can do about it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from tuner.config.run import FaceConfig, WorkloadConfig
from tuner.errors import NoMemoryError
from tuner.sizes import shown

_ASKED: Final = re.compile(r"(?:tried|unable) to allocate (?P<number>[\d.]+) (?P<unit>bytes|[KMGTPE]iB)", re.IGNORECASE)
"""In the words of torch for a GPU ("20.00 GiB"), of torch for the host (bytes), and of numpy."""


@contextmanager
def memory_explained(config: WorkloadConfig) -> Iterator[None]:
    """Turn an error of full memory, of the GPU or the host, into one that says what was asked and what would help.

    Raises:
        NoMemoryError: there was no memory for something inside.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not _is_out_of_memory(error):
            raise
        raise NoMemoryError(_message(error, config)) from error


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or _of_gpu(error) or "can't allocate memory" in str(error)


def _of_gpu(error: Exception) -> bool:
    # The second are plain RuntimeErrors, of libraries that take memory of their own.
    return isinstance(error, torch.OutOfMemoryError) or "STATUS_ALLOC_FAILED" in str(error)


def _message(error: Exception, config: WorkloadConfig) -> str:
    place = "GPU" if _of_gpu(error) else "host"
    found = _ASKED.search(str(error))
    asked = "it asked for more than there is"
    if found is not None:
        number, unit = found["number"], found["unit"]
        asked = f"it asked for another {shown(int(number)) if unit == 'bytes' else f'{number} {unit}'}"
    if not isinstance(config, FaceConfig):
        return f"a training must fit into the {place}'s memory, but {asked}; lower the batch size of {config.name}"
    return (
        f"a training must fit into the {place}'s memory, but {asked} at a batch size of {config.batch_size};"
        f" {', or '.join(_ways_out(config))} in `workload`"
    )


def _ways_out(config: FaceConfig) -> list[str]:
    """Return settings that need less memory, those first that change the least."""
    batch_size, parts = config.optimizer.batch_size, config.compute.accumulate
    more = next((k for k in range(2 * parts, batch_size // 2 + 1, parts) if batch_size % k == 0), None)
    ways = []
    if more is not None:
        ways.append(f"set `compute.accumulate` to {more}")
    ways.append(f"lower `optimizer.batch_size` from {batch_size}")
    if config.compute.precision == "float32":
        ways.append("set `compute.precision` to bf16")
    if config.head.chunk is None and config.head.sample_rate == 1:
        ways.append("for many identities set `head.chunk`, or `head.sample_rate` below 1,")
    return ways
