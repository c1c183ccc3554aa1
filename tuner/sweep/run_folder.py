"""The folder of a single run: its files, and the record of what is known of it beyond its curve."""

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from tuner.config.run import RunConfig
from tuner.config.run_file import run_text
from tuner.config.strict import Strict
from tuner.config.strict_yaml import explain
from tuner.errors import UserError
from tuner.files import read_record, write_record, write_whole
from tuner.names import CONFIG_FILE, RUN_FILE, RUN_LOCK_FILE, STATE_FILE, WEIGHTS_FILE

State = Literal["unfinished", "finished", "failed"]
_KIND = "run"


class RunRecord(Strict):
    """What is known of a single run.

    `tracking_uri` holds no credentials. `store` is the stage store that it shares, None where it shares nothing;
    `faces` the digest of its data; `unfit` says which checks of `tuner.testing` its workload failed, None: none.
    `metrics` are those of its end. Steps and `shared_with` are as in `tuner.trials.TrialRecord`; `seconds` is the time
    that it took, over all the processes that ran it, and `ended` when the last of them did, in seconds since 1970.
    `reason` says why it failed; `mirrored`, that MLflow has all of it.
    """

    name: str
    config: RunConfig
    state: State = "unfinished"
    tracking_uri: str
    run_id: str
    store: str | None
    faces: str
    unfit: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    steps: int = 0
    steps_executed: int = 0
    steps_repeated: int = 0
    steps_shared: int = 0
    shared_with: dict[str, int] = Field(default_factory=dict)
    seconds: float = 0.0
    ended: float = 0.0
    reason: str | None = None
    mirrored: bool = False


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.record = self.path / RUN_FILE
        self.config = self.path / CONFIG_FILE

    @property
    def weights(self) -> Path:
        """The trained backbone, or of a workload of one's own the whole state; there once the run is finished."""
        state = self.path / STATE_FILE
        return state if state.exists() else self.path / WEIGHTS_FILE

    @property
    def exists(self) -> bool:
        """Whether a run is here."""
        return self.record.is_file()

    @property
    def command(self) -> str:
        """What goes on with the run."""
        inside = self.config.is_relative_to(Path.cwd())
        config = self.config.relative_to(Path.cwd()) if inside else self.config
        return f"fastface-tuner train {shlex.quote(str(config))}"

    def check_free(self) -> None:
        """Raise UserError unless a new run can be made here: nothing there yet, and the place can be written to."""
        try:
            others = [each for each in self.path.iterdir() if each.name != RUN_LOCK_FILE] if self.path.exists() else []
            existing = next(place for place in (self.path, *self.path.parents) if place.exists())
        except OSError as error:
            raise UserError(
                f"a run needs a folder, but {self.path} cannot be one: {error.strerror}; use another"
            ) from None
        if others:
            raise UserError(f"a run's folder must be new or empty, but {self.path} holds other things; choose another")
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"a run must be able to write its folder, but cannot in {existing}; choose another --out")

    def write(self, record: RunRecord) -> None:
        """Write the record, whole or not at all, and the file that repeats the run; OSError where it fails."""
        write_record(self.record, record.model_dump(mode="json"), kind=_KIND)
        if not self.config.exists():
            write_whole(self.config, run_text(record.config).encode())

    def read(self) -> RunRecord:
        """Read the record back; UserError names a file that is damaged or of another version."""
        content: dict[str, Any] = read_record(self.record, kind=_KIND)
        try:
            return RunRecord.model_validate(content)
        except ValidationError as error:
            raise UserError(f"{explain(error, RunRecord, file=str(self.record))}; restore the file") from None

    @staticmethod
    def of_argument(run: str) -> "RunFolder | None":
        """Return the folder of a run that was named on the command line, as `runs/NAME`; None where it is none."""
        folder = RunFolder(Path(run))
        with suppress(OSError):  # a name too long, a folder that cannot be read
            if folder.exists and folder.config.is_file():
                return folder
        return None

    @staticmethod
    def of_config(config: Path) -> "RunFolder | None":
        """Return the folder of the run whose own configuration this file is; None where it is another file."""
        folder = RunFolder(config.parent)
        with suppress(OSError):
            if folder.exists and folder.config == config.absolute():
                return folder
        return None
