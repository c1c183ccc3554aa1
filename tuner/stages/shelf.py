"""One shelf of the store: the stages of one fingerprint, on disk and in memory.

    <shelf>/fingerprint.json      what the runs on this shelf have in common
    <shelf>/stages/<id>/...       see `tuner.stages.files`
    <shelf>/savings.jsonl         what each trial executed and shared
    <shelf>/scratch/              files that are being written

Several processes may use a shelf at once. A stage belongs to the process that runs it; every other file appears whole,
under a name that says what it is, so it does not matter who puts it there. What is damaged is dropped with a warning in
the log, never served.
"""

import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

from tuner.errors import UserError
from tuner.stages.files import (
    CHECKPOINTS_FOLDER,
    DISTRUSTED_FILE,
    EVALUATIONS_FOLDER,
    FORMAT,
    ROW_BYTES,
    STEPS_FILE,
    Counted,
    DamagedError,
    Header,
    checksum,
    is_locked,
    pack_row,
    put,
    read_checked,
    read_header,
    read_rows,
    sweep_scratch,
    write_checked,
    write_header,
)
from tuner.stages.tree import Stage, Tree

FINGERPRINT_FILE: Final = "fingerprint.json"
SAVINGS_FILE: Final = "savings.jsonl"
STAGES_FOLDER: Final = "stages"
SCRATCH_FOLDER: Final = "scratch"

_CHECKPOINT_NAME: Final = re.compile(r"(\d+)-(\d+)-([0-9a-f]{8})\.pt")
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class StepCounts:
    """What a trial cost and what it was spared.

    `executed` training steps ran, `repeated` of them only to get from a checkpoint to where known ground ended. The
    losses of `shared` steps were taken from the records of other trials, those of `resumed` steps from this trial's
    own, which had been broken off. For a finished trial, executed - repeated + shared + resumed = its steps.
    """

    executed: int = 0
    repeated: int = 0
    shared: int = 0
    resumed: int = 0


@dataclass(slots=True)
class _Reading:
    """How far a stage's rows have been read, and whether there is any use in reading on."""

    num_bytes: int = 0
    ended: bool = False


class Shelf:
    """The stages of one fingerprint. At most one run may use one `Shelf` object at a time.

    Args:
        folder: the shelf's own; it is made when the first stage begins.
        make_room: asked for a number of bytes before a checkpoint is kept; False means that the budget has no room.
        relieve_disk: the same before it is written; False means that the disk has none.
    """

    def __init__(self, folder: Path, *, make_room: Callable[[int], bool], relieve_disk: Callable[[int], bool]) -> None:
        self.folder = folder
        self.tree = Tree()
        self.fingerprint: Mapping[str, Any] | None = None
        self._make_room = make_room
        self._relieve_disk = relieve_disk
        self._scratch = folder / SCRATCH_FOLDER
        self._readings: dict[str, _Reading] = {}
        self._warned: set[str] = set()

    @property
    def key(self) -> str:
        """The hash of the fingerprint, which names the shelf."""
        return self.folder.name

    def check(self) -> None:
        """Look whether this is the shelf of its `fingerprint`, and write a damaged or missing note of it again.

        Raises:
            UserError: it is that of another one; its folder was renamed.
        """
        path = self.folder / FINGERPRINT_FILE
        try:
            found = read_checked(path, {"format": FORMAT})["fingerprint"]
        except OSError:  # there is no such shelf yet, or nothing of it can be read
            return
        except (DamagedError, KeyError):
            # The folder's name, which is the hash of it, says what stood there.
            self._warn(f"{path} is damaged; it is written again")
            with suppress(OSError):
                self._write_fingerprint()
            return
        if found != json.loads(json.dumps(self.fingerprint)):
            raise UserError(
                f"{path} must describe the runs that the name of its folder stands for, but describes others; "
                "move that folder away, its steps belong elsewhere"
            )

    def refresh(self) -> None:
        """Take in what any process has put on the shelf, or removed, since the last time."""
        sweep_scratch(self._scratch)
        stages = []
        for folder in sorted((self.folder / STAGES_FOLDER).glob("*")):
            try:
                stage = self._read(folder)
            except DamagedError as error:
                self._warn(f"{error}; this stage is dropped, and its steps are trained again")
                continue
            except FileNotFoundError:  # Just being made, or just removed.
                continue
            except OSError as error:
                self._warn(f"{folder} cannot be read ({error}); this stage is dropped, and its steps are trained again")
                continue
            stages.append(stage)
        self.tree = Tree(stages)
        for orphan in self.tree.orphans():
            if orphan.losses:
                self._warn(f"{self._at(orphan)} is dropped, since steps before it are lost; they are trained again")

    def begin(self, *, parent: Stage | None, first: int, label: str = "") -> "Recorder":
        """Open a new stage that branches off `parent` before step `first`; OSError where it cannot be written."""
        stage_id = f"{time.time_ns():016x}{secrets.token_hex(4)}"
        stage = Stage(id=stage_id, parent=None if parent is None else parent.id, first=first, label=label)
        folder = self._at(stage)
        folder.mkdir(parents=True)
        try:
            recorder = self._begin(stage, folder)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._readings[stage.id] = _Reading(ended=True)
        self.tree.add(stage)
        return recorder

    def _begin(self, stage: Stage, folder: Path) -> "Recorder":
        """Write the first files of a stage."""
        if not (self.folder / FINGERPRINT_FILE).exists():
            self._write_fingerprint()
        # The lock is taken before the header shows the stage to other processes.
        recorder = Recorder(stage, folder / STEPS_FILE)
        header = Header(id=stage.id, parent=stage.parent, first=stage.first, label=stage.label, created=time.time())
        try:
            write_header(folder, header, scratch=self._scratch)
        except OSError:
            recorder.close()
            raise
        return recorder

    def add_evaluation(self, stage: Stage, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of the state before `step`, on a stage that executed the step before it."""
        path = self._at(stage) / EVALUATIONS_FOLDER / f"{step}.json"
        content = {"stage": stage.id, "step": step, "metrics": dict(metrics)}
        write_checked(path, content, scratch=self._scratch)
        stage.evaluations[step] = dict(metrics)

    def add_checkpoint(
        self, stage: Stage, step: int, write: Callable[[Counted], object], *, num_bytes: int = 0
    ) -> bool:
        """Keep what `write` writes as the state before `step`, about `num_bytes`; return whether there was room."""
        folder = self._at(stage) / CHECKPOINTS_FOLDER
        if step in stage.checkpoints and (folder / stage.checkpoints[step]).exists():
            return True
        if not self._relieve_disk(num_bytes):
            return False

        def place(file: Counted) -> Path | None:
            name = f"{step}-{file.num_bytes}-{file.checksum:08x}.pt"
            return folder / name if self._make_room(file.num_bytes) else None

        path = put(write, place, scratch=self._scratch)
        if path is not None:
            stage.checkpoints[step] = path.name
        return path is not None

    def open_checkpoint(self, stage: Stage, step: int) -> IO[bytes] | None:
        """Open the state before `step` once its checksum is found right; None, with a warning, where it is damaged."""
        path = self._at(stage) / CHECKPOINTS_FOLDER / stage.checkpoints[step]
        _, num_bytes, expected = parse_checkpoint_name(path.name) or (0, 0, "")
        try:
            file = path.open("rb")
            if os.fstat(file.fileno()).st_size == num_bytes and f"{checksum(file):08x}" == expected:
                file.seek(0)
                return file
            file.close()
        except FileNotFoundError:  # Given up for the budget in the meantime.
            del stage.checkpoints[step]
            return None
        except OSError as error:
            self.drop_checkpoint(stage, step, f"{path} cannot be read ({error})")
            return None
        self.drop_checkpoint(stage, step, f"{path} is damaged")
        return None

    def drop_checkpoint(self, stage: Stage, step: int, reason: str) -> None:
        """Remove a checkpoint that must not be used."""
        self._warn(f"{reason}; this checkpoint is dropped, and an earlier one used")
        _unlink(self._at(stage) / CHECKPOINTS_FOLDER / stage.checkpoints.pop(step))

    def distrust(self, stage: Stage, reason: str) -> None:
        """Take a stage and all that branch off it out of use, for every process."""
        write_checked(self._at(stage) / DISTRUSTED_FILE, {"reason": reason}, scratch=self._scratch)
        self.tree = Tree(other for other in self.tree.stages.values() if other is not stage)

    def note(self, counts: StepCounts) -> None:
        """Add what a trial executed and shared to the shelf's account."""
        if self.folder.exists():
            line = json.dumps({"time": time.time(), **asdict(counts)}) + "\n"
            with (self.folder / SAVINGS_FILE).open("ab", buffering=0) as file:
                file.write(line.encode())

    def _write_fingerprint(self) -> None:
        content = {"format": FORMAT, "fingerprint": self.fingerprint}
        write_checked(self.folder / FINGERPRINT_FILE, content, scratch=self._scratch)

    def _read(self, folder: Path) -> Stage:
        """Return a stage as it is on the disk now; one that is known already is the same object, grown."""
        if (folder / DISTRUSTED_FILE).exists():
            raise DamagedError(f"{folder} gave other losses when it was trained again")
        stage = self.tree.stages.get(folder.name)
        if stage is None:
            header = read_header(folder)
            stage = Stage(id=header.id, parent=header.parent, first=header.first, label=header.label)
            self._readings[stage.id] = _Reading()
        self._read_rows(stage, folder / STEPS_FILE)
        self._read_evaluations(stage, folder / EVALUATIONS_FOLDER)
        stage.checkpoints.clear()
        for path in (folder / CHECKPOINTS_FOLDER).glob("*.pt"):
            if (parsed := parse_checkpoint_name(path.name)) is not None:
                stage.checkpoints[parsed[0]] = path.name
        return stage

    def _read_rows(self, stage: Stage, path: Path) -> None:
        reading = self._readings[stage.id]
        if reading.ended:
            return
        # Asked first: rows that come between the two questions wait for the next refresh.
        running = is_locked(path)
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
                    _unlink(path)
                except OSError as error:  # not to be read, or dropped by another process
                    self._warn(f"{path} cannot be read ({error}); this evaluation is made again")
                else:
                    stage.evaluations[content["step"]] = content["metrics"]

    def _at(self, stage: Stage) -> Path:
        return self.folder / STAGES_FOLDER / stage.id

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            _log.warning(message)


class Recorder:
    """Appends the steps of a running stage; the lock on its rows says to other processes that it runs."""

    def __init__(self, stage: Stage, path: Path) -> None:
        self.stage = stage
        # Unbuffered: what is recorded survives the death of this process.
        self._file = path.open("xb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def append(self, *, lr: float, loss: float) -> None:
        """Record the stage's next step; OSError where it cannot be written, and then the rows are as before."""
        row = pack_row(self.stage.id, step=self.stage.stop, lr=lr, loss=loss)
        try:
            while row:  # a disk that is full in the middle of a row takes a part of it first
                row = row[self._file.write(row) or 0 :]
        except OSError:
            self._file.seek(ROW_BYTES * len(self.stage.losses))
            self._file.truncate()
            raise
        self.stage.lrs.append(lr)
        self.stage.losses.append(loss)

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """End the stage; closing twice is harmless."""
        self._file.close()


def parse_checkpoint_name(name: str) -> tuple[int, int, str] | None:
    """Return step, bytes and checksum from a checkpoint's file name; None where it is none."""
    match = _CHECKPOINT_NAME.fullmatch(name)
    return None if match is None else (int(match[1]), int(match[2]), match[3])


def _unlink(path: Path) -> None:
    """Remove a file; where that cannot be, as in a read-only store, it is merely not used."""
    with suppress(OSError):
        path.unlink()
