"""Room on the disk: how much there is, how much must stay free, and what to do until there is some again."""

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from tuner.errors import NoRoomError
from tuner.files import is_full
from tuner.sizes import shown

FLOOR_BYTES: Final = 64 * 2**20
"""Room that is left alone, so that nothing is ever written in half; on a small file system a fiftieth of it."""
PATIENCE_SECONDS: Final = 12 * 3600.0
"""So long a full disk is waited for; then the sweep ends, to be resumed."""
LOOK_SECONDS: Final = 0.5
"""How often it is looked whether there is room again."""

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


def free_bytes(path: Path) -> int:
    """Return the bytes that may be written at `path`, or where it is going to be."""
    return _free_and_total(path)[0]


def floor_bytes(path: Path) -> int:
    """Return the bytes that must stay free on the file system of `path`."""
    return min(FLOOR_BYTES, _free_and_total(path)[1] // 50)


def shortage(path: Path, *, needed: int = 0) -> str | None:
    """Return in one line that `needed` bytes more do not fit at `path`; None where they do, and leave the floor."""
    free, total = _free_and_total(path)
    floor = min(FLOOR_BYTES, total // 50)
    if free - needed >= floor:
        return None
    return f"{shown(free)} are free in {path}, but {shown(needed + floor)} are needed"


def patiently(action: Callable[[], Result], path: Path) -> Result:
    """Do what writes at `path`; where the disk is full, wait for room and do it again. Ctrl-C ends the wait.

    The action must leave things as they were where it fails.

    Raises:
        NoRoomError: the disk stayed full.
    """
    wait = Wait(path)
    while True:
        try:
            result = action()
        except OSError as error:
            if not is_full(error):
                raise
            wait.goes_on(f"{path} cannot be written: {error.strerror}")
            time.sleep(LOOK_SECONDS)
        else:
            wait.is_over()
            return result


def wait_for_room(path: Path) -> None:
    """Return when there is room at `path`; Ctrl-C ends the wait.

    Raises:
        NoRoomError: the disk stayed full.
    """
    wait = Wait(path)
    while (problem := shortage(path)) is not None:
        wait.goes_on(problem)
        time.sleep(LOOK_SECONDS)
    wait.is_over()


class Wait:
    """A wait for room at `path`, told once in the log when it begins and once when it is over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._since: float | None = None

    def goes_on(self, problem: str) -> None:
        """Note that there is no room (still); NoRoomError where that has lasted too long."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            _log.warning("paused: %s; make room, and it goes on", problem)
        if now - self._since >= PATIENCE_SECONDS:
            raise NoRoomError(
                f"the disk must have room, but for {PATIENCE_SECONDS / 3600:g} h it had none: {problem}; "
                "make room, then resume"
            )

    def is_over(self) -> None:
        """Note that there is room."""
        if self._since is not None:
            _log.warning("there is room in %s again: going on", self._path)
            self._since = None


def _free_and_total(path: Path) -> tuple[int, int]:
    """Ask the file system of the nearest folder that exists."""
    for place in (path, *path.absolute().parents):
        try:
            found = os.statvfs(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
