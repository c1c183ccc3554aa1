"""When trials reached a target: a loss, from their curves, or a metric, from their evaluations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.analysis.collected import CollectedSweep, Shown
from tuner.config.space_model import METRICS
from tuner.errors import UserError
from tuner.names import METRIC_FINAL_LOSS, METRIC_LOSS
from tuner.trials import TrialRecord

_SMALLER_IS_BETTER = ("loss", "error", "eer", "perplexity")
_WINDOWS_PER_RUN = 20
"""A loss counts as the mean over a twentieth of the run, as in `final_loss`: single ones are noisy."""
_ROUNDING = 1e-9
"""Relative: a run's own final loss, as a target, is reached by it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A value of a metric to be reached, from below if `maximize`, else from above."""

    metric: str
    value: float
    maximize: bool

    def __str__(self) -> str:
        return f"{self.metric} {'>=' if self.maximize else '<='} {self.value:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSummary:
    """What it took a sweep to reach a target.

    `reached` trials did; `fewest_steps` is the length of the shortest way there, and `seconds` how long that takes at
    the sweep's pace. `search_steps` were trained by the whole search until the first of its trials was there.
    """

    reached: int
    fewest_steps: int | None
    seconds: float | None
    search_steps: int | None
    search_seconds: float | None


def parse_target(text: str) -> Target:
    """Return the target of `METRIC=VALUE`; UserError where it is no such thing."""
    name, equals, value = text.rpartition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not equals or not name.strip() or not math.isfinite(number):
        raise UserError(f"`--target METRIC=VALUE` must hold, but got {text!r}; write for example --target accuracy=0.8")
    return Target(name.strip(), number, maximize=larger_is_better(name.strip()))


def larger_is_better(metric: str) -> bool:
    """Return which way a metric is better: as the workload says, or for others by its name."""
    if metric in METRICS:
        return metric != METRIC_FINAL_LOSS
    return not any(word in metric.lower() for word in _SMALLER_IS_BETTER)


def steps_to(target: Target, sweep: CollectedSweep, trial: TrialRecord) -> int | None:
    """Return after how many steps a trial reached the target; None where it did not."""
    if target.metric == METRIC_LOSS:
        return _steps_to_loss(target.value, sweep, trial)
    for steps, metrics in sweep.recorded.evaluations(trial, [target.metric]).items():
        value = metrics.get(target.metric)
        if value is not None and (value >= target.value if target.maximize else value <= target.value):
            return steps
    return None


def summarize_target(shown: Sequence[Shown]) -> TargetSummary:
    """Sum up for the trials of one sweep, in whatever order, when the target was reached."""
    arrived = [each for each in shown if each.target_steps is not None]
    fewest = min(arrived, key=lambda each: (each.target_steps, each.trial.number), default=None)
    executed, seconds = 0, 0.0
    for each in sorted(shown, key=lambda each: each.trial.number):
        trial = each.trial
        if each.target_steps is not None:
            own = min(trial.steps_executed, trial.steps_repeated + max(0, each.target_steps - trial.steps_shared))
            seconds += trial.seconds * own / trial.steps_executed if trial.steps_executed else 0.0
            executed += own
            break
        executed, seconds = executed + trial.steps_executed, seconds + trial.seconds
    return TargetSummary(
        reached=len(arrived),
        fewest_steps=None if fewest is None else fewest.target_steps,
        seconds=None if fewest is None else fewest.target_seconds,
        search_steps=executed if arrived else None,
        search_seconds=seconds if arrived else None,
    )


def _steps_to_loss(value: float, sweep: CollectedSweep, trial: TrialRecord) -> int | None:
    import numpy as np

    losses = sweep.recorded.curve(trial, [METRIC_LOSS])[METRIC_LOSS]
    length = sweep.about.get("steps", len(losses))
    window = max(1, (length if isinstance(length, int) else len(losses)) // _WINDOWS_PER_RUN)
    if len(losses) < window:
        return None
    sums = np.zeros(len(losses) + 1)
    np.cumsum(losses, out=sums[1:])
    below = sums[window:] - sums[:-window] <= (value + abs(value) * _ROUNDING) * window
    return int(below.argmax()) + window if below.any() else None
