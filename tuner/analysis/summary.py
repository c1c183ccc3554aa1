"""What a sweep comes to: its best, the middle and the spread of its values, and what it cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from tuner.analysis.collected import CollectedSweep, Shown
from tuner.analysis.target import Target, TargetSummary, summarize_target
from tuner.trials import TrialRecord


def ranked(records: Sequence[TrialRecord], *, maximize: bool) -> list[TrialRecord]:
    """Return the trials best first; those without a value follow, in the order they were run."""
    sign = -1 if maximize else 1
    return sorted(
        records,
        key=lambda record: (record.value is None, 0 if record.value is None else sign * record.value, record.number),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A sweep in one row.

    Median and quartiles are those of the distinct runs: a trial that `repeats` another one, step for step, says nothing
    new. Quartiles need two of them. `seconds` is the wall time of all trials.
    """

    sweep: CollectedSweep
    trials: int
    complete: int
    failed: int
    running: int
    repeats: int
    best: TrialRecord | None
    median: float | None
    quartiles: tuple[float, float] | None
    steps_executed: int
    steps_shared: int
    seconds: float
    target: TargetSummary | None

    @property
    def others(self) -> str:
        """How many of the trials did not finish, or repeat others, e.g. " (2 failed)"; nothing where none did."""
        parts = {"failed": self.failed, "running": self.running, "repeats": self.repeats}
        text = ", ".join(f"{count} {what}" for what, count in parts.items() if count)
        return f" ({text})" if text else ""

    def as_json(self) -> dict[str, Any]:
        """Return the summary as JSON-like data."""
        low, high = self.quartiles or (None, None)
        return {
            "sweep": self.sweep.name,
            "metric": self.sweep.metric,
            "maximize": self.sweep.maximize,
            **self.sweep.about,
            "trials": self.trials,
            "complete": self.complete,
            "failed": self.failed,
            "running": self.running,
            "repeats": self.repeats,
            "best": None if self.best is None else {"trial": self.best.number, "value": self.best.value},
            "median": self.median,
            "quartiles": [low, high],
            "iqr": None if self.quartiles is None else self.quartiles[1] - self.quartiles[0],
            "steps_executed": self.steps_executed,
            "steps_shared": self.steps_shared,
            "minutes": round(self.seconds / 60, 3),
            **({} if self.target is None else {"target": asdict(self.target)}),
        }


def summarize(sweep: CollectedSweep, shown: Sequence[Shown], *, target: Target | None = None) -> Summary:
    """Sum up those trials of a sweep that are shown."""
    trials = [each.trial for each in shown]
    states = Counter(trial.state for trial in trials)
    values = [trial.value for trial in trials if trial.value is not None and trial.duplicate_of is None]
    best = next(iter(ranked(trials, maximize=sweep.maximize)), None)
    return Summary(
        sweep=sweep,
        trials=len(trials),
        complete=states["COMPLETE"],
        failed=states["FAIL"],
        running=states["RUNNING"],
        repeats=sum(trial.duplicate_of is not None for trial in trials),
        best=None if best is None or best.value is None else best,
        median=median(values) if values else None,
        quartiles=_quartiles(values) if len(values) > 1 else None,
        steps_executed=sum(trial.steps_executed for trial in trials),
        steps_shared=sum(trial.steps_shared for trial in trials),
        seconds=sum(trial.seconds for trial in trials),
        target=None if target is None else summarize_target(shown),
    )


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high
