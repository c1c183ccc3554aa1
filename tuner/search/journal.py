"""The study's journal file: one JSON record a line, appended and synced; opened so that nothing is lost or made up.

A process that dies while it writes leaves an unfinished last line, which is cut off before the next record is appended
(Optuna would append to it and so damage the file). On a full disk an append takes back what it wrote, and waits. Each
record has a checksum, which Optuna's own tools ignore. Writers exclude each other by a lock of the operating system on
the file itself: it ends with its holder, where Optuna's lock file outlives a killed sweep and holds up the next for
30 s.
"""

import fcntl
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from optuna.storages import JournalStorage

from tuner.errors import UserError
from tuner.room import patiently

_CHECKSUM: Final = "crc32"

# What Optuna raises on records that are not its own: it takes their form for granted.
_MISREAD: Final = (ValueError, KeyError, TypeError, AttributeError, AssertionError, IndexError)


class Journal:
    """The file as Optuna's backend: each append is there whole and on the disk, or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts = [0]  # of the records read so far, and of the next one

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the records from this number on; a last line that was not written whole waits.

        Raises:
            ValueError: a record is damaged.
        """
        with self._path.open("rb") as file:
            file.seek(self._starts[log_number_from])
            for number, line in enumerate(file, start=log_number_from):
                try:
                    record = json.loads(line)
                except ValueError:
                    if file.read(1):
                        raise
                    return
                if not line.endswith(b"\n"):
                    return
                if not _sound(record):
                    raise ValueError("a record does not have its checksum")
                self._starts[number + 1 :] = [self._starts[number] + len(line)]
                yield record

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records; where the disk is full, wait for room.

        Raises:
            NoRoomError: the disk stayed full.
        """
        lines = [json.dumps({**log, _CHECKSUM: _checksum(log)}, separators=(",", ":")) for log in logs]
        data = "".join(f"{line}\n" for line in lines).encode()
        patiently(lambda: self._append(data), self._path)

    def _append(self, data: bytes) -> None:
        with exclusive(self._path) as descriptor:
            size = os.lseek(descriptor, 0, os.SEEK_END)
            try:
                left = data
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise


@contextmanager
def exclusive(path: Path) -> Iterator[int]:
    """Wait for other writers, mend the file's end, and hand the open file out; other writers wait for the block."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        length = _length_of_last_line(descriptor, os.fstat(descriptor).st_size)
        if length:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - length)
        yield descriptor
    finally:
        os.close(descriptor)


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
    """Cut off what a writer that died left at the end of a journal; return how many bytes that was.

    After a power cut the last line may have its end and not its beginning: nobody was told that it was written.
    """
    before = path.stat().st_size
    with exclusive(path) as descriptor:
        size = os.fstat(descriptor).st_size
        last = _length_of_last_line(descriptor, size - 1)
        try:
            json.loads(os.pread(descriptor, last + 1, size - 1 - last))
        except ValueError:
            os.ftruncate(descriptor, size - 1 - last)
    return before - path.stat().st_size


def _storage(path: Path) -> JournalStorage:
    # Optuna asks for its own base class but calls these two methods only.
    return JournalStorage(Journal(path))  # type: ignore[arg-type]


def _length_of_last_line(descriptor: int, end: int) -> int:
    """Return how many bytes before `end` follow the last line break before it."""
    position = end
    while position > 0:
        start = max(0, position - 4096)
        newline = os.pread(descriptor, position - start, start).rfind(b"\n")
        if newline >= 0:
            return end - (start + newline + 1)
        position = start
    return end


def _sound(record: Any) -> bool:
    """Take a record's checksum out and return whether it is right; records of Optuna's own tools have none."""
    return not isinstance(record, dict) or _CHECKSUM not in record or record.pop(_CHECKSUM) == _checksum(record)


def _checksum(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record).encode())


def _damage(path: Path) -> str:
    """Return what is wrong with a journal that Optuna could not read, as far as one line can say it."""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            return f"line {number} is damaged (no JSON); restore the file from a copy, or begin a new sweep"
        if not isinstance(record, dict) or not {"op_code", "worker_id"} <= record.keys():
            return f"line {number} is no record of an Optuna journal; is this another program's file?"
        if not _sound(record):
            return f"line {number} is damaged (wrong checksum); restore the file from a copy, or begin a new sweep"
    return "the records do not make a study; restore the file from a copy, or begin a new sweep"
