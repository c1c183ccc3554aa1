"""The rows of a stage that is being trained, and the lock that says so to all other processes."""

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from tuner.stages.files import ROW_BYTES, pack_row
from tuner.stages.tree import Stage

_open: Final[set[int]] = set()


class Recorder:
    """Appends the steps of a running stage; the lock on its rows says to other processes that it runs.

    The lock ends with this process, however it ends, and never while it lives: a claim cannot be stale.
    """

    def __init__(self, stage: Stage, path: Path) -> None:
        self.stage = stage
        self._folder = path.parent
        # Unbuffered: what is recorded survives the death of this process.
        self._file = path.open("xb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        _open.add(self._file.fileno())
        stage.running = True

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
        """End the stage, and remove it where it has no step; closing twice is harmless."""
        if self._file.closed:
            return
        if not self.stage.losses:
            shutil.rmtree(self._folder, ignore_errors=True)
        self.stage.running = False
        _open.discard(self._file.fileno())
        self._file.close()


def _let_go() -> None:
    """In a process that was forked off the one that trains: let go of its locks, which end when that one ends."""
    for descriptor in _open:
        with suppress(OSError):
            os.close(descriptor)
    _open.clear()


os.register_at_fork(after_in_child=_let_go)
