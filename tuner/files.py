"""State files: whole or not there at all, or growing by whole lines; they say what they are when they are read.

A record is one JSON object with its format version, its kind and a checksum. A file that is damaged, of another kind
or of another version is an error that names it, never taken for a missing one.
"""

import errno
import fcntl
import json
import logging
import os
import secrets
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tuner.errors import UserError
from tuner.names import FORMAT_VERSION, STORAGE_FILE

LOCK_SECONDS: Final = 120.0
"""So long a new writer waits for the one before to end: that of a killed sweep lives on for some seconds, and that of a
machine that was lost holds its locks on NFS for as long as their lease, 90 s."""
_BLOCK: Final = 8192
_log = logging.getLogger(__name__)


def is_full(error: BaseException) -> bool:
    """Return whether an error says that a disk or a quota is full, so that the same may work later."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class GrowingFile:
    """A text file that one process writes line by line, from its start.

    1. What is written reaches the file in order and once. On a full disk it is kept, and a later `flush` goes on with
       the very next byte.
    2. The file ends in a whole line when it is closed. A reader meanwhile may find the last line unfinished.
    3. It is locked as long as its writer lives, so that two processes never write one file.

    Raises:
        UserError: another process writes it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        _lock(self._descriptor, path)
        os.ftruncate(self._descriptor, 0)
        self._kept = bytearray()
        self._size = self._whole = 0

    def write(self, text: str) -> None:
        """Add whole lines; they reach the file at the next `flush`, or when enough has come together."""
        self._kept += text.encode()
        if len(self._kept) >= _BLOCK:
            self.flush()

    def flush(self) -> bool:
        """Hand everything written so far to the operating system; False where the disk is full, and the rest kept."""
        try:
            while self._kept and self._descriptor is not None:
                written = os.write(self._descriptor, self._kept)
                newline = self._kept.rfind(b"\n", 0, written)
                if newline >= 0:
                    self._whole = self._size + newline + 1
                self._size += written
                del self._kept[:written]
        except OSError as error:
            if not is_full(error):
                raise
            return False
        return True

    def close(self) -> None:
        """Flush and close; what does not fit on the disk is cut off and told. Closing twice is harmless."""
        if self._descriptor is None:
            return
        try:
            if not self.flush():
                os.ftruncate(self._descriptor, self._whole)
                _log.warning("%s: the disk is full, and the last lines are missing", self._path)
        finally:
            os.close(self._descriptor)
            self._descriptor = None


class LineReader:
    """Read a file as it grows: each `read_new` returns the whole lines added since the last one.

    A file that was started again, in place or as a new one, is read from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._position = self._lines = 0

    def read_new(self) -> list[tuple[int, bytes]]:
        """Return the new lines with their numbers, from 1; an unfinished last line waits for the next call."""
        with self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._file or status.st_size < self._position:
                self._position = self._lines = 0
            self._file = status.st_ino
            file.seek(self._position)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        lines = list(enumerate(whole.splitlines(), start=self._lines + 1))
        self._position += len(whole)
        self._lines += len(lines)
        return lines


def write_whole(path: Path, data: bytes, *, new: bool = False) -> None:
    """Put a file in place once all of it is on the disk; one that is there is replaced, or with `new` kept.

    Raises:
        FileExistsError: with `new`, there is one already.
        OSError: the folder cannot be written, or the disk is full; the file is then as it was.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if new:
            os.link(draft, path)
        else:
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def ledger_file(journal: Path) -> Path:
    """Return what stands for the ledger in a sweep's folder: the journal, or what names the storage that it is in."""
    elsewhere = journal.with_name(STORAGE_FILE)
    return elsewhere if elsewhere.is_file() and not journal.is_file() else journal


def write_record(path: Path, content: Mapping[str, Any], *, kind: str) -> None:
    """Write JSON-like data as a record of this kind, whole or not at all; floats come back bit for bit."""
    body = {"format": FORMAT_VERSION, "kind": kind, **content}
    write_whole(path, json.dumps({**body, "checksum": _checksum(body)}, indent=1).encode() + b"\n")


def read_record(path: Path, *, kind: str) -> dict[str, Any]:
    """Return what `write_record` wrote.

    Raises:
        FileNotFoundError: there is none.
        UserError: the file cannot be read, is damaged, or of another kind or version.
    """
    try:
        body = json.loads(path.read_bytes())
        checksum = body.pop("checksum", None)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror}); check its rights") from None
    except (ValueError, AttributeError, TypeError):
        raise UserError(f"{path}: must hold a record ({kind}), but is damaged; restore it from a copy") from None
    if body.get("kind") != kind:
        raise UserError(f"{path}: must hold a record ({kind}), but is another program's file; move it away")
    if body.get("format") != FORMAT_VERSION:
        raise UserError(
            f"{path}: must have format {FORMAT_VERSION}, but has {body.get('format')!r}; "
            "use the version of fastface-tuner that wrote it"
        )
    if checksum != _checksum(body):
        raise UserError(f"{path}: must hold a record ({kind}), but is damaged; restore it from a copy")
    return {name: value for name, value in body.items() if name not in ("format", "kind")}


def _checksum(body: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def sync_folder(folder: Path) -> None:
    """Bring the names of new files to the disk too; not every file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    """Take the lock of an open file, which ends with this process."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise UserError(
                    f"{path}: one process at a time may write it, but another one does; end that one first"
                ) from None
            time.sleep(0.1)
        else:
            return
