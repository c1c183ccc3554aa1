"""Read a recorded loss curve from a CSV file with the columns `step`, `loss` and, if there is one, `lr`.

Further columns are left alone, so that the curve of a trial of this tool can be read as it is. A file that cannot be
meant is refused with the number of its first bad line: a curve with a hole would replay to a schedule that never was.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.analysis.loss_log import LossLog, lr_column, make_log
from tuner.errors import UserError
from tuner.names import METRIC_LOSS, METRIC_LR

STEP = "step"
LARGEST_LOSS = 1e100
"""Beyond it, sums over a window could overflow; no training has such a loss."""


def read_loss_csv(path: Path) -> LossLog:
    """Return the curve in the file at `path`.

    Raises:
        UserError: the file is missing, no text, empty or without a step or loss column; or a line has a text, NaN,
            infinity, too few or too many fields, or a step that does not rise. The message has the line's number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read(path, file)
    except UnicodeDecodeError:
        raise UserError(f"{path}: a CSV text is needed, but the file is binary or not UTF-8; name a CSV file") from None
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror}); check its name and rights") from None


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the header has what; `width` is the number of its fields."""

    step: int
    loss: int
    lr: int | None
    width: int


def _read(path: Path, lines: Iterator[str]) -> LossLog:
    rows = csv.reader(lines)
    columns: _Columns | None = None
    steps: list[int] = []
    losses: list[float] = []
    lrs: list[str] = []
    try:
        for row in rows:
            if not row:
                continue
            if columns is None:
                columns = _header(row)
                continue
            _check_width(row, columns)
            steps.append(_step(row[columns.step], steps))
            losses.append(_loss(row[columns.loss]))
            if columns.lr is not None:
                lrs.append(row[columns.lr])
                if len(lrs) == 1 or lrs[-1] != lrs[-2]:
                    _check_lr(lrs[-1], lrs)
    except (UserError, csv.Error) as error:
        raise UserError(f"{path}, line {max(1, rows.line_num)}: {error}") from None
    if columns is None:
        raise UserError(f"{path}, line 1: a header with the columns step and loss is needed, but the file is empty")
    if not steps:
        raise UserError(f"{path}, line {rows.line_num + 1}: at least one row of losses is needed, but there is none")
    recorded = lr_column(lrs) if lrs and lrs[0].strip() else None
    return make_log(str(path), steps=steps, losses=losses, lr=recorded)


def _header(row: Sequence[str]) -> _Columns:
    names = [name.strip().lower() for name in row]
    shown = ", ".join(names)[:80]
    for name in (STEP, METRIC_LOSS):
        if name not in names:
            raise UserError(f"a header with the column `{name}` is needed, but the columns are {shown!r}; rename one")
    for name in (STEP, METRIC_LOSS, METRIC_LR):
        if names.count(name) > 1:
            raise UserError(f"each column may stand once, but `{name}` stands {names.count(name)} times; rename one")
    lr = names.index(METRIC_LR) if METRIC_LR in names else None
    return _Columns(names.index(STEP), names.index(METRIC_LOSS), lr, len(names))


def _check_width(row: Sequence[str], columns: _Columns) -> None:
    if len(row) != columns.width:
        raise UserError(f"the header has {columns.width} fields, but this line has {len(row)}; mend or remove the line")


def _step(text: str, before: Sequence[int]) -> int:
    try:
        step = int(text)
    except ValueError:
        number = _number(STEP, text)  # "120.0", as pandas writes a column that once had a gap
        if number != int(number):
            raise UserError(f"`step` must be a whole number, but got {text.strip()!r}; count training steps") from None
        step = int(number)
    if step < 0:
        raise UserError(f"`step >= 0` must hold, but got {step}; count from the first training step")
    if before and step <= before[-1]:
        how = "is repeated" if step == before[-1] else "goes back"
        raise UserError(f"steps must rise from line to line, but {step} {how} after {before[-1]}; keep one run a file")
    return step


def _loss(text: str) -> float:
    loss = _number(METRIC_LOSS, text)
    if abs(loss) > LARGEST_LOSS:
        raise UserError(f"`loss` must be at most {LARGEST_LOSS:g}, but got {loss:g}; cut the log where it diverges")
    return loss


def _check_lr(text: str, seen: Sequence[str]) -> None:
    if seen[0].strip() == "" and text.strip() == "":
        return  # a column without any LR is no LR column
    if seen[0].strip() == "":
        raise UserError(f"`lr` must stand in all rows or in none, but here it is {text!r} and above it is empty")
    if _number(METRIC_LR, text) < 0:
        raise UserError(f"`lr >= 0` must hold, but got {text.strip()}; remove the column if it is no learning rate")


def _number(column: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        what = "it is empty" if not text.strip() else f"got {text[:40]!r}"
        raise UserError(f"`{column}` must be a number, but {what}; mend or remove the line") from None
    if not math.isfinite(number):
        raise UserError(f"`{column}` must be finite, but got {text.strip()}; cut the log before this line")
    return number
