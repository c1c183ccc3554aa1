"""Evaluations of a run, one JSON object a line: written while it trains, read when runs are compared.

The first line names the format. Floats are written with `repr`, so that a value read back is the value that was
written, bit for bit.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tuner.errors import UserError
from tuner.files import GrowingFile, LineReader
from tuner.names import FORMAT_VERSION

STEPS: Final = "steps"
"""The number of steps after which the metrics of a line were measured."""
_HEADER_LINE: Final = json.dumps({"format": FORMAT_VERSION, "kind": "evaluations"})


class EvaluationWriter:
    """Write evaluations to a new file, in order and each once; see `tuner.files.GrowingFile` for a full disk."""

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)
        self._file.write(_HEADER_LINE + "\n")

    def write(self, steps: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of the state after `steps` steps."""
        self._file.write(json.dumps({STEPS: steps, **metrics}) + "\n")

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


class EvaluationReader:
    """Read a file of evaluations as it grows: each `read_new` returns those added since the last one."""

    def __init__(self, path: Path) -> None:
        self._lines = LineReader(path)

    def read_new(self) -> list[tuple[int, dict[str, float]]]:
        """Return the new evaluations as (steps, metrics); an unfinished last line waits for the next call.

        Raises:
            ValueError: the file is damaged or of another kind; the message says at which line.
            OSError: it cannot be read.
        """
        return [_evaluation(line, number) for number, line in self._lines.read_new() if not _is_header(line, number)]


def read_evaluations(path: Path) -> dict[int, dict[str, float]]:
    """Return the metrics by number of steps; an unfinished last line (a writer at work, or killed) is left out.

    Raises:
        UserError: there is no such file, or it is damaged or of another kind.
    """
    try:
        return dict(EvaluationReader(path).read_new())
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror}); restore it from a copy") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}; restore the file from a copy") from None


def _is_header(line: bytes, number: int) -> bool:
    if number == 1 and line != _HEADER_LINE.encode():
        raise ValueError(f"line 1 must be {_HEADER_LINE}; this is another program's file, or another version's")
    return number == 1


def _evaluation(line: bytes, number: int) -> tuple[int, dict[str, float]]:
    try:
        metrics = {str(name): float(value) for name, value in json.loads(line).items()}
        return int(metrics.pop(STEPS)), metrics
    except (ValueError, AttributeError, TypeError, KeyError):
        raise ValueError(f"line {number} is damaged") from None
