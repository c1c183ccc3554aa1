"""Who may write a sweep's MLflow runs: one process at a time, since two would make them twice."""

import fcntl
import os
from typing import Final

from tuner.errors import UserError
from tuner.sweep.folder import SweepFolder

LOCK_FILE: Final = "mlflow.lock"


class RunsLock:
    """The right to write a sweep's runs, until `release` or the end of the process, however it ends.

    Raises:
        UserError: another process has it.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self._descriptor = os.open(folder.path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            raise UserError(
                f"one process at a time can write a sweep's MLflow runs, but another one is at {folder.path}; "
                "a sweep that runs sends them itself"
            ) from None

    def release(self) -> None:
        """Let another process in."""
        os.close(self._descriptor)
