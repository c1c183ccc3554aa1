"""The record of a confirmation's runs: `confirm/NNNN/run.json` in the sweep's folder, one for each setting and seed.

A record is written whole, once when its run begins and again when it ends. So a confirmation killed anywhere leaves
each run not begun, under way, or finished, and what is under way goes on from its last recorded step.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tuner.errors import UserError
from tuner.files import read_record, write_record
from tuner.names import CONFIRM_DIR, RUN_FILE, Setting
from tuner.room import patiently
from tuner.trials import RecordState

_KIND: Final = "confirmation run"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmRun:
    """One run: `number` names its folder, and `key` is equal for equal runs, step for step.

    `name` and `params` are for people. Steps, `seconds`, `begun`, `ended` and `reason` are as in
    `tuner.trials.TrialRecord`. It is the run `run_id` of the MLflow group `group`; `sent` says that all of it is there.
    """

    number: int
    key: str
    name: str
    seed: int
    scheduler: str
    settings: Mapping[str, Setting]
    base_lr: float
    state: RecordState
    begun: float
    ended: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    steps_executed: int = 0
    steps_repeated: int = 0
    steps_shared: int = 0
    shared_with: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    run_id: str | None = None
    group: str | None = None
    sent: bool = False


class ConfirmRuns:
    """The runs below a sweep's folder, by key.

    Raises:
        UserError: a record is damaged.
    """

    def __init__(self, sweep: Path) -> None:
        self.path = sweep / CONFIRM_DIR
        self._runs: dict[str, ConfirmRun] = {}
        for record in sorted(self.path.glob(f"[0-9]*/{RUN_FILE}")):
            run = _read(record)
            self._runs[run.key] = run

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def num_unsent(self) -> int:
        """How many runs have ended that MLflow does not have completely."""
        return sum(run.ended is not None and not run.sent for run in self._runs.values())

    def get(self, key: str) -> ConfirmRun | None:
        """Return the run of a key; None where it has not begun."""
        return self._runs.get(key)

    def seeds(self) -> set[int]:
        """Return the seeds of all runs that there are."""
        return {run.seed for run in self._runs.values()}

    def of_number(self, number: int) -> ConfirmRun:
        """Return a run by its number."""
        return next(run for run in self._runs.values() if run.number == number)

    def folder(self, number: int) -> Path:
        """Return the folder of a run: its record, its curve and its evaluations."""
        return self.path / f"{number:04d}"

    def free_number(self) -> int:
        """Return the number of the next run."""
        return 1 + max((run.number for run in self._runs.values()), default=-1)

    def write(self, run: ConfirmRun) -> ConfirmRun:
        """Put a record on the disk, waiting for room where there is none; return it."""
        patiently(lambda: self._put(run), self.path)
        return run

    def note(self, number: int, **changes: Any) -> None:
        """Change what a record says about MLflow; on a full disk it stays as it is, and all is sent again."""
        run = self.of_number(number)
        changed = replace(run, **changes)
        if changed != run:
            with suppress(OSError):
                self._put(changed)

    def _put(self, run: ConfirmRun) -> None:
        folder = self.folder(run.number)
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder / RUN_FILE, asdict(run), kind=_KIND)
        self._runs[run.key] = run


def _read(path: Path) -> ConfirmRun:
    content = read_record(path, kind=_KIND)
    try:
        return ConfirmRun(**content)
    except TypeError:
        raise UserError(f"{path}: must hold a record ({_KIND}), but is damaged; restore it from a copy") from None
