"""A sweep as comparison and notebooks see it, wherever it was read from: its trials, and what was recorded of each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from tuner.config.strict_yaml import did_you_mean
from tuner.errors import UserError
from tuner.names import Setting
from tuner.trials import TrialRecord

if TYPE_CHECKING:
    import numpy as np

Columns = Mapping[str, "np.ndarray[tuple[int], np.dtype[np.float64]]"]
"""Columns of a curve by name, of equal length; NaN where a step has no such value."""


class Recorded(Protocol):
    """What the trials of one sweep left behind; read when it is asked for."""

    def curve(self, trial: TrialRecord, names: Sequence[str]) -> Columns:
        """Return these columns of `tuner.curves.HEADER`, one value a step; empty where there is no curve.

        Raises:
            UserError: the record is damaged.
        """
        ...

    def evaluations(
        self, trial: TrialRecord, names: Collection[str] | None = None
    ) -> Mapping[int, Mapping[str, float]]:
        """Return the metrics (of these names, None: all) by number of steps, which rise; empty where there are none.

        Raises:
            UserError: the record is damaged.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class CollectedSweep:
    """A sweep and what it found.

    A trial's value is its `metric`, of which more is better if `maximize`. `about` says in a few words what sweeps can
    differ in: data, steps of a run, seed, sampler.
    """

    name: str
    metric: str
    maximize: bool
    trials: tuple[TrialRecord, ...]
    recorded: Recorded
    about: Mapping[str, Setting]

    @cached_property
    def seconds_per_step(self) -> float | None:
        """How long a step took that was trained; None where none was."""
        steps = sum(trial.steps_executed for trial in self.trials)
        return sum(trial.seconds for trial in self.trials) / steps if steps else None

    def judged_by(self, metric: str, *, maximize: bool) -> "CollectedSweep":
        """Return the sweep with another metric as the value of its trials."""
        trials = tuple(
            replace(trial, value=trial.metrics.get(metric) if trial.state == "COMPLETE" else None)
            for trial in self.trials
        )
        return replace(self, metric=metric, maximize=maximize, trials=trials)


@dataclass(frozen=True, slots=True)
class Shown:
    """One trial of one of the sweeps that are compared; `target_steps` is None where it did not reach the target."""

    sweep: CollectedSweep
    trial: TrialRecord
    target_steps: int | None = None

    @property
    def target_seconds(self) -> float | None:
        """How long so many steps take at the sweep's pace: from scratch, whatever this trial took over."""
        pace = self.sweep.seconds_per_step
        return None if self.target_steps is None or pace is None else self.target_steps * pace


def check_metric(metric: str, sweeps: Sequence[CollectedSweep], *, option: str, others: Sequence[str] = ()) -> None:
    """Raise UserError for a metric that no trial has, where any trial has one, and that is none of `others`."""
    known = dict.fromkeys(name for sweep in sweeps for trial in sweep.trials for name in trial.metrics)
    if known and metric not in (*others, *known):
        raise UserError(f"`{option}`: no trial has the metric `{metric}`; {did_you_mean(metric, [*others, *known])}")
