"""Recorded training curves as CSV: written while a run trains, read by replay, tracking and comparison.

A curve file has the header `step,loss,lr[,detector_response]` and one row per training step. Floats are written with
`repr`, so that a value read back is the value that was written, bit for bit. Beside it lie the evaluations, a JSON
object a line: `{"steps": steps trained until then, METRIC: value, ...}`.
"""

import csv
import json
from dataclasses import dataclass
from io import SEEK_END, TextIOBase
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


class LineReader:
    """Read a text file as it grows: each `read_new` returns the whole lines added since the last one.

    A file that became shorter was started again, and is read from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def read_new(self) -> list[str]:
        """Return the new lines; an unfinished last line (a writer at work, or killed) waits for the next call."""
        with self._path.open("rb") as file:
            if file.seek(0, SEEK_END) < self._position:
                self._position = 0
            file.seek(self._position)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._position += len(whole)
        return whole.decode("ascii").splitlines()


class CurveReader:
    """Read a curve file as it grows: each `read_new` returns the points added since the last one."""

    def __init__(self, path: Path) -> None:
        self._lines = LineReader(path)

    def read_new(self) -> list[CurvePoint]:
        """Return the new points; ValueError for a file that is no curve."""
        return [_point(row) for row in csv.reader(self._lines.read_new()) if row != list(HEADER)]


class EvaluationReader:
    """Read a file of evaluations as it grows."""

    def __init__(self, path: Path) -> None:
        self._lines = LineReader(path)

    def read_new(self) -> list[tuple[int, dict[str, float]]]:
        """Return the new evaluations as (steps, metrics); ValueError for a file that holds something else."""
        return [_evaluation(line) for line in self._lines.read_new()]


def read_curve(path: Path) -> list[CurvePoint]:
    """Read a whole curve file that `CurveWriter` wrote."""
    return CurveReader(path).read_new()


def _point(row: list[str]) -> CurvePoint:
    step, loss, lr, response = row
    return CurvePoint(int(step), float(loss), float(lr), float(response) if response else None)


def _evaluation(line: str) -> tuple[int, dict[str, float]]:
    entry = json.loads(line)
    if not isinstance(entry, dict) or not all(isinstance(value, int | float) for value in entry.values()):
        raise ValueError(f"an evaluation must be an object of numbers, but is {line[:80]}")
    steps = int(entry.pop("steps", 0))
    return steps, {key: float(value) for key, value in entry.items()}
