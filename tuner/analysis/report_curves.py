"""The curves of a sweep thinned for a page: buckets that all trials share, each with smallest, mean and largest loss.

The page holds a fixed number of buckets for all trials together, so that two hundred runs of 200,000 steps weigh as
much as twenty. Nothing that stands out is lost: a bucket keeps its extremes.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tuner.analysis.collected import Columns
from tuner.analysis.curve_columns import read_columns
from tuner.curves import HEADER

Array = NDArray[np.float64]
Change = tuple[int, float, float]
"""A step, the LR before it, and the LR from it on."""

BUCKETS_OF_ALL: Final = 80_000
FEWEST_BUCKETS, MOST_BUCKETS = 150, 600
STEPS_OF_A_BUCKET: Final = 4
"""At least, in runs of more steps than the fewest buckets: a mean of fewer is no calmer than the loss."""
MOST_CHANGES: Final = 64
"""An LR that changes more often changes all the time: it is drawn, but its changes are no decays to be marked."""
_AT_ONCE: Final = 4
_NAMES: Final = HEADER[:3]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinCurve:
    """A trial's curve in buckets: `low`, `mean` and `high` of the finite losses, and the LR that each bucket ends with.

    NaN stands where there is no loss. `num_steps` were recorded; `changes` are those of the LR, None where it changes
    all the time.
    """

    low: Array
    mean: Array
    high: Array
    lr: Array
    num_steps: int
    changes: tuple[Change, ...] | None

    @property
    def decays(self) -> tuple[Change, ...]:
        """The changes that lower the LR."""
        return tuple(change for change in self.changes or () if change[2] < change[1])


def bucket_edges(steps: int, *, trials: int) -> NDArray[np.int64]:
    """Return the first steps of the buckets, and `steps` as the end of the last one."""
    buckets = min(BUCKETS_OF_ALL // max(1, trials), MOST_BUCKETS, steps // STEPS_OF_A_BUCKET)
    buckets = min(max(buckets, FEWEST_BUCKETS), steps)
    return np.unique(np.linspace(0, steps, buckets + 1).astype(np.int64))


def thin_curves(paths: Mapping[int, Path], *, edges: NDArray[np.int64]) -> tuple[dict[int, ThinCurve], dict[int, str]]:
    """Read and thin the curve files of trials, by number; return the curves, and why others could not be read.

    A file that is not there, or has no row yet, is neither.
    """
    with ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda path: _read(path, edges), paths.values())
        results = dict(zip(paths, found, strict=True))
    curves = {number: each for number, each in results.items() if isinstance(each, ThinCurve)}
    return curves, {number: each for number, each in results.items() if isinstance(each, str)}


def thin_curve(columns: Columns, *, edges: NDArray[np.int64]) -> ThinCurve:
    """Return a curve in the buckets that begin at `edges[:-1]`; steps beyond the last edge are left out."""
    steps, losses, lrs = (columns[name] for name in _NAMES)
    inside = int(np.searchsorted(steps, edges[-1]))
    steps, losses, lrs = steps[:inside], losses[:inside], lrs[:inside]
    finite = np.isfinite(losses)
    return ThinCurve(
        low=_reduced(np.minimum, steps[finite], losses[finite], edges),
        mean=_reduced(np.add, steps[finite], losses[finite], edges) / _sizes(steps[finite], edges),
        high=_reduced(np.maximum, steps[finite], losses[finite], edges),
        lr=_last(steps, lrs, edges),
        num_steps=inside,
        changes=_changes(steps, lrs),
    )


def _read(path: Path, edges: NDArray[np.int64]) -> ThinCurve | str | None:
    try:
        columns = read_columns(path, _NAMES)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"its curve cannot be read ({error.strerror})"
    except ValueError as error:
        return f"its curve is damaged: {error}"
    return thin_curve(columns, edges=edges) if len(columns[_NAMES[0]]) else None


def _reduced(how: np.ufunc, steps: Array, values: Array, edges: NDArray[np.int64]) -> Array:
    """Reduce the values of each bucket, NaN where it has none."""
    starts = np.searchsorted(steps, edges)
    reduced: Array = np.full(len(edges) - 1, np.nan)
    filled = np.flatnonzero(np.diff(starts))
    if len(filled):
        # Empty buckets left out, each start ends the bucket before; the last one ends with the values.
        reduced[filled] = how.reduceat(values, starts[filled])
    return reduced


def _sizes(steps: Array, edges: NDArray[np.int64]) -> Array:
    sizes = np.diff(np.searchsorted(steps, edges)).astype(np.float64)
    sizes[sizes == 0] = np.nan
    return sizes


def _last(steps: Array, values: Array, edges: NDArray[np.int64]) -> Array:
    """Return each bucket's last value, NaN where it has none."""
    starts = np.searchsorted(steps, edges)
    last: Array = np.full(len(edges) - 1, np.nan)
    filled = np.flatnonzero(np.diff(starts))
    last[filled] = values[starts[filled + 1] - 1]
    return last


def _changes(steps: Array, lrs: Array) -> tuple[Change, ...] | None:
    at = np.flatnonzero(np.diff(lrs))
    if len(at) > MOST_CHANGES:
        return None
    return tuple((int(steps[i + 1]), float(lrs[i]), float(lrs[i + 1])) for i in at)
