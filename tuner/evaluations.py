"""Evaluations of a run, one JSON object a line: written while it trains, read when runs are compared.

Floats are written with `repr`, so that a value read back is the value that was written, bit for bit.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from tuner.errors import UserError

STEPS = "steps"
"""The number of steps after which the metrics of a line were measured."""


def evaluation_line(steps: int, metrics: Mapping[str, float]) -> str:
    """Return the line of one evaluation."""
    return json.dumps({STEPS: steps, **metrics}) + "\n"


def read_evaluations(path: Path) -> dict[int, dict[str, float]]:
    """Return the metrics by number of steps; an unfinished last line (a writer at work, or killed) is left out.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror}); restore it from a copy") from None
    found: dict[int, dict[str, float]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            metrics = {str(name): float(value) for name, value in json.loads(line).items()}
            found[int(metrics.pop(STEPS))] = metrics
        except (ValueError, AttributeError, TypeError, KeyError):
            raise UserError(f"{path}: line {number} is damaged; restore the file from a copy") from None
    return found
