"""What new seeds say about settings that a search has picked: means, gains, the winner's curse and the search's luck.

Values are those of settings (rows) under seeds (columns) that the search has not used, paired: a column is one seed of
weights and batches, common to all settings. Since the seeds are new, that the search picked a setting by its value
there biases nothing here. Two other things would: looking at K settings, each of which may seem better by chance, and
naming the best of the K afterwards.

1. A mean has Student's t interval (Student 1908), so does a gain over the published setting, from its S paired
   differences: mean +- t(S - 1) * sd / sqrt(S).
2. For K settings the gains' intervals and p values are Bonferroni's: level 1 - alpha / K, and K * p. They hold
   together, whatever the correlation of the settings, and so for whichever of them is named best afterwards (Berk et
   al. 2013). Sign flips of whole columns (Romano & Wolf 2005) would use the correlation, but with S seeds they reach no
   p below 2 / 2^S: with 5 seeds nothing could ever be shown at 0.05. Holm's steps would add a little power, but their
   p values have no intervals that agree with them.
3. The best of K means is too good by choice (Cawley & Talbot 2010). Here each seed is judged by a setting that the
   other S - 1 seeds have chosen, and the mean over the seeds is the corrected value: unbiased for what S - 1 seeds
   would choose, whatever the noise looks like, and so at most cautious about what S seeds chose. Shrinkage by Tweedie's
   formula (Efron 2011) has to estimate the spread of the true means, which K = 3 of them do not tell.
4. Of the gain A that the search saw, 1 - gain / A was luck. A is a number that was observed, so this is linear in the
   gain, whose t interval it takes over. The search's own best is meant, which no new seed has chosen.

All of this holds for a number of seeds that was fixed before their values were seen; to add seeds until something is
shown makes chance findings more likely than stated. One seed gives no interval, nor do values that do not vary: a
spread of 0 out of few seeds is no certainty.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

LEVEL: Final = 0.95
"""The confidence level of all intervals."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Both ends of a confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """The mean of a setting over the `seeds` that gave a value; `sd` and `interval` are None where there is none."""

    seeds: int
    mean: float
    sd: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How much better a setting is than the published one, over the `pairs` seeds that gave both a value.

    Positive is better, whichever way the metric goes. `interval` and `p` (two-sided) are for this setting alone;
    `corrected` and `corrected_p` hold for all settings of its `family`, a number of settings, at once.
    """

    pairs: int
    mean: float
    interval: Interval | None
    p: float | None
    family: int
    corrected: Interval | None
    corrected_p: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """The best of the chosen settings: its row, and its value and gain as they are and without the winner's curse."""

    index: int
    value: float
    corrected_value: float | None
    gain: float | None
    corrected_gain: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Luck:
    """The gain over the published setting that the search `promised` for its best one, row `index`, and its fate.

    `share` of it was luck: 0 none, 1 all, more than 1 where the setting is worse than the published one. None where
    there was nothing promised or nothing to compare; `reason` then says why.
    """

    index: int | None = None
    promised: float | None = None
    confirmed: float | None = None
    share: float | None = None
    interval: Interval | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What the new seeds say: a mean (None: no value) and a gain (None: no pair) by row, the winner and the luck."""

    means: tuple[Mean | None, ...]
    gains: tuple[Gain | None, ...]
    winner: Winner | None
    luck: Luck


def confirm(
    values: ArrayLike,
    *,
    published: int,
    chosen: Sequence[int],
    searched: Sequence[float | None],
    maximize: bool,
    level: float = LEVEL,
) -> Findings:
    """Evaluate the values of settings (rows) under new seeds (columns); NaN stands for a run that failed.

    Args:
        values: finite or NaN.
        published: the row of the published setting, with which the others are compared.
        chosen: the rows that the search picked, a family of their own; all other rows, baselines, are another.
        searched: by row, the value that the search saw; None where it did not run the setting.
        maximize: whether more is better.
        level: of the intervals, 0 < level < 1.
    """
    matrix = np.asarray(values, dtype=np.float64)
    sign = 1.0 if maximize else -1.0
    differences = sign * (matrix - matrix[published])
    families = [len(chosen) if row in chosen else len(matrix) - 1 - len(chosen) for row in range(len(matrix))]
    return Findings(
        means=tuple(_mean(row, level) for row in matrix),
        gains=tuple(
            None if row == published else _gain(differences[row], family=families[row], level=level)
            for row in range(len(matrix))
        ),
        winner=_winner(matrix, differences, chosen=chosen, sign=sign),
        luck=_luck(differences, published=published, chosen=chosen, searched=searched, sign=sign, level=level),
    )


def _mean(row: NDArray[np.float64], level: float) -> Mean | None:
    found = row[np.isfinite(row)]
    if not len(found):
        return None
    error = _standard_error(found)
    return Mean(
        seeds=len(found),
        mean=float(found.mean()),
        sd=float(found.std(ddof=1)) if len(found) > 1 else None,
        interval=_t_interval(found, error, alpha=1 - level),
    )


def _gain(row: NDArray[np.float64], *, family: int, level: float) -> Gain | None:
    found = row[np.isfinite(row)]
    if not len(found):
        return None
    error, alpha = _standard_error(found), 1 - level
    p = None if error is None else float(2 * stdtr(len(found) - 1, -abs(found.mean()) / error))
    return Gain(
        pairs=len(found),
        mean=float(found.mean()),
        interval=_t_interval(found, error, alpha=alpha),
        p=p,
        family=family,
        corrected=_t_interval(found, error, alpha=alpha / family),
        corrected_p=None if p is None else min(1.0, family * p),
    )


def _standard_error(found: NDArray[np.float64]) -> float | None:
    """Return that of the mean; None where the values do not tell: one only, or equal but for rounding."""
    if len(found) < 2 or np.ptp(found) <= 1e-12 * np.abs(found).max():
        return None
    return float(found.std(ddof=1) / math.sqrt(len(found)))


def _t_interval(found: NDArray[np.float64], error: float | None, *, alpha: float) -> Interval | None:
    if error is None:
        return None
    center, reach = float(found.mean()), float(stdtrit(len(found) - 1, 1 - alpha / 2)) * error
    return Interval(center - reach, center + reach)


def _winner(
    matrix: NDArray[np.float64], differences: NDArray[np.float64], *, chosen: Sequence[int], sign: float
) -> Winner | None:
    """Name the best of those that failed the least: one that trains under some seeds only is none to train with."""
    runs = {row: int(np.isfinite(matrix[row]).sum()) for row in chosen}
    most = max(runs.values(), default=0)
    if not most:
        return None
    rows = [row for row in chosen if runs[row] == most]
    common = np.isfinite(matrix[rows]).all(axis=0)
    if not common.any():  # they failed under different seeds, all of which then count
        common = np.isfinite(matrix[rows]).any(axis=0)
    block = matrix[rows][:, common]
    best = rows[_best(sign * block)]
    paired = np.isfinite(matrix[best]) & np.isfinite(differences[best])
    corrected_value = corrected_gain = None
    if block.shape[1] > 1 and np.isfinite(block).all():
        seeds = range(block.shape[1])
        others = [rows[_best(sign * np.delete(block, seed, axis=1))] for seed in seeds]
        columns = np.flatnonzero(common)
        corrected_value = float(matrix[others, columns].mean())
        gains = differences[others, columns]
        corrected_gain = float(gains[np.isfinite(gains)].mean()) if np.isfinite(gains).any() else None
    return Winner(
        index=best,
        value=float(np.nanmean(matrix[best])),
        corrected_value=corrected_value,
        gain=float(differences[best][paired].mean()) if paired.any() else None,
        corrected_gain=corrected_gain,
    )


def _best(block: NDArray[np.float64]) -> int:
    """Return the row with the highest mean, the first of equals."""
    return int(np.argmax(np.nanmean(block, axis=1)))


def _luck(
    differences: NDArray[np.float64],
    *,
    published: int,
    chosen: Sequence[int],
    searched: Sequence[float | None],
    sign: float,
    level: float,
) -> Luck:
    before = searched[published]
    seen = [(sign * value, -row) for row in chosen if (value := searched[row]) is not None]
    if before is None:
        return Luck(reason="the search did not run the published setting to its end, so it promised no gain over it")
    if not seen:
        return Luck(reason="the search ran no other setting to its end, so it promised no gain")
    top, row = max(seen)[0], -max(seen)[1]
    promised = top - sign * before
    if promised <= 0:
        return Luck(
            index=row,
            promised=promised,
            reason="the search saw nothing better than the published setting: no gain was promised",
        )
    gain = _gain(differences[row], family=1, level=level)
    if gain is None:
        return Luck(index=row, promised=promised, reason="no new seed gave both settings a value")
    reach = gain.interval
    return Luck(
        index=row,
        promised=promised,
        confirmed=gain.mean,
        share=1 - gain.mean / promised,
        interval=None if reach is None else Interval(1 - reach.high / promised, 1 - reach.low / promised),
    )
