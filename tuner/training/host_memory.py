"""What becomes of host memory that a training step frees: the next step needs as much."""

import ctypes
from typing import Final

_MMAP_THRESHOLD: Final = (-3, 32 * 2**20)
"""glibc's M_MMAP_THRESHOLD: blocks below it come from the heap. The largest value that every glibc takes."""
_TRIM_THRESHOLD: Final = (-1, 2**31 - 1)
"""glibc's M_TRIM_THRESHOLD: so many free bytes at the end of the heap are kept."""


def keep_freed_memory() -> None:
    """Keep what is freed for the next step, in this whole process, where the allocator is glibc's.

    A step on the CPU takes and frees tens of megabytes. By itself glibc gives most of them back to the system, which
    has to clear them for the next step: thousands of page faults, a tenth of the time, more on a busy machine.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc
        return
    for option, value in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
        set_option(option, value)
