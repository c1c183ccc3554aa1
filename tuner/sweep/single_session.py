"""One process's part of a single run: its steps heard, and what came of it filed."""

import shutil
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from tuner.names import STAGES_DIR, TRACEBACK_FILE
from tuner.room import patiently
from tuner.sweep.run import INTERRUPTED_SENDING_SECONDS, LAST_SENDING_SECONDS
from tuner.sweep.run_folder import RunFolder, RunRecord
from tuner.sweep.single_view import LOOK_SECONDS, RunMirror, RunProgress, shown
from tuner.tracking.runs import Status

if TYPE_CHECKING:
    from tuner.stages.trial import TrialProgress
    from tuner.sweep.in_process import Outcome


class Session:
    """Hears a run's steps, and files what came of it, once, whichever thread comes first.

    `outcome` is to be set before `close`; without one the run counts as broken off. `store` is the stage store to train
    with: the shared one, or where nothing is shared one of the run's own, which goes when it is finished; None for a
    workload that is unfit to go on from a checkpoint.
    """

    def __init__(self, record: RunRecord, *, folder: RunFolder, mirror: RunMirror, progress: RunProgress) -> None:
        self.record = record
        self.outcome: Outcome | None = None
        own = None if record.unfit is not None else folder.path / STAGES_DIR
        self.store = own if record.store is None else Path(record.store)
        self._folder, self._mirror, self._progress = folder, mirror, progress
        self._last: TrialProgress | None = None
        self._metrics: dict[str, float] = {}
        self._started, self._next_look = time.monotonic(), 0.0
        self._lock, self._closed = Lock(), False

    def hear(self, last: "TrialProgress") -> None:
        """Hear of a step."""
        self._last = last
        if last.metrics:
            self._metrics = dict(last.metrics)
            self._progress.evaluated(steps=last.steps, metrics=last.metrics)
        if last.metrics or time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            counts = last.counts
            self._progress.moved(
                steps=last.steps,
                executed=counts.executed,
                known=counts.shared + counts.resumed,
                loss=last.loss,
                lr=last.lr,
            )
            for line in self._mirror.news():
                self._progress.message(line)

    def close(self) -> None:
        """File what came of it, and end the MLflow run."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._close()

    def _close(self) -> None:
        outcome = self.outcome
        status: Status = "KILLED"
        texts: dict[str, str] = {}
        changed = self._counted()
        if outcome == "finished":
            status = "FINISHED"
            changed |= {"state": "finished", "metrics": self._metrics, "reason": None}
        elif outcome is not None and outcome != "stopped":
            status, texts = "FAILED", {TRACEBACK_FILE: outcome.traceback}
            changed |= {"state": "failed", "reason": outcome.reason}
        self._file(changed, patient=status == "FINISHED")
        if status == "FINISHED" and self.record.store is None and self.store is not None:
            shutil.rmtree(self.store, ignore_errors=True)
        for line in self._said(status):
            self._progress.message(line)
        seconds = INTERRUPTED_SENDING_SECONDS if status == "KILLED" else LAST_SENDING_SECONDS
        left = self._mirror.close(self.record, status, timeout=seconds, texts=texts)
        for line in (*self._mirror.news(), *([] if left is None else [left])):
            self._progress.message(line)
        if status == "FINISHED" and left is None:
            self._file({"mirrored": True}, patient=False)

    def _counted(self) -> dict[str, Any]:
        """Return what this process added to the record."""
        changed: dict[str, Any] = {
            "seconds": self.record.seconds + time.monotonic() - self._started,
            "ended": time.time(),
        }
        if self._last is not None:
            counts = self._last.counts
            changed |= {
                "steps": self._last.steps,
                # What was trained before an interruption is this run's too.
                "steps_executed": counts.executed + counts.resumed,
                "steps_repeated": counts.repeated,
                "steps_shared": counts.shared,
                "shared_with": dict(self._last.shared_with),
            }
        return changed

    def _file(self, changed: dict[str, Any], *, patient: bool) -> None:
        self.record = self.record.model_copy(update=changed)
        write = partial(self._folder.write, self.record)
        if patient:
            patiently(write, self._folder.path)
            return
        with suppress(OSError):  # a full disk: the run's steps are recorded all the same
            write()

    def _said(self, status: Status) -> list[str]:
        record, folder = self.record, self._folder
        if status == "KILLED":
            done = f"interrupted after {record.steps} of {record.config.total_steps} steps"
            return [f"{done}; go on with: {folder.command}"]
        if status == "FAILED":
            return [f"failed: {record.reason}"]
        cost = f"{record.steps_executed} steps trained, {record.steps_shared} shared, {record.seconds:.0f} s"
        return [f"finished: {shown(record.metrics)}", cost, f"weights: {folder.weights}"]
