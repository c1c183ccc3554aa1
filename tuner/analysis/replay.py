"""Run a schedule over recorded losses: what its LR would have been, had the losses been these.

The answer is exact for the run that recorded the losses, and for any other up to its first LR that differs; beyond it,
it says what the schedule makes of such a curve. Losses are read `delay` steps late by the same code as in training.
"""

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.analysis.loss_log import LossLog, LRChange, LRColumn
from tuner.schedulers.registry import Schedule
from tuner.training import delay as late

Progress = Callable[[float], None]
"""Hears the share of the work that is done."""

_TOLD_EVERY = 20_000
_MANY_CHANGES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The LR at the first step and each change after it."""

    first_lr: float
    changes: tuple[LRChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The detector by step: `response` and the `threshold` it is compared with, float64 [steps], NaN for none yet."""

    response: NDArray[np.float64]
    threshold: NDArray[np.float64]


def replay(schedule: Schedule, log: LossLog, *, base_lr: float, delay: int, progress: Progress | None = None) -> Replay:
    """Return what `schedule` makes of the losses in `log`; the loss of step t decides the LR of step t + 1 + delay.

    LR changes that the last losses decide, for steps beyond the log, are left out.
    """
    outlook = late.begin(schedule, delay=delay)
    before = first_lr = base_lr * outlook.factors[0]
    changes = []
    for step, loss in enumerate(_told(log.losses[:-1], progress), start=log.first_step + 1):
        outlook = late.advance(schedule, outlook, loss)
        lr = base_lr * outlook.factors[0]
        if lr != before:
            changes.append(LRChange(step, before, lr))
            before = lr
    return Replay(first_lr=first_lr, changes=tuple(changes))


def trace(schedule: Schedule, log: LossLog, *, progress: Progress | None = None) -> Trace:
    """Return the detector's response to each loss and its threshold; all NaN for a schedule without a detector."""
    response, threshold = (np.full(log.num_steps, np.nan) for _ in range(2))
    state, _ = schedule.start()
    for index, loss in enumerate(_told(log.losses, progress)):
        state, _ = schedule.advance(state, loss)
        heard, limit = schedule.response(state), schedule.threshold(state)
        response[index] = np.nan if heard is None else heard
        threshold[index] = np.nan if limit is None else limit
    return Trace(response=response, threshold=threshold)


def _told(losses: NDArray[np.float64], progress: Progress | None) -> Iterator[float]:
    """Yield the losses as plain floats, and tell what share of them is done."""
    for start in range(0, len(losses), _TOLD_EVERY):
        yield from losses[start : start + _TOLD_EVERY].tolist()
        if progress is not None:
            progress(min(1.0, (start + _TOLD_EVERY) / len(losses)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well replayed changes agree with recorded ones.

    `pairs` are the changes in order, recorded and replayed beside each other where their new LRs are equal, None on
    the side that has none.
    """

    pairs: tuple[tuple[LRChange | None, LRChange | None], ...]

    @property
    def num_recorded(self) -> int:
        """Changes in the log."""
        return sum(recorded is not None for recorded, _ in self.pairs)

    @property
    def num_replayed(self) -> int:
        """Changes of the replay that the log's rounding would show."""
        return sum(replayed is not None for _, replayed in self.pairs)

    @property
    def offsets(self) -> list[int]:
        """Replayed minus recorded step of each pair."""
        return [replayed.step - recorded.step for recorded, replayed in self.pairs if recorded and replayed]

    @property
    def complete(self) -> bool:
        """Whether each side has all changes of the other, in order."""
        return len(self.offsets) == len(self.pairs)

    @property
    def mean_offset(self) -> float | None:
        """Mean distance of paired changes, steps."""
        return sum(map(abs, self.offsets)) / len(self.offsets) if self.offsets else None

    @property
    def max_offset(self) -> int | None:
        """Largest distance of paired changes, steps."""
        return max(map(abs, self.offsets), default=None)


def compare(log: LossLog, replayed: Replay) -> Agreement | None:
    """Compare a replay with the log's LR column; None without one.

    Paired are the longest runs of changes to equal LRs. Where an LR changes all the time, as with a cosine, those are
    paired that have the same step and LR.
    """
    column = log.lr
    if column is None:
        return None
    recorded = log.recorded_changes()
    after = [change.after for change in replayed.changes]
    changes = [replayed.changes[index] for index in column.visible(replayed.first_lr, after)]
    if max(len(recorded), len(changes)) > _MANY_CHANGES:
        return Agreement(pairs=_by_step(column, recorded, changes))
    labels = [_label(column, change.after) for change in changes]
    matcher = difflib.SequenceMatcher(None, [change.after for change in recorded], labels, autojunk=False)
    pairs: list[tuple[LRChange | None, LRChange | None]] = []
    for kind, i, i_end, j, j_end in matcher.get_opcodes():
        if kind == "equal":
            pairs += zip(recorded[i:i_end], changes[j:j_end], strict=True)
        else:
            pairs += [(change, None) for change in recorded[i:i_end]] + [(None, change) for change in changes[j:j_end]]
    return Agreement(pairs=tuple(pairs))


def _label(column: LRColumn, lr: float) -> float:
    """Return the recorded LR that stands for `lr`, `lr` itself where there is none."""
    nearest = column.values[int(np.abs(column.values - lr).argmin())]
    return float(nearest) if column.shows(float(nearest), lr) else lr


def _by_step(
    column: LRColumn, recorded: list[LRChange], changes: list[LRChange]
) -> tuple[tuple[LRChange | None, LRChange | None], ...]:
    replayed = {change.step: change for change in changes}
    pairs: list[tuple[LRChange | None, LRChange | None]] = []
    for change in recorded:
        other = replayed.get(change.step)
        if other is not None and column.shows(change.after, other.after):
            pairs.append((change, replayed.pop(change.step)))
        else:
            pairs.append((change, None))
    return (*pairs, *((None, change) for change in replayed.values()))
