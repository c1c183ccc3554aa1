"""Which of several candidates to run: the one with the most expected improvement per step that is still to be trained.

    score = EI(x) / cost(x) ** (1 - spent)

1. The cost is what known ground leaves to train. Its exponent is cooled from 1 to 0 as the budget is spent: without
   that, settings would be favoured to the end that are cheap because they decay late and leave known ground late.
2. EI is the expected improvement on the best trial until now, under a Gaussian process over what a setting *does*: its
   LR by time (`lr_profile`), which is known exactly for finished trials and forecast by replay for candidates. Many
   settings do the same, and what they do explains the value far better than the settings themselves.
3. What this sweep has run already, step for step, is never run again: it cannot improve on anything.
4. A candidate whose next unknown step another trial is just training would only wait for it; others go first.

Cooling: "Cost-aware Bayesian Optimization" (CArBO), arXiv 2003.10870; costs that depend on what has been run: EEIPU,
arXiv 2411.03731.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tuner.search.space import Params

CANDIDATES: Final = 64
FEWEST_TRIALS: Final = 3
"""Values that a model of them needs; before, candidates are taken as they come."""
SEGMENTS: Final = 12
LOWEST_LR: Final = 2.0**-10
"""An LR below this share of the reference trains nothing; lower ones are not told apart."""
OVERHEAD: Final = 0.02
"""What a trial costs besides its new steps (evaluation, steps repeated on the way from a checkpoint), in runs."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prospect:
    """What is known of a run before it is run: the `share` of its steps left to train, 0 to 1, and its `lr_profile`.

    `claimed`: the first of those steps is being trained by a living trial.
    """

    share: float
    profile: tuple[float, ...]
    claimed: bool = False


Forecast = Callable[[Params], Prospect]
"""Looks a point of the space up in what is known of runs."""


def lr_profile(lrs: ArrayLike, *, reference: float) -> tuple[float, ...]:
    """Return the mean of log2(lr / reference) over each twelfth of a run; `lrs` are those of all its steps."""
    logs = np.log2(np.maximum(np.asarray(lrs, dtype=float) / reference, LOWEST_LR))
    steps = np.arange(SEGMENTS + 1) * len(logs) // SEGMENTS
    ends = np.maximum(steps[1:], steps[:-1] + 1)  # a run may have fewer steps than segments
    return tuple(float(logs[min(start, len(logs) - 1) : end].mean()) for start, end in zip(steps, ends, strict=False))


def choose(prospects: Sequence[Prospect], past: Sequence[tuple[Prospect, float]], *, spent: float) -> int:
    """Return the index of the candidate to run.

    Args:
        prospects: of the candidates, at least one.
        past: finished trials with their values, more is better.
        spent: share of the budget that is spent, 0 to 1.
    """
    tried = {prospect.profile for prospect, _ in past}
    new = [index for index, each in enumerate(prospects) if each.share > 0 or each.profile not in tried]
    new = [index for index in new if not prospects[index].claimed] or new
    if not new or len(past) < FEWEST_TRIALS:
        return new[0] if new else 0
    improvement = expected_improvement(
        np.array([prospect.profile for prospect, _ in past]),
        np.array([value for _, value in past]),
        np.array([prospects[index].profile for index in new]),
    )
    costs = np.array([prospects[index].share for index in new]) + OVERHEAD
    score = np.log(improvement) - (1.0 - min(1.0, spent)) * np.log(costs)
    return new[int(np.argmax(score))]


def expected_improvement(points: Floats, values: Floats, candidates: Floats) -> Floats:
    """Return by how much each candidate is expected to exceed the best of `points`; shapes [N, D], [N], [K, D].

    The best is judged by the model's mean, not by a value that luck may have made. Values far below the median count
    as no more than that: where exactly a ruined run ends says nothing about good ones. In units of the values' spread,
    and positive.
    """
    from scipy.stats import norm
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern, WhiteKernel

    median = np.median(values)
    values = np.maximum(values, median - 2.0 * (values.max() - median))
    scaled = (values - values.mean()) / (values.std() or 1.0)
    kernel = 1.0 * Matern(length_scale=4.0, length_scale_bounds=(0.2, 80.0), nu=2.5) + WhiteKernel(0.1, (1e-4, 2.0))
    model = GaussianProcessRegressor(kernel)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # values without noise, or nothing but noise
        model.fit(points, scaled)
    mean, deviation = model.predict(candidates, return_std=True)
    # Of a setting's mean value, not of one run's luck.
    deviation = np.sqrt(np.maximum(deviation**2 - model.kernel_.k2.noise_level, 1e-10))
    gap = mean - model.predict(points).max()
    improvement: Floats = gap * norm.cdf(gap / deviation) + deviation * norm.pdf(gap / deviation)
    return np.maximum(improvement, 1e-300)
