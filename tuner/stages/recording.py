"""What a trial finds out, put on its shelf while it trains; where that fails, training goes on without.

A row is written as soon as its loss is known, and sent to the disk every second, so that trials on other machines see
it soon. A full disk is no failure: steps wait until there is room, and the trial may wait with them; a checkpoint or an
evaluation that does not fit is left out, which costs a later trial some steps.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

from tuner.files import is_full
from tuner.stages import checkpoint
from tuner.stages.recorder import Recorder
from tuner.stages.shelf import Shelf, StepCounts
from tuner.stages.tree import Stage

_WRITES_AHEAD: Final = 2
"""Writes that may wait; a checkpoint that waits holds a copy of the state in host memory."""
SYNC_SECONDS: Final = 1.0
"""How often new rows are sent to the disk, or to the server of a network file system, where other machines see them."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Row:
    """A step to record; the first one opens a stage that branches off `parent`."""

    step: int
    lr: float
    loss: float
    parent: Stage | None


class Recording:
    """One trial's own stage, and the evaluations and checkpoints that it leaves there or on its path.

    Files are written by a thread; rows, which are small and must be in order, at once. After the first OSError other
    than a full disk nothing more is written, and a message in the log says so.

    Args:
        shelf: where to; None records nothing.
        label: of the stage.
    """

    def __init__(self, shelf: Shelf | None, *, label: str = "") -> None:
        self._shelf = shelf
        self._label = label
        self._recorder: Recorder | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stages")
        self._lock = Lock()
        self._writes: deque[Future[None]] = deque()
        self._rows: deque[_Row] = deque()
        self._told_full = False
        self._next_sync = time.monotonic() + SYNC_SECONDS

    @property
    def active(self) -> bool:
        """Whether anything is recorded (still)."""
        return self._shelf is not None

    @property
    def stage(self) -> Stage | None:
        """The trial's own stage; None before its first step, and where nothing is recorded."""
        return None if self._recorder is None else self._recorder.stage

    def claim(self, parent: Stage | None, first: int, *, lr: float, evaluate_at: Collection[int]) -> Stage | None:
        """Open the stage that branches off `parent` before step `first` and goes on at `lr`.

        Where another trial has trained that step, or is just training it, return its stage instead. Where nothing can
        be claimed, as on a full disk, the trial may train all the same.
        """
        if self._shelf is None:
            return None
        try:
            found = self._shelf.claim(parent=parent, first=first, lr=lr, label=self._label, evaluate_at=evaluate_at)
        except OSError as error:
            if not is_full(error):
                self._give_up(self._shelf, error)
            return None
        if isinstance(found, Stage):
            return found
        self._recorder = found
        return None

    def step(self, step: int, *, lr: float, loss: float, parent: Stage | None) -> None:
        """Record a new step, now or at the next `catch_up`; without a claim, the first one opens a stage."""
        self._rows.append(_Row(step, lr, loss, parent))
        self.catch_up()
        now = time.monotonic()
        if now >= self._next_sync and not self._busy():
            self._next_sync = now + SYNC_SECONDS
            self._submit(lambda _: self._sync())

    def catch_up(self) -> bool:
        """Record the steps that wait for room; False where the disk is still full."""
        while self._rows and self._shelf is not None:
            row = self._rows[0]
            try:
                if self._recorder is None:
                    self._recorder = self._shelf.begin(parent=row.parent, first=row.step, lr=row.lr, label=self._label)
                self._recorder.append(lr=row.lr, loss=row.loss)
            except OSError as error:
                if is_full(error):
                    return False
                self._give_up(self._shelf, error)
            else:
                self._rows.popleft()
        self._rows.clear()
        return True

    def evaluation(self, stage: Stage | None, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of the state before `step` on the stage that executed the step before it."""
        if stage is not None:
            self._submit(lambda shelf: shelf.add_evaluation(stage, step, metrics))

    def checkpoint(self, stage: Stage | None, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Keep the state before `step`, which `state` returns, unless it is kept already."""
        if stage is None or not self.active or self._rows or step in stage.checkpoints:
            return
        self.settle(leave=_WRITES_AHEAD - 1)
        copy = checkpoint.snapshot(state())

        def write(shelf: Shelf) -> None:
            self._sync()
            checkpoint.save(shelf, stage, step, copy)

        self._submit(write)

    def distrust(self, stage: Stage, source: tuple[Stage, int] | None, reason: str) -> None:
        """Take a stage out of use, and the checkpoint from which its steps were trained again."""
        if self._shelf is not None and source is not None:
            self._shelf.drop_checkpoint(*source, reason)
        self._attempt(lambda shelf: shelf.distrust(stage, reason))

    def settle(self, *, leave: int = 0) -> None:
        """Wait until no more than `leave` writes are under way."""
        while len(self._writes) > leave:
            self._writes.popleft().result()

    def close(self, counts: StepCounts) -> None:
        """Finish all writes, end the stage, and add the trial to the shelf's account."""
        if not self.catch_up() and self._shelf is not None:
            _log.warning(
                "%s: the disk is full; the last %d steps are not stored, and trained again where they are needed",
                self._shelf.folder,
                len(self._rows),
            )
        self._submit(lambda shelf: shelf.note(counts))
        try:
            self.settle()
        finally:
            self._thread.shutdown()
            if self._recorder is not None:
                self._recorder.close()
                self._recorder = None

    def _busy(self) -> bool:
        """Return whether a write is under way."""
        while self._writes and self._writes[0].done():
            self._writes.popleft().result()
        return bool(self._writes)

    def _sync(self) -> None:
        if self._recorder is not None:
            self._recorder.sync()

    def _submit(self, action: Callable[[Shelf], object]) -> None:
        if self.active:
            self._writes.append(self._thread.submit(self._attempt, action))

    def _attempt(self, action: Callable[[Shelf], object]) -> None:
        shelf = self._shelf
        if shelf is None:
            return
        try:
            action(shelf)
        except OSError as error:
            if not is_full(error):
                self._give_up(shelf, error)
            elif not self._told_full:
                self._told_full = True
                _log.warning("%s: the disk is full; a checkpoint or an evaluation is left out", shelf.folder)

    def _give_up(self, shelf: Shelf, error: OSError) -> None:
        with self._lock:
            told, self._shelf = self._shelf is None, None
        if not told:
            _log.warning(
                "%s cannot be written (%s); training goes on, the rest of this trial is not stored", shelf.folder, error
            )
