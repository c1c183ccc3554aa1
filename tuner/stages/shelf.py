"""One shelf of the store: the stages of one fingerprint, on disk and in memory.

    <shelf>/fingerprint.json      what the runs on this shelf have in common
    <shelf>/stages/<id>/...       see `tuner.stages.files`
    <shelf>/savings.jsonl         what each trial executed and shared
    <shelf>/scratch/              files that are being written
    <shelf>/register.jsonl, users.lock    see `tuner.stages.claims`

Several processes may use a shelf at once. A stage belongs to the process that runs it; every other file appears whole,
under a name that says what it is, so it does not matter who puts it there. What is damaged is dropped with a warning in
the log, never served.
"""

import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

from tuner.errors import UserError
from tuner.stages.claims import REGISTER_FILE, Entry, Hold, Register, evaluation_claim
from tuner.stages.files import (
    CHECKPOINTS_FOLDER,
    DISTRUSTED_FILE,
    EVALUATIONS_FOLDER,
    FORMAT,
    STEPS_FILE,
    Counted,
    DamagedError,
    Header,
    checksum,
    parse_checkpoint_name,
    put,
    read_checked,
    remove_file,
    sweep_scratch,
    write_checked,
    write_header,
)
from tuner.stages.reading import StageReader
from tuner.stages.recorder import Recorder
from tuner.stages.tree import Stage, Tree

FINGERPRINT_FILE: Final = "fingerprint.json"
SAVINGS_FILE: Final = "savings.jsonl"
STAGES_FOLDER: Final = "stages"
SCRATCH_FOLDER: Final = "scratch"

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
        self._register = Register(folder / REGISTER_FILE)
        self._hold = Hold(folder)
        self._warned: set[str] = set()
        self._reader = StageReader(folder / STAGES_FOLDER, register=self._register, warn=self._warn)

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
        self.tree = Tree(self._reader.all(self.tree.stages))
        for orphan in self.tree.orphans():
            if orphan.losses:
                self._warn(f"{self._at(orphan)} is dropped, since steps before it are lost; they are trained again")

    def reread(self, stage: Stage) -> None:
        """Take in what was added to one stage; one that cannot be read does not run."""
        try:
            self._reader.update(stage)
        except (OSError, DamagedError):
            stage.running = False

    def hold(self) -> bool:
        """Keep the shelf from being removed until `let_go`; False where there is none yet."""
        return self._hold.take()

    def let_go(self) -> None:
        """Let the shelf be removed."""
        self._hold.let_go()

    def claim(
        self, *, parent: Stage | None, first: int, lr: float, label: str = "", evaluate_at: Collection[int] = ()
    ) -> Recorder | Stage:
        """Open a new stage that branches off `parent` before step `first`, which it is the only one to train at `lr`.

        Where another trial has trained that step, or is just training it, its stage is returned. OSError where the
        shelf cannot be written.
        """
        with self._entering():
            for entry in self._register.read():
                if entry.stage not in self.tree.stages and (stage := self._reader.find(entry.stage)) is not None:
                    self.tree.add(stage)
            for stage in (parent, *self.tree.beginning_at(parent, first)):
                if stage is not None:
                    self.reread(stage)
            found = self.tree.under_way(parent, first, lr=lr)
            return found or self._begin(parent=parent, first=first, lr=lr, label=label, evaluate_at=evaluate_at)

    def begin(self, *, parent: Stage | None, first: int, lr: float, label: str = "") -> Recorder:
        """Open a new stage, whoever else may have the same; OSError where it cannot be written."""
        with self._entering():
            return self._begin(parent=parent, first=first, lr=lr, label=label, evaluate_at=())

    @contextmanager
    def _entering(self) -> Iterator[None]:
        """Be the only one that opens stages; the shelf is made where it is missing, and held."""
        while not self._hold.take():
            self.folder.mkdir(parents=True, exist_ok=True)
        with self._register.locked():
            yield

    def _begin(
        self, *, parent: Stage | None, first: int, lr: float, label: str, evaluate_at: Collection[int]
    ) -> Recorder:
        stage_id = f"{time.time_ns():016x}{secrets.token_hex(4)}"
        stage = Stage(id=stage_id, parent=None if parent is None else parent.id, first=first, label=label, first_lr=lr)
        folder = self._at(stage)
        folder.mkdir(parents=True)
        try:
            recorder = self._open(stage, folder)
            try:
                evaluates = tuple(sorted(step for step in evaluate_at if step > first))
                self._register.add(Entry(stage=stage.id, parent=stage.parent, first=first, lr=lr, evaluates=evaluates))
            except OSError:
                recorder.close()
                raise
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._reader.leave_alone(stage)
        self.tree.add(stage)
        return recorder

    def _open(self, stage: Stage, folder: Path) -> Recorder:
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

    @contextmanager
    def evaluating(self, stage: Stage, step: int) -> Iterator[bool]:
        """Be the one that evaluates before `step` while the block runs; yields False where another trial does."""
        with evaluation_claim(self._at(stage) / EVALUATIONS_FOLDER / f"{step}.lock") as mine:
            self.reread(stage)
            yield mine

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
        remove_file(self._at(stage) / CHECKPOINTS_FOLDER / stage.checkpoints.pop(step))

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

    def _at(self, stage: Stage) -> Path:
        return self.folder / STAGES_FOLDER / stage.id

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            _log.warning(message)
