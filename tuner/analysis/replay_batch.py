"""Replay many schedules over one log: the detectors compiled, one thread for each core.

Each result holds the same bits as `tuner.analysis.replay.replay`, which is the reference. A schedule for which there is
no compiled loop is advanced in Python.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.analysis.loss_log import LossLog
from tuner.schedulers.fastface import FastFaceParams
from tuner.schedulers.haar import HaarParams
from tuner.schedulers.registry import Schedule

CHUNK = 16
"""Schedules handed to each thread at a time, which bounds the results that wait to be taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorChanges:
    """A schedule's LR factor: `first` at the log's first step, `factors[i]` from `places[i]` steps after it on.

    `places` int32 and `factors` float64, both [changes]; places rise.
    """

    first: float
    places: NDArray[np.int32]
    factors: NDArray[np.float64]


def replay_batch(
    schedules: Sequence[Schedule], log: LossLog, *, delay: int, threads: int | None = None
) -> Iterator[FactorChanges]:
    """Yield what each schedule makes of the losses in `log`, in order; `threads` None takes one for each core.

    Memory: 36 bytes a step of the log for each thread, and the results that were not taken yet.
    """
    threads = threads or os.cpu_count() or 1
    replayer = Replayer(log, delay=delay)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(schedules), CHUNK * threads):
            yield from pool.map(replayer.changes, schedules[start : start + CHUNK * threads])


class Replayer:
    """Replays one schedule after another over the same losses, in arrays that each thread keeps."""

    def __init__(self, log: LossLog, *, delay: int) -> None:
        self._losses = np.ascontiguousarray(log.losses)
        self._delay = delay
        self._room = threading.local()

    def changes(self, schedule: Schedule) -> FactorChanges:
        """Return where the factor changes within the log."""
        from tuner.analysis import replay_kernels as kernels

        factors, _ = self._run(schedule)
        first = float(schedule.start()[1])
        late = self._delay if schedule.reads_loss else 0
        known = factors[: max(0, len(factors) - 1 - late)]  # what later losses decide lies beyond the log
        found = self._room.places[: kernels.changes(known, first, self._room.places)]
        return FactorChanges(first=first, places=found + np.int32(1 + late), factors=factors[found])

    def responses(self, schedule: Schedule) -> NDArray[np.float64]:
        """Return the detector's response to each loss, NaN where nothing is decided on it; overwritten by the next."""
        return self._run(schedule)[1]

    def _run(self, schedule: Schedule) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return, by step, the factor that `advance` returns with its loss, and the response to it."""
        from tuner.analysis import replay_kernels as kernels

        if not hasattr(self._room, "floats"):
            self._room.floats = [np.empty(len(self._losses)) for _ in range(4)]
            self._room.places = np.empty(len(self._losses), dtype=np.int32)
        factors, responses, *more = self._room.floats
        params = schedule.params
        if isinstance(params, FastFaceParams):
            kernels.fastface_factors(*kernels.records(params), self._losses, factors, responses)
        elif isinstance(params, HaarParams):
            kernels.haar_factors(*kernels.records(params), self._losses, factors, responses, *more)
        else:
            responses.fill(np.nan)
            state, _ = schedule.start()
            for index, loss in enumerate(self._losses.tolist()):
                state, factors[index] = schedule.advance(state, loss)
        return factors, responses
