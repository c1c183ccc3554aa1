"""The files of a stage, each damage of which is noticed when it is read; standard library only.

    stages/<id>/stage.json            what the stage is, with a checksum
    stages/<id>/steps.bin             one row of 24 bytes a step: step u32, LR f64, loss f64, crc32 u32, little endian
    stages/<id>/evaluations/<step>.json       metrics of the state before `step`, with a checksum
    stages/<id>/checkpoints/<step>-<bytes>-<crc32>.pt     that state itself

Rows are appended by the one process that runs the stage, which holds a lock on them as long as it lives. All other
files appear whole or not at all. The checksum of a row covers the stage's id: a block of another file is no valid row.
"""

import fcntl
import json
import os
import re
import struct
import time
import zlib
from array import array
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, Final

FORMAT: Final = 1
"""Version of these files; part of the key of a fingerprint, so that versions never meet."""

HEADER_FILE: Final = "stage.json"
STEPS_FILE: Final = "steps.bin"
EVALUATIONS_FOLDER: Final = "evaluations"
CHECKPOINTS_FOLDER: Final = "checkpoints"
DISTRUSTED_FILE: Final = "distrusted"

_CHECKPOINT_NAME: Final = re.compile(r"(\d+)-(\d+)-([0-9a-f]{8})\.pt")
_ROW: Final = struct.Struct("<Idd")
_CHECKSUM: Final = struct.Struct("<I")
ROW_BYTES: Final = _ROW.size + _CHECKSUM.size


class DamagedError(Exception):
    """A file does not hold what was written into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a stage is: `first` step, `parent` it branches off (None: the start of training), who ran it and when."""

    id: str
    parent: str | None
    first: int
    label: str
    created: float


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows read from a steps file: `num_bytes` of it are good; `damage` says what follows them, None for nothing."""

    lrs: "array[float]"
    losses: "array[float]"
    num_bytes: int
    damage: str | None


def pack_row(stage_id: str, *, step: int, lr: float, loss: float) -> bytes:
    """Return the row of one step."""
    row = _ROW.pack(step, lr, loss)
    return row + _CHECKSUM.pack(zlib.crc32(row, _seed(stage_id)))


def read_rows(path: Path, stage_id: str, *, first: int, offset: int = 0) -> Rows:
    """Return the good rows from byte `offset` on, where the row of step `first` must begin."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    lrs, losses, seed = array("d"), array("d"), _seed(stage_id)
    damage = None
    for step, start in enumerate(range(0, len(data) - ROW_BYTES + 1, ROW_BYTES), start=first):
        row = data[start : start + _ROW.size]
        (checksum,) = _CHECKSUM.unpack_from(data, start + _ROW.size)
        found, lr, loss = _ROW.unpack(row)
        if checksum != zlib.crc32(row, seed) or found != step:
            damage = f"the row of step {step} is damaged"
            break
        lrs.append(lr)
        losses.append(loss)
    if damage is None and len(data) % ROW_BYTES:
        damage = f"the row of step {first + len(losses)} is unfinished"
    return Rows(lrs, losses, offset + len(losses) * ROW_BYTES, damage)


def write_header(folder: Path, header: Header, *, scratch: Path) -> None:
    """Write the header of a stage; only then do others see the stage."""
    write_checked(folder / HEADER_FILE, {"format": FORMAT, **asdict(header)}, scratch=scratch)


def read_header(folder: Path) -> Header:
    """Return the header of a stage.

    Raises:
        DamagedError: it is damaged, or of another stage.
        OSError: there is none.
    """
    content = read_checked(folder / HEADER_FILE, {"format": FORMAT, "id": folder.name})
    del content["format"]
    try:
        return Header(**content)
    except TypeError as error:
        raise DamagedError(f"{folder / HEADER_FILE} is of another format") from error


def write_checked(path: Path, content: Mapping[str, Any], *, scratch: Path) -> None:
    """Write JSON with a checksum, whole or not at all; floats come back bit for bit."""
    text = json.dumps({**content, "checksum": _digest(content)}, sort_keys=True).encode()
    put(lambda file: file.write(text), lambda _: path, scratch=scratch)


def read_checked(path: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `write_checked` wrote, in which `expected` must be found.

    Raises:
        DamagedError: the file is damaged, or of something else.
        OSError: it is not there.
    """
    try:
        content = json.loads(path.read_bytes())
        checksum = content.pop("checksum")
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged") from error
    if checksum != _digest(content):
        raise DamagedError(f"{path} is damaged")
    for name, value in expected.items():
        if content.get(name) != value:
            raise DamagedError(f"{path} must have {name} {value!r}, but has {content.get(name)!r}")
    return dict(content)


def put(
    write: Callable[["Counted"], object], place: Callable[["Counted"], Path | None], *, scratch: Path
) -> Path | None:
    """Let `write` fill a new file, and put it where `place` says once it is on the disk: whole or not at all.

    `place` may return None to give the file up. The file is locked while it is written, so that `sweep_scratch` in
    another process leaves it alone.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=scratch, delete=False) as file:
        temporary = Path(file.name)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            counted = Counted(file)
            try:
                write(counted)
            except (OSError, RuntimeError) as error:  # torch's writer turns the one into the other.
                raise counted.error or error from None
            file.flush()
            os.fsync(file.fileno())
            target = place(counted)
            if target is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return target


class Counted:
    """A file that takes count and checksum of what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.num_bytes = 0
        self.checksum = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write some more; where that fails, keep the `error`."""
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.checksum = zlib.crc32(data, self.checksum)
        self.num_bytes += written
        return written

    def flush(self) -> None:
        """Do nothing yet: `put` flushes the whole file."""


def checksum(file: IO[bytes]) -> int:
    """Return the crc32 of the rest of a file."""
    total = 0
    while block := file.read(1 << 20):
        total = zlib.crc32(block, total)
    return total


def sweep_scratch(scratch: Path) -> None:
    """Remove what killed processes left half written."""
    for path in scratch.glob("*"):
        # Another process may be faster, or the store be read-only; and a file of this moment may not be locked yet.
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - 10 and not is_locked(path):
                path.unlink()


def is_locked(path: Path) -> bool:
    """Return whether a living process holds the lock on a file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, IsADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False


def parse_checkpoint_name(name: str) -> tuple[int, int, str] | None:
    """Return step, bytes and checksum from a checkpoint's file name; None where it is none."""
    match = _CHECKPOINT_NAME.fullmatch(name)
    return None if match is None else (int(match[1]), int(match[2]), match[3])


def remove_file(path: Path) -> None:
    """Remove a file; where that cannot be, as in a read-only store, it is merely not used."""
    with suppress(OSError):
        path.unlink()


def _seed(stage_id: str) -> int:
    return zlib.crc32(stage_id.encode())


def _digest(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
