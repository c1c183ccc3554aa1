"""The stages of a shelf as they are on the disk now: read once, and then what was added. What is damaged is dropped."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tuner.stages.claims import Register
from tuner.stages.files import (
    CHECKPOINTS_FOLDER,
    DISTRUSTED_FILE,
    EVALUATIONS_FOLDER,
    STEPS_FILE,
    DamagedError,
    is_locked,
    parse_checkpoint_name,
    read_checked,
    read_header,
    read_rows,
    remove_file,
)
from tuner.stages.tree import Stage


@dataclass(slots=True)
class _Reading:
    """How far a stage's rows have been read, and whether there is any use in reading on."""

    num_bytes: int = 0
    ended: bool = False


class StageReader:
    """Reads the stages in `folder`; what is dropped is told to `warn`."""

    def __init__(self, folder: Path, *, register: Register, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._register = register
        self._warn = warn
        self._readings: dict[str, _Reading] = {}

    def all(self, known: Mapping[str, Stage]) -> Iterator[Stage]:
        """Yield all stages, by id; those of `known` are the same objects, grown."""
        self._register.read()
        listed = {folder.name for folder in self._folder.glob("*")}
        entered = {each for each in self._register.entries if each in listed or (self._folder / each).exists()}
        for stage_id in sorted(listed | entered):
            if (stage := self.find(stage_id, known.get(stage_id))) is not None:
                yield stage

    def find(self, stage_id: str, stage: Stage | None = None) -> Stage | None:
        """Return a stage up to date, None where it cannot be used; `stage` is what was read of it before."""
        try:
            if stage is None:
                header = read_header(self._folder / stage_id)
                stage = Stage(id=header.id, parent=header.parent, first=header.first, label=header.label)
                self._readings[stage.id] = _Reading()
            self.update(stage)
        except DamagedError as error:
            self._warn(f"{error}; this stage is dropped, and its steps are trained again")
            return None
        except FileNotFoundError:  # Just being made, or just removed.
            return None
        except OSError as error:
            folder = self._folder / stage_id
            self._warn(f"{folder} cannot be read ({error}); this stage is dropped, and its steps are trained again")
            return None
        return stage

    def leave_alone(self, stage: Stage) -> None:
        """Never read the rows of a stage: this process writes them."""
        self._readings[stage.id] = _Reading(ended=True)

    def update(self, stage: Stage) -> None:
        """Take in what was added to a stage.

        Raises:
            DamagedError: it is not to be used.
            OSError: it cannot be read, or was removed.
        """
        folder = self._folder / stage.id
        if (folder / DISTRUSTED_FILE).exists():
            raise DamagedError(f"{folder} gave other losses when it was trained again")
        if (entry := self._register.entries.get(stage.id)) is not None:
            stage.first_lr, stage.evaluates = entry.lr, frozenset(entry.evaluates)
        # Rows first: where they say that the stage has ended, all that belongs to them is there too.
        self._read_rows(stage, folder / STEPS_FILE)
        self._read_evaluations(stage, folder / EVALUATIONS_FOLDER)
        stage.checkpoints.clear()
        for path in (folder / CHECKPOINTS_FOLDER).glob("*.pt"):
            if (parsed := parse_checkpoint_name(path.name)) is not None:
                stage.checkpoints[parsed[0]] = path.name

    def _read_rows(self, stage: Stage, path: Path) -> None:
        reading = self._readings[stage.id]
        if reading.ended:
            return
        # Asked first: rows that come between the two questions wait for the next time.
        stage.running = running = is_locked(path)
        rows = read_rows(path, stage.id, first=stage.stop, offset=reading.num_bytes)
        stage.lrs.extend(rows.lrs)
        stage.losses.extend(rows.losses)
        reading.num_bytes, reading.ended = rows.num_bytes, not running
        if rows.damage is not None and not running:
            self._warn(f"{path}: {rows.damage}; it is dropped with all that follows, and trained again")

    def _read_evaluations(self, stage: Stage, folder: Path) -> None:
        for path in folder.glob("*.json"):
            if path.stem.isdecimal() and int(path.stem) not in stage.evaluations:
                try:
                    content = read_checked(path, {"stage": stage.id, "step": int(path.stem)})
                except DamagedError as error:
                    self._warn(f"{error}; this evaluation is dropped, and made again")
                    remove_file(path)
                except OSError as error:  # not to be read, or dropped by another process
                    self._warn(f"{path} cannot be read ({error}); this evaluation is made again")
                else:
                    stage.evaluations[content["step"]] = content["metrics"]
