"""What a trial finds out, put on its shelf while it trains; where that fails, training goes on without."""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, Final

from tuner.stages import checkpoint
from tuner.stages.shelf import Recorder, Shelf, StepCounts
from tuner.stages.tree import Stage

_WRITES_AHEAD: Final = 2
"""Writes that may wait; a checkpoint that waits holds a copy of the state in host memory."""

_log = logging.getLogger(__name__)


class Recording:
    """One trial's own stage, and the evaluations and checkpoints that it leaves there or on its path.

    Files are written by a thread; rows, which are small and must be in order, at once. After the first OSError nothing
    more is written, and a message in the log says so.

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

    @property
    def active(self) -> bool:
        """Whether anything is recorded (still)."""
        return self._shelf is not None

    @property
    def stage(self) -> Stage | None:
        """The trial's own stage; None before its first step, and where nothing is recorded."""
        return None if self._recorder is None else self._recorder.stage

    def step(self, step: int, *, lr: float, loss: float, parent: Stage | None) -> None:
        """Record a new step; the first one opens a stage that branches off `parent`."""

        def append(shelf: Shelf) -> None:
            if self._recorder is None:
                self._recorder = shelf.begin(parent=parent, first=step, label=self._label)
            self._recorder.append(lr=lr, loss=loss)

        self._attempt(append)

    def evaluation(self, stage: Stage | None, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of the state before `step` on the stage that executed the step before it."""
        if stage is not None:
            self._submit(lambda shelf: shelf.add_evaluation(stage, step, metrics))

    def checkpoint(self, stage: Stage | None, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Keep the state before `step`, which `state` returns, unless it is kept already."""
        if stage is None or not self.active or step in stage.checkpoints:
            return
        self.settle(leave=_WRITES_AHEAD - 1)
        copy = checkpoint.snapshot(state())

        def write(shelf: Shelf) -> None:
            if self._recorder is not None:
                self._recorder.sync()
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
        self._submit(lambda shelf: shelf.note(counts))
        try:
            self.settle()
        finally:
            self._thread.shutdown()
            if self._recorder is not None:
                self._recorder.close()
                self._recorder = None

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
            with self._lock:
                told, self._shelf = self._shelf is None, None
            if told:
                return
            _log.warning(
                "%s cannot be written (%s); training goes on, the rest of this trial is not stored", shelf.folder, error
            )
