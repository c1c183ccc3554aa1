"""A recorded loss curve, as every training step saw it, and the LR changes recorded beside it.

Logs are thinner than training. A row at step s holds the mean loss of the steps since the row before, up to and with
s, so its loss is given to all of them; the first row's loss is also given to the steps before it.

Steps are numbered as the log numbers them: from 0 where it has a row for step 0 (the curves of this tool, most loops
in Python), otherwise from 1 (the published logs). An LR change is at the first step that used the new LR.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from tuner.errors import UserError

MAX_STEPS = 100_000_000
"""Longest run that is taken at its word; a larger step is more likely a mistake than a run."""


@dataclass(frozen=True, slots=True)
class LRChange:
    """`step` is the first step at the LR `after`; the step before it had `before`."""

    step: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class LRColumn:
    """The recorded LRs, one per row of the log, and how far they were rounded when they were written.

    `decimals` and `digits` are the most decimals and the most significant digits that any of them has.
    """

    values: NDArray[np.float64]
    decimals: int
    digits: int

    def shows(self, recorded: float, actual: float) -> bool:
        """Return whether the LR `actual` would have been written as `recorded`."""
        if math.isclose(recorded, actual, rel_tol=1e-9):
            return True
        rounded = [round(actual, self.decimals)] if self.decimals < 16 else []
        if 3 <= self.digits < 16:
            rounded.append(float(f"{actual:.{self.digits - 1}e}"))
        return any(math.isclose(recorded, value, rel_tol=1e-9) for value in rounded)

    def visible(self, first: float, after: Sequence[float]) -> list[int]:
        """Return which of the changes from the LR `first` to the LRs `after`, one by one, such a column shows.

        Where the smallest LRs have one digit or are 0, LRs were rounded to decimals, and changes below are lost.
        """
        unit = 10.0**-self.decimals
        if self.decimals >= 16 or float(self.values.min()) > 9.5 * unit:
            return list(range(len(after)))
        shown = [round(lr, self.decimals) for lr in (first, *after)]
        return [index for index in range(len(after)) if shown[index + 1] != shown[index]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossLog:
    """A run's losses by step, and the rows they came from.

    `losses[i]` is the loss of step `first_step + i`, float64 [total steps]; `row_steps` int64 [rows] and `lr` are as
    recorded. `source` names the log in messages.
    """

    source: str
    first_step: int
    losses: NDArray[np.float64]
    row_steps: NDArray[np.int64]
    lr: LRColumn | None

    @property
    def num_steps(self) -> int:
        """Number of training steps that the log covers."""
        return len(self.losses)

    def recorded_changes(self) -> list[LRChange]:
        """Return the changes of the recorded LR, at the first row that shows the new one; [] without an LR column."""
        if self.lr is None:
            return []
        at = np.flatnonzero(np.diff(self.lr.values)) + 1
        values = self.lr.values
        return [LRChange(int(self.row_steps[i]), float(values[i - 1]), float(values[i])) for i in at]

    def steps_between_rows(self) -> int:
        """Return the usual distance between two rows, in steps; a recorded change is late by less than that."""
        return int(np.median(np.diff(self.row_steps))) if len(self.row_steps) > 1 else 1


def make_log(source: str, *, steps: Sequence[int], losses: Sequence[float], lr: LRColumn | None) -> LossLog:
    """Return the log of rows whose steps rise and whose losses are finite, as the readers of this room assure."""
    if steps[-1] > MAX_STEPS:
        raise UserError(f"{source}: `step <= {MAX_STEPS}` must hold, but got {steps[-1]}; check the step column")
    row_steps = np.asarray(steps, dtype=np.int64)
    first_step = 0 if steps[0] == 0 else 1
    lengths = np.diff(row_steps, prepend=first_step - 1)
    filled = np.repeat(np.asarray(losses, dtype=np.float64), lengths)
    return LossLog(source=source, first_step=first_step, losses=filled, row_steps=row_steps, lr=lr)


def lr_column(texts: Iterable[str]) -> LRColumn:
    """Return the recorded LRs from their decimal texts, which show how they were rounded."""
    decimals = digits = 1
    values = []
    for text, repeats in itertools.groupby(texts):  # an LR stays for thousands of rows
        number = Decimal(text).normalize().as_tuple()
        exponent = number.exponent if isinstance(number.exponent, int) else 0
        decimals, digits = max(decimals, -exponent), max(digits, len(number.digits))
        values += [float(text)] * sum(1 for _ in repeats)
    return LRColumn(np.asarray(values, dtype=np.float64), decimals, digits)
