"""The study's journal file: one JSON record a line, appended and synced; opened so that nothing is lost or made up.

A process that dies while it writes leaves an unfinished last line, which is cut off before the next record is appended
(Optuna would append to it and so damage the file). Writers exclude each other by a lock of the operating system on the
file itself: it ends with its holder, where Optuna's lock file outlives a killed sweep and holds up the next for 30 s.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Final

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from tuner.errors import UserError

# What Optuna raises on records that are not its own: it takes their form for granted.
_MISREAD: Final = (ValueError, KeyError, TypeError, AttributeError, AssertionError, IndexError)


class AppendLock:
    """Exclusive access for one append; taking it cuts an unfinished last line off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Wait for other writers, then mend the file's end."""
        self.release()  # an interrupt may have left one behind, and would lock this process out
        self._descriptor = os.open(self._path, os.O_RDWR)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        length = _unfinished(self._descriptor)
        if length:
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - length)
        return True

    def release(self) -> None:
        """Let the next writer in."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_journal(path: Path) -> JournalStorage:
    """Open an existing journal for reading and appending; nothing is written before the first append.

    Raises:
        UserError: no such file, or a file that is damaged or no journal.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; a sweep keeps its trials there, so this folder holds no sweep")
    try:
        return _storage(path)
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror}); check its rights") from error
    except _MISREAD as error:
        raise UserError(f"{path}: {_damage(path)}") from error


def create_journal(path: Path) -> JournalStorage:
    """Open a new, empty journal.

    Raises:
        UserError: the file exists, or its folder cannot be written.
    """
    try:
        with path.open("xb"):
            pass
    except FileExistsError as error:
        raise UserError(f"{path}: a sweep exists there; choose another name") from error
    except OSError as error:
        raise UserError(f"{path}: the file cannot be created ({error.strerror}); choose another folder") from error
    return _storage(path)


def cut_unfinished_line(path: Path) -> int:
    """Cut off what a writer that died left at the end of a journal; return how many bytes that was."""
    before = path.stat().st_size
    lock = AppendLock(path)
    lock.acquire()
    lock.release()
    return before - path.stat().st_size


def _storage(path: Path) -> JournalStorage:
    # Optuna asks for its own base class but calls these two methods only.
    lock: JournalFileOpenLock = AppendLock(path)  # type: ignore[assignment]
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _unfinished(descriptor: int) -> int:
    end = position = os.fstat(descriptor).st_size
    while position > 0:
        start = max(0, position - 4096)
        newline = os.pread(descriptor, position - start, start).rfind(b"\n")
        if newline >= 0:
            return end - (start + newline + 1)
        position = start
    return end


def _damage(path: Path) -> str:
    """Return what is wrong with a journal that Optuna could not read, as far as one line can say it."""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            return f"line {number} is damaged (no JSON); restore the file from a copy, or begin a new sweep"
        if not isinstance(record, dict) or not {"op_code", "worker_id"} <= record.keys():
            return f"line {number} is no record of an Optuna journal; is this another program's file?"
    return "the records do not make a study; restore the file from a copy, or begin a new sweep"
