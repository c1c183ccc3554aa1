"""How trials run: how many side by side, and what each of them gets."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from tuner.errors import UserError
from tuner.sweep.asked import Asked
from tuner.sweep.devices import VISIBLE, Gpu, visible
from tuner.sweep.ending import Ending
from tuner.tracking.environment import num_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """So many trials at a time; it says how a sweep is run, and is no part of what it finds.

    Each has a whole GPU, or none (`on_cpu`), and trains on `threads` CPU threads; to Ray it is worth `cpus` processors.
    `shared` is a folder that all machines see, None where there is but this one; the config of a trial gets what is in
    `elsewhere` then. A trial whose process is lost is taken
    up again `retries` times in a row: where there are several machines, it is mostly theirs that goes.
    """

    number: int = 1
    threads: int
    on_cpu: bool = False
    cpus: int = 1
    shared: Path | None = None
    elsewhere: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 0

    def alone(self) -> Self:
        """Return the same for one trial at a time."""
        return replace(self, number=1)


LOST_IN_A_ROW: Final = 3
"""So often a trial whose process was lost is taken up again, unless it got further meanwhile."""
ONE_LANE: Final = Lanes(threads=1)
"""One trial after another; for the executor, which has nothing to do with their threads."""


def wanted_gpus(concurrent: int | None) -> list[Gpu]:
    """Return the GPUs of this machine for so many trials at a time (None: one), one each; none for the CPU.

    Raises:
        UserError: there are GPUs, but not enough.
    """
    seen, wanted = visible(), concurrent or 1
    if seen and wanted > len(seen):
        raise UserError(
            f"`--concurrent <= {len(seen)}` must hold, the number of GPUs that can be seen, since each trial has one "
            f"to itself, but got {wanted}; lower it, or name more GPUs in {VISIBLE}"
        )
    return seen[:wanted]


def local_lanes(devices: Sequence[Gpu], *, concurrent: int | None, threads: int | None) -> Lanes:
    """Return how trials run on this machine.

    Args:
        devices: its GPUs that are used, from `wanted_gpus`.
        concurrent: the number of trials at a time; None: one.
        threads: those of each trial of a sweep that goes on, None for a share of the machine's. On the CPU losses
            depend on their number, in their last bits, so a sweep keeps it.

    Raises:
        UserError: there are more trials than processors.
    """
    number, cores = concurrent or 1, num_cores()
    if number > cores and not devices:
        raise UserError(f"`--concurrent <= {cores}` must hold, the number of processors, but got {number}; lower it")
    if devices or threads is None:
        threads = max(1, cores // number)
    return Lanes(number=number, threads=threads, on_cpu=not devices, retries=LOST_IN_A_ROW if number > 1 else 0)


@contextmanager
def lanes_of(
    asked: Asked, devices: Sequence[Gpu], *, threads: int | None, folder: Path, store: Path | None, ending: Ending
) -> Iterator[Lanes]:
    """Have the lanes that were asked for while the block runs: on this machine's `devices`, or those of a cluster.

    Args:
        asked: says how many, and where.
        devices: the GPUs of this machine, from `wanted_gpus`.
        threads: those of each trial of a sweep that goes on; None for a new one.
        folder: the sweep's.
        store: the stage store; None for none.
        ending: hears Ctrl-C and SIGTERM.

    Raises:
        UserError: they cannot be had.
    """
    if asked.ray_address is None:
        yield local_lanes(devices, concurrent=asked.concurrent, threads=threads)
        return
    from tuner.sweep.cluster import joined

    with joined(
        asked.ray_address, concurrent=asked.concurrent, threads=threads, folder=folder, store=store, ending=ending
    ) as lanes:
        yield lanes
