"""What a recorded LR column says by itself: base LR, decay factor, rebound, warm-up, floor, and the streaks.

Logs round their LRs, so each recorded value stands for an interval of true ones. The decay factor lies in the
intersection of what all decays allow; the number with the fewest decimals in it is taken, or one over such a number.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tuner.analysis.loss_log import LossLog, LRChange
from tuner.errors import UserError

Pair = tuple[float, float]
"""The LR before and after a change."""


class Span(NamedTuple):
    """Two LRs that lie `num` changes of one kind apart."""

    large: float
    small: float
    num: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LRRule:
    """The part of a schedule's settings that stands in the LR column; `changes` are those after the warm-up.

    `rebound` 0: the LR never rises. `patience` and `rebound_after` follow from the even distances of the changes that
    lead to a rebound, and are None without one. `warmup` in steps; `floor` is a factor, 0 for none.
    """

    base_lr: float
    decay_factor: float
    rebound: float
    rebound_after: int | None
    patience: float | None
    warmup: int
    floor: float
    changes: tuple[LRChange, ...]

    @property
    def num_decays(self) -> int:
        """Changes that lower the LR."""
        return sum(change.after < change.before for change in self.changes)


def read_lr_rule(log: LossLog) -> LRRule:
    """Return what the LR column of `log` says.

    Raises:
        UserError: the log has no LR column, no decay, or changes by different factors.
    """
    if log.lr is None:
        raise UserError(f"{log.source}: a fit needs recorded LRs, but there is no column `lr`; add it")
    changes = log.recorded_changes()
    warmup, num_rises = _warmup(log, changes)
    changes = changes[num_rises:]
    top = float(log.lr.values.max()) if num_rises else float(log.lr.values[0])
    if not any(change.after < change.before for change in changes):
        raise UserError(f"{log.source}: a fit needs a recorded LR that falls, but this one never does")
    base_lr, factor, rebound, floor = _factors(log, [(change.before, change.after) for change in changes], top)
    patience, rebound_after = _streaks(changes, slack=log.steps_between_rows())
    return LRRule(
        base_lr=base_lr,
        decay_factor=factor,
        rebound=rebound,
        rebound_after=rebound_after,
        patience=patience,
        warmup=warmup,
        floor=floor,
        changes=tuple(changes),
    )


def _warmup(log: LossLog, changes: Sequence[LRChange]) -> tuple[int, int]:
    """Return the steps of a linear warm-up and the number of recorded changes in it; (0, 0) for none."""
    num_rises = next((i for i, change in enumerate(changes) if change.after < change.before), len(changes))
    if num_rises < 2 or log.lr is None:
        return 0, 0
    top = changes[num_rises - 1].after
    middle = changes[num_rises // 2 - 1]
    return round(top * (middle.step - log.first_step + 1) / middle.after), num_rises


def _factors(log: LossLog, steps: Sequence[Pair], top: float) -> tuple[float, float, float, float]:
    """Return base LR, decay factor, rebound and floor that make the recorded LRs, rounded to decimals or to digits.

    A rise to the base LR was perhaps cut off there, a fall to the lowest LR perhaps by a floor; then they say less.
    """
    rises = [Span(after, before, 1) for before, after in steps if before < after < top]
    largest_rise = max((after / before for before, after in steps if 0 < before < after), default=0.0)
    lowest = min(after for _, after in steps)
    near_miss = None
    for floor in (0.0, lowest / top):
        falls = _falls([pair for pair in steps if floor == 0 or pair[1] > lowest])
        for error in _rounding_errors(log):
            rebounds = _common_ratios(rises, error) if rises else [largest_rise]
            for factor, rebound in itertools.product(_common_ratios(falls, error), rebounds):
                base_lr = _base_lr(steps, top, factor, rebound, floor, error)
                if base_lr is not None:
                    return base_lr, factor, rebound, floor
                near_miss = near_miss or (top, factor, rebound, floor)
    if near_miss is not None:
        return near_miss
    ratios = [before / after if after > 0 else math.inf for before, after in steps if after < before]
    raise UserError(
        f"{log.source}: a fit needs an LR that falls by one factor and rises by one, but here it falls by "
        f"{min(ratios):.4g} to {max(ratios):.4g}; this log is of another kind of schedule"
    )


def _falls(steps: Sequence[Pair]) -> list[Span]:
    """Return each fall, and each run of falls as a whole, which says more of the factor than its parts."""
    spans, run = [], list[float]()
    for before, after in steps:
        if after > before or run[-1:] != [before]:
            run = [before]
        if after < before:
            run.append(after)
            spans += [Span(before, after, 1), Span(run[0], after, len(run) - 1)]
    return spans


def _rounding_errors(log: LossLog) -> Iterator[Callable[[float], float]]:
    """Yield functions from a recorded LR to its largest absolute error: of rounded decimals, of rounded digits."""
    if log.lr is not None:
        decimals = 0.5 * 10.0 ** -min(log.lr.decimals, 300)
        yield lambda lr: max(decimals, 1e-13 * lr)
        if 3 <= log.lr.digits < 16:
            digits = 0.5 * 10.0 ** (1 - log.lr.digits)
            yield lambda lr: digits * lr


def _common_ratios(spans: Sequence[Span], error: Callable[[float], float]) -> list[float]:
    """Return ratios larger / smaller of one change that all spans allow, the simplest first; [] where there is none."""
    low, high, near, width = 1.0, math.inf, 1.0, math.inf
    for large, small, num in spans:
        least = max(1.0, (large - error(large)) / (small + error(small))) ** (1 / num)
        most = ((large + error(large)) / (small - error(small))) ** (1 / num) if small > error(small) else math.inf
        low, high = max(low, least), min(high, most)
        if most - least < width:
            near, width = (large / small) ** (1 / num), most - least
    return list(simple_numbers(low, high, near=near, inverses=True)) if width < math.inf else []


def simple_numbers(low: float, high: float, *, near: float, inverses: bool = False) -> Iterator[float]:
    """Yield numbers in [low, high], 0 < low, with ever more decimals, of each kind those next to `near` first.

    With `inverses` also numbers whose inverse has few decimals: an LR multiplied by 0.3 is divided by 3.33...
    """
    near = min(max(near, low), high)
    for decimals in range(13) if low <= high else ():
        for offset in (0, 1, -1, 2, -2):
            unit = 10.0**-decimals
            number = round(near + offset * unit, decimals)
            if low <= number <= high:
                yield number
            inverse = round(1 / near + offset * unit, decimals)
            if inverses and inverse > 0 and low <= 1 / inverse <= high:
                yield 1 / inverse
    if low <= high:
        yield near


def _base_lr(
    steps: Sequence[Pair], top: float, factor: float, rebound: float, floor: float, error: Callable[[float], float]
) -> float | None:
    """Return the simplest base LR from which the rule would have made every recorded LR, None if there is none."""
    level, low, high = 1.0, top - error(top), top + error(top)
    for before, after in steps:
        level = max(floor, level / factor) if after < before else min(1.0, level * rebound)
        low, high = max(low, (after - error(after)) / level), min(high, (after + error(after)) / level)
    return next(simple_numbers(low, high, near=top), None)


def _streaks(changes: Sequence[LRChange], *, slack: int) -> tuple[float | None, int | None]:
    """Return patience and rebound_after from the changes before each rebound, which follow at patience + 1 steps."""
    streaks: list[list[int]] = []
    for index, change in enumerate(changes):
        if change.after < change.before:
            continue
        streak: list[int] = []
        for earlier, later in zip(changes[index - 1 :: -1], changes[index:0:-1], strict=False):
            gap = later.step - earlier.step
            if earlier.after > earlier.before or (streak and abs(gap - streak[0]) > 2 * slack):
                break
            streak.append(gap)
        if streak:
            streaks.append(streak)
    if not streaks:
        return None, None
    length = min(map(len, streaks))
    used = [gap for streak in streaks for gap in streak[:length]]
    return sum(used) / len(used) - 1, length + 1
