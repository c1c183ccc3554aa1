"""A sweep as tidy pandas tables, for notebooks: `tuner.load_sweep`."""

from functools import cached_property
from typing import Final

import pandas as pd

from tuner.analysis.collected import CollectedSweep, Shown
from tuner.analysis.keys import flat_row
from tuner.curves import HEADER
from tuner.errors import UserError
from tuner.evaluations import STEPS
from tuner.trials import TrialRecord

_TRIAL: Final = "trial"


class LoadedSweep:
    """A sweep's trials, curves and evaluations.

    Each table is read when it is first asked for, and kept. All trials are there, also those that failed or run, as
    they were when the sweep was loaded. A trial that repeats another one has that one's curve and evaluations.
    """

    def __init__(self, sweep: CollectedSweep) -> None:
        self.name = sweep.name
        self.metric = sweep.metric
        self.maximize = sweep.maximize
        self._sweep = sweep
        self._trials = {trial.number: trial for trial in sweep.trials}

    def __repr__(self) -> str:
        return f"LoadedSweep({self.name!r}, {len(self._trials)} trials, {self.metric})"

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row a trial, by number: state, value, costs, `params.NAME` and `metrics.NAME`."""
        rows = [flat_row(Shown(self._sweep, trial)) for trial in self._trials.values()]
        frame = pd.DataFrame(rows or None, columns=None if rows else pd.Index([_TRIAL, "state", "value"]))
        for name in ("value", "duplicate_of"):
            if name in frame:
                frame[name] = frame[name].astype("float64" if name == "value" else "Int64")
        return frame

    def curve(self, number: int) -> pd.DataFrame:
        """Return one trial's curve: step, loss, lr, detector_response (NaN without a detector's value).

        Raises:
            UserError: there is no such trial, or its curve is damaged.
        """
        return pd.DataFrame(dict(self._sweep.recorded.curve(self._trial(number), HEADER))).astype({"step": "int64"})

    @cached_property
    def curves(self) -> pd.DataFrame:
        """All curves below each other: trial and the columns of `curve`; 40 bytes a step."""
        found = [self.curve(number) for number in self._trials]
        for number, frame in zip(self._trials, found, strict=True):
            frame.insert(0, _TRIAL, number)
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=pd.Index([_TRIAL, *HEADER]))

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """One row an evaluation: trial, the number of steps after which it was made, and the metrics."""
        rows = [
            {_TRIAL: trial.number, STEPS: steps, **metrics}
            for trial in self._trials.values()
            for steps, metrics in self._sweep.recorded.evaluations(trial).items()
        ]
        return pd.DataFrame(rows or None, columns=None if rows else pd.Index([_TRIAL, STEPS]))

    def _trial(self, number: int) -> TrialRecord:
        if number not in self._trials:
            last = max(self._trials, default=None)
            there = "it has none" if last is None else f"the last one is {last}"
            raise UserError(
                f"the sweep {self.name!r} must have the trial that is asked for, but has no {number}; {there}"
            )
        return self._trials[number]
