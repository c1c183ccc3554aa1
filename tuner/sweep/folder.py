"""The folder of one sweep: where its files are, and what `sweep.yaml` says about it beyond the ledger."""

import os
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import Field, ValidationError

from tuner.config.strict import PositiveFloat, PositiveInt, Strict
from tuner.errors import UserError
from tuner.files import ledger_file, write_whole
from tuner.names import (
    ENVIRONMENT_FILE,
    FORMAT_VERSION,
    JOURNAL_FILE,
    STAGES_DIR,
    STORAGE_FILE,
    SWEEP_FILE,
    SWEEPS_DIR,
    TRIALS_DIR,
)
from tuner.stages.store import DEFAULT_BUDGET
from tuner.sweep.asked import Budget
from tuner.sweep.run_folder import RunFolder

ENVIRONMENT: Final = "environment of a sweep"
"""The kind of the record of what a sweep began on."""


class SweepDescription(Strict):
    """What a resume needs beyond the ledger: how much the sweep may do, and where its things are.

    `tracking_uri` holds no credentials: where a server wants them, each start takes them from its own environment.
    `store` is the stage store that its trials share, None where they share nothing; `checkpoint_budget` are the bytes
    that checkpoints may take there. `faces` is the digest of the data, None where it is not known. `unfit` says which
    checks of `tuner.testing` the workload failed, so that nothing is shared; None where it failed none. `asked` are the
    words of a command line that name what is trained, the space first; none in sweeps of versions that did not note it.
    `threads` are the CPU threads of a trial that trains on the processor, whose last bits depend on their number; None
    on a GPU.
    """

    format: int = FORMAT_VERSION
    name: str = Field(min_length=1)
    trials: PositiveInt | None
    budget_steps: PositiveInt | None = None
    budget_minutes: PositiveFloat | None = None
    tracking_uri: str
    parent_run_id: str
    store: str | None = None
    checkpoint_budget: Annotated[int, Field(ge=0)] = DEFAULT_BUDGET
    faces: str | None = None
    unfit: str | None = None
    asked: tuple[str, ...] = ()
    threads: PositiveInt | None = None

    @property
    def budget(self) -> Budget:
        """How much the sweep may do."""
        return Budget(trials=self.trials, steps=self.budget_steps, minutes=self.budget_minutes)

    def store_of(self, run: Path) -> str | None:
        """Return the stage store that a run with this folder trains with; None where it must train with none."""
        return None if self.unfit is not None else self.store or str(run / STAGES_DIR)


class SweepFolder:
    """The files of one sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.description = self.path / SWEEP_FILE
        self.journal = self.path / JOURNAL_FILE
        self.environment = self.path / ENVIRONMENT_FILE

    @property
    def ledger(self) -> Path:
        """The file that stands for the sweep's ledger: the journal, or what names the storage that it is in."""
        return ledger_file(self.journal)

    def trial(self, number: int) -> Path:
        """Return the folder of one trial: its curve and its evaluations."""
        return self.path / TRIALS_DIR / f"{number:04d}"

    @property
    def argument(self) -> str:
        """What stands for this sweep on the command line: its name, where it is below `sweeps/`, else its folder."""
        short = self.path == (Path(SWEEPS_DIR) / self.path.name).absolute()
        return shlex.quote(self.path.name if short else str(self.path))

    @property
    def exists(self) -> bool:
        """Whether a sweep is here; one that was killed while it was made, before its first trial, is none."""
        return self.description.is_file() and self.ledger.is_file()

    def clear(self) -> SweepDescription | None:
        """Remove what the making of a sweep left that was killed before its first trial; return its description."""
        if self.exists or not self.description.is_file() or (self.path / TRIALS_DIR).exists():
            return None
        description = self.read()
        self.journal.with_name(self.journal.name + ".new").unlink(missing_ok=True)
        self.description.unlink()
        return description

    def check_free(self, name: str) -> None:
        """Raise UserError unless a new sweep can be made here: nothing there yet, and the place can be written to."""
        try:
            taken = self.description.exists() or self.ledger.exists()
        except OSError as error:
            raise UserError(
                f"a sweep needs a folder, but {self.path} cannot be one: {error.strerror}; use another"
            ) from None
        if taken:
            raise UserError(
                f"a new sweep needs a name of its own, but {name!r} exists in {self.path}; "
                f"choose another --name, or go on with it: fastface-tuner resume {self.argument}"
            )
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(
                f"a sweep's folder must be new or empty, but {self.path} holds other things; choose another --out"
            )
        existing = next(parent for parent in (self.path, *self.path.parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"a sweep must be able to write its folder, but cannot in {existing}; choose another --out")

    def write(self, description: SweepDescription, *, replace: bool = False) -> None:
        """Make the folder and write the description, whole or not at all; FileExistsError where one is there.

        `replace` takes the place of that one.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(description.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_whole(self.description, text.encode(), new=not replace)

    def read(self) -> SweepDescription:
        """Read the description back; UserError names a file that is damaged or of another version."""
        try:
            content: Any = yaml.safe_load(self.description.read_text("utf-8"))
            version = content["format"]
        except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError) as error:
            reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
            raise UserError(
                f"{self.description} must describe a sweep, but cannot be read: {reason}; restore it"
            ) from None
        if version != FORMAT_VERSION:
            raise UserError(
                f"{self.description} must have format {FORMAT_VERSION}, but has {version!r}; "
                "use the version of fastface-tuner that wrote it"
            )
        try:
            return SweepDescription.model_validate(content)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"]))
            raise UserError(f"{self.description} is damaged at {place!r}: {problem['msg']}; restore it") from None


def new_folder(name: str, out: Path | None) -> SweepFolder:
    """Return the folder of a sweep to be; UserError where the name cannot be one."""
    if not re.fullmatch(r"[\w][\w.\- ]*", name):
        raise UserError(
            f"a sweep's name must be letters, digits, spaces, '.', '-' and '_', but got {name!r}; use another --name"
        )
    return SweepFolder(out or Path(SWEEPS_DIR) / name)


def find_sweep(sweep: str) -> SweepFolder:
    """Return the folder of SWEEP, which is a sweep's folder or the name of one below `sweeps/`."""
    for path in (Path(sweep), Path(SWEEPS_DIR) / sweep):
        folder = SweepFolder(path)
        with suppress(OSError):  # a name too long, a folder that cannot be read: no sweep of ours
            if folder.ledger.is_file():
                return folder
    if (run := RunFolder.of_argument(sweep)) is not None:
        raise UserError(
            f"SWEEP must be a sweep's folder or name, but {sweep} is a single run; go on with it, or see what came of "
            f"it: {run.command}"
        )
    ledgers = (ledger for name in (JOURNAL_FILE, STORAGE_FILE) for ledger in Path(SWEEPS_DIR).glob(f"*/{name}"))
    known = sorted({ledger.parent.name for ledger in ledgers})
    hint = f"known here: {', '.join(known)}" if known else "start one with: fastface-tuner sweep"
    raise UserError(f"SWEEP must be a sweep's folder or name, but there is no sweep {sweep!r}; {hint}")
