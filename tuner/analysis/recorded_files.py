"""What trials left in a sweep's folder: curves and evaluations, in columns."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from tuner.analysis.collected import Columns
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
        from tuner.analysis.curve_columns import no_columns, read_columns  # pyarrow, which only those pay who read them

        path = self._of(trial) / CURVE_FILE
        try:
            return read_columns(path, names)
        except FileNotFoundError:
            return no_columns(names)
        except OSError as error:
            raise UserError(f"{path}: the file cannot be read ({error.strerror}); restore it from a copy") from None
        except ValueError as error:
            raise UserError(f"{path}: damaged: {error}; restore it from a copy") from None

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
