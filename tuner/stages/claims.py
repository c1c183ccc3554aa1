"""Who trains what on a shelf, so that no step is trained twice; all by locks of the operating system.

    <shelf>/register.jsonl     a line for each stage: where it begins, with which LR, and what it will evaluate
    <shelf>/users.lock         locked by each trial as long as it uses the shelf, so that nobody removes it
    stages/<id>/evaluations/<step>.lock     locked by the trial that makes an evaluation which others may want too

Whoever wants to train looks into the register and enters a stage of its own under one lock. Whether an entered stage is
still being trained, the lock on its rows says, which ends with the process that holds it: no claim has to be renewed,
and none can be stale. Locks are flock, which NFSv4 carries to other machines; and a stage is found by its name in the
register, not in a listing of the folder, which a network file system may serve out of date.
"""

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

REGISTER_FILE: Final = "register.jsonl"
USERS_FILE: Final = "users.lock"

_STAGE_ID: Final = re.compile("[0-9a-f]{24}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A stage: its id, the stage that it branches off, its first step and that one's LR, and where it will evaluate."""

    stage: str
    parent: str | None
    first: int
    lr: float
    evaluates: tuple[int, ...]


class Register:
    """The stages of a shelf in the order in which they began."""

    def __init__(self, path: Path) -> None:
        self.entries: dict[str, Entry] = {}
        self._path = path
        self._position = 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one that enters stages; for moments only, since all others wait. OSError where that cannot be."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def read(self) -> list[Entry]:
        """Return the stages entered since the last time; an unfinished or damaged line is none."""
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._position:  # another one took its place
                    self._position = 0
                file.seek(self._position)
                data = file.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        found = [entry for entry in map(_parsed, whole.splitlines()) if entry is not None]
        self.entries |= {entry.stage: entry for entry in found}
        return found

    def add(self, entry: Entry) -> None:
        """Enter a stage, under the lock; OSError where it cannot be written."""
        # A newline in front ends what a killed process may have left unfinished.
        line = b"\n" + json.dumps(asdict(entry)).encode() + b"\n"
        with self._path.open("ab", buffering=0) as file:
            size = file.tell()
            if file.write(line) != len(line):
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self.entries[entry.stage] = entry


class Hold:
    """Keeps a shelf from being removed while a trial uses it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Hold the shelf until `let_go`; False where there is none. One that cannot be locked is not held."""
        while self._descriptor is None:
            try:
                descriptor = os.open(self._folder / USERS_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            except (FileNotFoundError, NotADirectoryError):
                return False
            except OSError:  # only to be read: nobody can remove it either
                return True
            self._descriptor = descriptor
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            if not _is_at(descriptor, self._folder / USERS_FILE):  # it was removed at this moment
                self.let_go()
        return True

    def let_go(self) -> None:
        """Let the shelf be removed; twice is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Keep all trials off a shelf while the block runs; yields False where one uses it."""
    try:
        descriptor = os.open(folder / USERS_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:  # a link that leads nowhere
        yield True
        return
    try:
        yield _try(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def evaluation_claim(path: Path) -> Iterator[bool]:
    """Be the one that makes an evaluation, whose claim is at `path`; yields False where another one does.

    Where nothing can be written, everyone may.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError:
        yield True
        return
    mine = False
    try:
        mine = _try(descriptor)
        yield mine
    finally:
        if mine:  # before it is unlocked; whoever waits looks for the evaluation first
            with suppress(OSError):
                path.unlink()
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system knows no locks
        return True
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _parsed(line: bytes) -> Entry | None:
    try:
        content: dict[str, Any] = json.loads(line)
        entry = Entry(**{**content, "lr": float(content["lr"]), "evaluates": tuple(map(int, content["evaluates"]))})
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    whole = isinstance(entry.first, int) and isinstance(entry.stage, str) and _STAGE_ID.fullmatch(entry.stage)
    return entry if whole else None
