"""Recorded training curves as CSV: written while a run trains, read by replay, tracking and comparison.

A curve file has the header `step,loss,lr[,detector_response]` and one row per training step. Floats are written with
`repr`, so that a value read back is the value that was written, bit for bit.
"""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tuner.files import GrowingFile, LineReader
from tuner.names import METRIC_LOSS, METRIC_LR, METRIC_RESPONSE

HEADER = ("step", METRIC_LOSS, METRIC_LR, METRIC_RESPONSE)
_HEADER_LINE = ",".join(HEADER).encode()


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One training step: the LR it used, the loss it had, the detector's response after it (None: no detector)."""

    step: int
    loss: float
    lr: float
    response: float | None = None


class CurveWriter:
    """Write points to a new curve file, in order and each once; see `tuner.files.GrowingFile` for a full disk."""

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)
        self._file.write(",".join(HEADER) + "\n")

    def write(self, point: CurvePoint) -> None:
        """Append one point; it reaches the disk at the next `flush` or when the buffer is full."""
        response = "" if point.response is None else repr(point.response)
        self._file.write(f"{point.step},{point.loss!r},{point.lr!r},{response}\n")

    def flush(self) -> bool:
        """Hand everything written so far to the operating system; False where the disk is full, and the rest kept."""
        return self._file.flush()

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
    """Read a curve file as it grows: each `read_new` returns the points added since the last one."""

    def __init__(self, path: Path) -> None:
        self._lines = LineReader(path)
        self._step: int | None = None

    def read_new(self) -> list[CurvePoint]:
        """Return the new points; an unfinished last line (a writer at work, or killed) waits for the next call.

        Raises:
            ValueError: the file is damaged or no curve; the message says at which line.
            OSError: it cannot be read.
        """
        points: list[CurvePoint] = []
        for number, line in self._lines.read_new():
            if number == 1:
                self._step = None
                if line != _HEADER_LINE:
                    raise ValueError(
                        f"line 1 must be {_HEADER_LINE.decode()}, but is {line[:80].decode('ascii', 'replace')}"
                    )
                continue
            point = _point(line, number)
            if self._step is not None and point.step != self._step + 1:
                raise ValueError(f"line {number} must be step {self._step + 1}, but is step {point.step}")
            self._step = point.step
            points.append(point)
        return points


def read_curve(path: Path) -> list[CurvePoint]:
    """Read a whole curve file that `CurveWriter` wrote; ValueError and OSError as of `CurveReader.read_new`."""
    return CurveReader(path).read_new()


def parse_row(row: bytes) -> CurvePoint:
    """Return the point of one row of a curve file; ValueError where it is none."""
    step, loss, lr, response = row.decode("ascii").split(",")
    return CurvePoint(int(step), float(loss), float(lr), float(response) if response else None)


def _point(line: bytes, number: int) -> CurvePoint:
    try:
        return parse_row(line)
    except ValueError:
        raise ValueError(f"line {number} is damaged") from None
