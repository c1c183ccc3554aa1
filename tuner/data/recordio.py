"""MXNet's RecordIO, read without MXNet: records by key from a `.rec` file and the `.idx` file beside it.

A record is one part or several, each `u32 magic, u32 kind << 29 | length, data, zeros up to 4 bytes`, little endian. A
writer drops a magic number that lies on a 4-byte boundary of the payload and goes on in another part, so the magic is
put back between parts. A payload is a header `flag u32, label f32, id u64, id2 u64`, then `flag` float32 labels, which
take the place of the one in the header, then an encoded image.
"""

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tuner.errors import UserError

MAGIC: Final = 0xCED7230A

_MAGIC_BYTES: Final = MAGIC.to_bytes(4, "little")
_PART: Final = struct.Struct("<II")
_HEADER: Final = struct.Struct("<IfQQ")
_KIND_SHIFT: Final = 29
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_ROWS_AT_ONCE: Final = 2**16
"""Headers that are read together: some megabytes, however many records there are."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Record:
    """A record: its `flag`, its labels (float32, `flag` of them, or one where `flag` is 0) and its encoded image.

    The image may be empty.
    """

    flag: int
    labels: NDArray[np.float32]
    image: bytes


@dataclass(frozen=True, eq=False)
class Heads:
    """Of every record, in the order of the keys: its first label, its flag, and how many bytes its image has."""

    labels: NDArray[np.float32]
    flags: Rows
    sizes: Rows


class DamagedRecordError(UserError):
    """A record that is not whole; `reason` says which one and what is wrong, without file and way out."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class RecordFile:
    """The records of a `.rec` file, by key, through a memory map.

    Opening reads the `.idx` file only, whose lines may be in any order. A record is checked whenever it is read: it
    must start where the index says, be whole, and end before the next one starts, so damaged files cost no more time
    than sound ones and nothing is read outside of the record. Reading moves no file position: threads and forked
    processes may share one, and a pickled one opens its files anew.

    Args:
        path: the `.rec` file, which must not be shortened while it is open.
        index: the `.idx` file; None takes the one of the same name.

    Raises:
        UserError: a file is missing or unreadable, or the index is damaged, names a key twice, or names bytes that the
            `.rec` file has not.
    """

    def __init__(self, path: Path, *, index: Path | None = None) -> None:
        self.path = path
        self.index = path.with_suffix(".idx") if index is None else index
        entries = _read_index(self.index)
        try:
            self.num_bytes = path.stat().st_size
            self._data = np.memmap(path, dtype=np.uint8, mode="r") if self.num_bytes else np.empty(0, np.uint8)
        except OSError as error:
            raise UserError(
                f"the records of `{self.index}` must be in `{path}`, but {error.strerror}; put the `.rec` file there"
            ) from error
        entries = entries[np.argsort(entries[:, 0], kind="stable")]
        self.keys: Rows = np.ascontiguousarray(entries[:, 0])
        self._offsets: Rows = np.ascontiguousarray(entries[:, 1])
        self._check_keys()
        by_offset = np.argsort(self._offsets, kind="stable")
        self._ends = np.full(len(entries), self.num_bytes, dtype=np.int64)
        self._ends[by_offset[:-1]] = self._offsets[by_offset[1:]]

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.path, self.index)

    def row(self, key: int) -> int:
        """Return the place of `key` among the sorted keys; UserError where there is no such key."""
        row = int(np.searchsorted(self.keys, key))
        if row == len(self.keys) or self.keys[row] != key:
            raise UserError(
                f"`{self.index}` must name every record, but key {key} is missing; write the index again, or copy it"
                " again from where the set came from"
            )
        return row

    def read(self, row: int) -> Record:
        """Return the record at place `row` of the sorted keys; UserError where it is damaged."""
        parts = (self._data[start : start + length].tobytes() for start, length in self._parts(row))
        payload = _MAGIC_BYTES.join(parts)
        if len(payload) < _HEADER.size:
            raise self.damaged(row, f"has {len(payload)} bytes, but its header takes {_HEADER.size}")
        flag, label = _HEADER.unpack_from(payload)[:2]
        start = _HEADER.size + 4 * flag
        if start > len(payload):
            raise self.damaged(row, f"has {len(payload)} bytes, but names {flag} labels")
        labels = np.frombuffer(payload, "<f4", flag, _HEADER.size) if flag else np.array([label])
        return Record(flag, labels.astype(np.float32), payload[start:])

    def heads(self) -> Heads:
        """Return labels and sizes of all records, without their images; UserError where a record is damaged.

        Reads 40 bytes a record, so one page of the file each.
        """
        count = len(self)
        heads = Heads(np.empty(count, np.float32), np.empty(count, np.int64), np.empty(count, np.int64))
        for start in range(0, count, _ROWS_AT_ONCE):
            self._read_heads(np.arange(start, min(start + _ROWS_AT_ONCE, count)), heads)
        return heads

    def damaged(self, row: int, reason: str) -> DamagedRecordError:
        """Return the error that says what is wrong with the record at place `row`."""
        reason = f"key {self.keys[row]} at byte {self._offsets[row]} {reason}"
        return DamagedRecordError(
            f"every record of `{self.path}` must be whole, but that of {reason}; copy the `.rec` and the `.idx` file"
            " again",
            reason=reason,
        )

    def left_out(self) -> int:
        """Return how many bytes of the file belong to no record of the index; UserError where a record is damaged."""
        named = 0
        for row in range(len(self)):
            start, length = self._parts(row)[-1]
            named += start + _padded(length) - int(self._offsets[row])
        return self.num_bytes - named

    def _check_keys(self) -> None:
        twice = np.flatnonzero(self.keys[1:] == self.keys[:-1])
        if len(twice):
            raise UserError(
                f"every key of `{self.index}` must be there once, but key {self.keys[twice[0]]} is there at least"
                " twice; copy the file again"
            )
        outside = (self.keys < 0) | (self._offsets < 0) | (self._offsets % 4 != 0)
        outside |= self._offsets > self.num_bytes - _PART.size
        if outside.any():
            row = int(np.argmax(outside))
            raise self.damaged(row, f"cannot be there: keys are at least 0, records start at multiples of 4, and the"
                               f" file has {self.num_bytes} bytes")  # fmt: skip

    def _parts(self, row: int) -> list[tuple[int, int]]:
        """Return where the data of each part of a record starts, and how many bytes it has."""
        start, end = int(self._offsets[row]), int(self._ends[row])
        parts: list[tuple[int, int]] = []
        while True:
            if start + _PART.size > end:
                raise self.damaged(row, self._too_long(row))
            magic, word = _PART.unpack(self._data[start : start + _PART.size].tobytes())
            kind, length = word >> _KIND_SHIFT, word & (1 << _KIND_SHIFT) - 1
            if magic != MAGIC:
                raise self.damaged(row, f"has no magic number at byte {start}")
            if kind not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
                raise self.damaged(row, f"has a part of kind {kind} out of order at byte {start}")
            start += _PART.size
            if start + _padded(length) > end:
                raise self.damaged(row, self._too_long(row))
            parts.append((start, length))
            if kind in (_WHOLE, _LAST):
                return parts
            start += _padded(length)

    def _too_long(self, row: int) -> str:
        end = int(self._ends[row])
        if end == self.num_bytes:
            return f"is cut off: the file ends at byte {end}"
        others = self.keys[self._offsets == end]
        other = others[others != self.keys[row]][0]
        return f"overlaps that of key {other}, which starts at byte {end}"

    def _read_heads(self, rows: Rows, heads: Heads) -> None:
        words = self._data[: self.num_bytes // 4 * 4].view("<u4")
        at, end = self._offsets[rows] // 4, self._ends[rows]
        magic, word = words[at], words[at + 1].astype(np.int64)
        length = word & (1 << _KIND_SHIFT) - 1
        plain = (magic == MAGIC) & (word >> _KIND_SHIFT == _WHOLE) & (length >= _HEADER.size)
        plain &= 4 * at + _PART.size + _padded(length) <= end
        # The others are split or damaged: few, or the first of them raises.
        flag = words[np.where(plain, at + 2, 0)].astype(np.int64)
        plain &= _HEADER.size + 4 * flag <= length
        label = words[np.where(plain, np.where(flag > 0, at + 8, at + 3), 0)].view("<f4")
        heads.labels[rows], heads.flags[rows] = label, flag
        heads.sizes[rows] = length - _HEADER.size - 4 * flag
        for row in rows[~plain].tolist():
            record = self.read(row)
            heads.labels[row], heads.flags[row], heads.sizes[row] = record.labels[0], record.flag, len(record.image)


def read_property(path: Path) -> tuple[int, int, int]:
    """Return number of classes, height and width of the images from a `property` file; later lines do not count.

    Raises:
        UserError: the file cannot be read or does not start with a line `num_classes,height,width`.
    """
    try:
        with path.open("rb") as file:
            line = file.readline(100)
        numbers = [int(field) for field in line.decode("ascii").split(",")]
    except OSError as error:
        raise UserError(f"`{path}` must be readable, but {error.strerror}; change its permissions") from error
    except ValueError:
        numbers = []
    if len(numbers) != 3 or min(numbers) < 1:
        raise UserError(
            f"the first line of `{path}` must be `num_classes,height,width`, such as `85742,112,112`, but it is not;"
            " write it so, or remove the file"
        )
    return numbers[0], numbers[1], numbers[2]


def _read_index(path: Path) -> NDArray[np.int64]:
    """Return keys and offsets [n, 2] in the order of the lines."""
    reason = "it is empty"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of empty files, and of numbers that are no integers
            with path.open(encoding="ascii") as file:
                entries = np.loadtxt(file, dtype=np.int64, delimiter="\t", comments=None, ndmin=2)
        if entries.shape[1] == 2:
            return entries
        reason = f"it has {entries.shape[1]} columns"
    except OSError as error:
        raise UserError(
            f"the keys of a `.rec` file must be in the `.idx` file beside it, but for `{path}`: {error.strerror}; put"
            " it there"
        ) from error
    except (ValueError, OverflowError, Warning) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
    raise UserError(f"every line of `{path}` must be `key<TAB>byte offset`, but {reason}; copy the file again")


def _padded(length: Any) -> Any:
    return length + -length % 4


def _reopened(path: Path, index: Path) -> RecordFile:
    return RecordFile(path, index=index)
