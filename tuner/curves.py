"""Recorded training curves as CSV: written while a run trains, read by replay, tracking and comparison.

A curve file has the header `step,loss,lr[,detector_response]` and one row per training step. Floats are written with
`repr`, so that a value read back is the value that was written, bit for bit.
"""

from dataclasses import dataclass
from io import TextIOBase
from pathlib import Path
from types import TracebackType
from typing import Self

from tuner.names import METRIC_LOSS, METRIC_LR, METRIC_RESPONSE

HEADER = ("step", METRIC_LOSS, METRIC_LR, METRIC_RESPONSE)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One training step: the LR it used, the loss it had, the detector's response after it (None: no detector)."""

    step: int
    loss: float
    lr: float
    response: float | None = None


class CurveWriter:
    """Append points to a curve file; rows are flushed whole, so a reader never sees half a value as a whole one."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # a process that is being killed may still write to the one before
        self._file: TextIOBase = path.open("w", encoding="ascii", newline="")
        self._file.write(",".join(HEADER) + "\n")

    def write(self, point: CurvePoint) -> None:
        """Append one point; it reaches the disk at the next `flush` or when the buffer is full."""
        response = "" if point.response is None else repr(point.response)
        self._file.write(f"{point.step},{point.loss!r},{point.lr!r},{response}\n")

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close; closing twice is harmless."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CurveReader:
    """Read a curve file as it grows: each `read_new` returns the whole rows added since the last one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def read_new(self) -> list[CurvePoint]:
        """Return the new points; an unfinished last line (a writer at work, or killed) waits for the next call."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        rows = whole.decode("ascii").splitlines()
        if self._position == 0:
            rows = rows[1:]
        self._position += len(whole)
        return [parse_row(row) for row in rows]


def read_curve(path: Path) -> list[CurvePoint]:
    """Read a whole curve file that `CurveWriter` wrote."""
    return CurveReader(path).read_new()


def parse_row(row: str) -> CurvePoint:
    """Return the point of one row of a curve file; ValueError where it is none."""
    step, loss, lr, response = row.split(",")
    return CurvePoint(int(step), float(loss), float(lr), float(response) if response else None)
