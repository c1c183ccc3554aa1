"""What trials left in a sweep's folder: curves and evaluations, in columns."""

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from tuner.analysis.collected import Columns
from tuner.curves import HEADER
from tuner.errors import UserError
from tuner.evaluations import read_evaluations
from tuner.names import CURVE_FILE, EVALUATIONS_FILE
from tuner.trials import TrialRecord


class RecordedFiles:
    """A `Recorded` of the files in the folders of trials; a trial that repeats another one has that one's."""

    def __init__(self, folder: Callable[[int], Path]) -> None:
        self._folder = folder

    def curve(self, trial: TrialRecord, names: Sequence[str]) -> Columns:
        """Return columns of a curve, up to the last whole row of one that grows; see `Recorded`."""
        import numpy as np
        import pandas as pd  # half a second, which only those pay who read curves

        path = self._of(trial) / CURVE_FILE
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return {name: np.empty(0) for name in names}
        except OSError as error:
            raise UserError(f"{path}: the file cannot be read ({error.strerror}); restore it from a copy") from None
        whole = io.BytesIO(data[: data.rfind(b"\n") + 1] or ",".join(HEADER).encode())
        try:
            frame = pd.read_csv(whole, usecols=list(names), dtype="float64")
        except ValueError as error:  # among them pandas' own errors
            raise UserError(f"{path}: damaged ({' '.join(str(error).split())}); restore it from a copy") from None
        return {name: frame[name].to_numpy() for name in names}

    def evaluations(
        self, trial: TrialRecord, names: Collection[str] | None = None
    ) -> Mapping[int, Mapping[str, float]]:
        """Return the metrics by number of steps; see `Recorded`."""
        path = self._of(trial) / EVALUATIONS_FILE
        found = sorted(read_evaluations(path).items()) if path.exists() else []
        return {
            steps: {name: value for name, value in metrics.items() if names is None or name in names}
            for steps, metrics in found
        }

    def _of(self, trial: TrialRecord) -> Path:
        return self._folder(trial.number if trial.duplicate_of is None else trial.duplicate_of)
