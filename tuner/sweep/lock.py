"""One sweep or run per GPU, and one process for each: locks of the operating system, which end with their holder.

A lock is an `flock` on a file, and what the file says is who holds it. So a lock of a dead process is free, however it
died, and what it left in the file is overwritten. Programs that the holder started do not have the lock: Ray's
processes, which may outlive it, free a GPU that nobody drives any more.
"""

import fcntl
import json
import os
import re
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from tuner.errors import UserError
from tuner.names import FORMAT_VERSION, LOCK_FILE, RUN_LOCK_FILE
from tuner.sweep.devices import VISIBLE, Gpu

WAIT_FOR_IT: Final = "wait for it with --wait"
PROBE_SECONDS: Final = 1.0
"""A lock that is held so long is held in earnest; `is_running` of another process holds it for a moment."""
_POLL_SECONDS: Final = 0.5
_held: Final[set[int]] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds a lock: its number, machine and sweep (a folder), and since when (ISO 8601)."""

    pid: int
    host: str
    sweep: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since[:16].replace('T', ' ')}"


UNKNOWN: Final = Holder(pid=0, host="?", sweep="another sweep", since="?")
"""Stands for a holder that could not write who it is, as on a full disk."""


@contextmanager
def sweep_lock(
    folder: Path,
    *,
    wait: bool = False,
    tell: Callable[[str], None] | None = None,
    way_out: str = WAIT_FOR_IT,
) -> Iterator[None]:
    """Be the one process that runs the sweep in `folder`, which must exist, or writes its ledger and MLflow runs.

    Args:
        folder: the sweep's folder.
        wait: wait for the other process to end; Ctrl-C ends the wait.
        tell: hears what is waited for, a line each time.
        way_out: what the error says to do.

    Raises:
        UserError: another process runs it, and `wait` is False; or the folder cannot be written.
    """
    with _folder_lock(folder, LOCK_FILE, what="the sweep", wait=wait, tell=tell, way_out=way_out):
        yield


@contextmanager
def run_lock(folder: Path, *, wait: bool = False, tell: Callable[[str], None] | None = None) -> Iterator[None]:
    """Be the one process that trains the single run in `folder`; all else is as for `sweep_lock`."""
    with _folder_lock(folder, RUN_LOCK_FILE, what="the run in", wait=wait, tell=tell, way_out=WAIT_FOR_IT):
        yield


@contextmanager
def _folder_lock(
    folder: Path, file: str, *, what: str, wait: bool, tell: Callable[[str], None] | None, way_out: str
) -> Iterator[None]:
    path = folder / file

    def busy(holder: Holder) -> str:
        return f"one process at a time may run {what} {folder}, but another one does ({holder})"

    descriptor = _open(path)
    with _locked(descriptor, path, sweep=folder, busy=busy, wait=wait, tell=tell, way_out=way_out):
        yield


def is_running(folder: Path) -> Holder | None:
    """Return the living process that runs the sweep in `folder`; None where none does."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        deadline = time.monotonic() + PROBE_SECONDS
        while not _try(descriptor, fcntl.LOCK_SH):
            holder = _read(descriptor)
            if holder is not None:
                return holder
            if time.monotonic() >= deadline:
                return UNKNOWN
            time.sleep(0.02)  # it has the lock, but has not written yet who it is
        return None
    finally:
        os.close(descriptor)


@contextmanager
def device_lock(
    device: Gpu | None, *, sweep: Path, wait: bool = False, tell: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Be the one sweep or run of this user that uses `device` while the block runs; the CPU (None) is not locked.

    Meanwhile CUDA_VISIBLE_DEVICES names this device alone, so that what is locked is what is used. The lock's file is
    in a folder of the user's own in the system's folder for temporary files.

    Args:
        device: from `tuner.sweep.devices.first_visible`.
        sweep: the sweep's folder, which others are told.
        wait: wait for the other sweep to end; Ctrl-C ends the wait.
        tell: hears what is waited for, a line each time.

    Raises:
        UserError: another sweep uses it, and `wait` is False; or the folder of locks is not to be trusted.
    """
    if device is None:
        yield
        return
    folder = locks_folder()
    path = folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', device.id)}.lock"

    def busy(holder: Holder) -> str:
        return f"one sweep or run at a time may use the GPU {device}, but {holder.sweep} does ({holder})"

    way_out = f"wait for it with --wait, or name another GPU in {VISIBLE}"
    descriptor = _open(path)
    with _locked(descriptor, path, sweep=sweep, busy=busy, wait=wait, tell=tell, way_out=way_out):
        before = os.environ.get(VISIBLE)
        os.environ[VISIBLE] = device.id
        try:
            yield
        finally:
            if before is None:
                del os.environ[VISIBLE]
            else:
                os.environ[VISIBLE] = before


@contextmanager
def device_locks(
    devices: Sequence[Gpu], *, sweep: Path, wait: bool = False, tell: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Be the one sweep that uses each of several devices; all else is as for `device_lock`."""
    with ExitStack() as locks:
        for device in sorted(devices, key=lambda each: each.id):  # two that wait never wait for each other
            locks.enter_context(device_lock(device, sweep=sweep, wait=wait, tell=tell))
        if devices:
            os.environ[VISIBLE] = ",".join(device.id for device in devices)
        yield


def locks_folder() -> Path:
    """Return the folder of this user's device locks; it is made where missing.

    Raises:
        UserError: what is there is not a folder that only this user can write to.
    """
    folder = Path(tempfile.gettempdir()) / f"fastface-tuner-locks-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise UserError(
            f"{folder} must be a folder that only you can write to, since GPUs are locked there, but it is not; "
            "remove it, or set TMPDIR to a folder of your own"
        )
    return folder


@contextmanager
def _locked(
    descriptor: int,
    path: Path,
    *,
    sweep: Path,
    busy: Callable[[Holder], str],
    wait: bool,
    tell: Callable[[str], None] | None,
    way_out: str,
) -> Iterator[None]:
    """Hold the lock on an open file, and say in it who does; the file is closed in the end."""
    _held.add(descriptor)
    locked = False
    try:
        patience, told = time.monotonic() + PROBE_SECONDS, None
        while not _try(descriptor, fcntl.LOCK_EX, path):
            if time.monotonic() >= patience:
                holder = _read(descriptor) or UNKNOWN
                if not wait:
                    raise UserError(f"{busy(holder)}; {way_out}")
                if holder != told and tell is not None:
                    tell(f"{busy(holder)}; waiting for it, Ctrl-C ends the wait")
                told = holder
                time.sleep(_POLL_SECONDS)
            time.sleep(0.02)
        locked = True
        with suppress(OSError):  # on a full disk the lock holds all the same, without a name
            _write(descriptor, sweep)
        yield
    finally:
        if descriptor in _held:  # not in a process that was forked off this one
            if locked:
                os.ftruncate(descriptor, 0)
            _held.remove(descriptor)
            os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"{path}: the lock cannot be made ({error.strerror}); check the folder's rights") from None


def _try(descriptor: int, kind: int, path: Path | None = None) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(f"{path}: the file system cannot lock it ({error.strerror}); use another folder") from None
    return True


def _write(descriptor: int, sweep: Path) -> None:
    holder = Holder(
        pid=os.getpid(),
        host=socket.gethostname(),
        sweep=str(sweep),
        since=datetime.now().astimezone().isoformat(timespec="seconds"),
    )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"format": FORMAT_VERSION, **asdict(holder)}).encode(), 0)


def _read(descriptor: int) -> Holder | None:
    """Return who holds a lock that is held; None where that is not (yet) written."""
    try:
        content = json.loads(os.pread(descriptor, 1 << 16, 0))
        return Holder(**{name: content[name] for name in Holder.__dataclass_fields__})
    except (ValueError, TypeError, KeyError):
        return None


def _let_go() -> None:
    """In a process that was forked off the holder: let go of its locks, which end when the holder ends."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
