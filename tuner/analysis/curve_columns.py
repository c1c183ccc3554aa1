"""Recorded curves as numpy columns, read fast: millions of rows a second where `tuner.curves` reads them one by one.

For pictures and tables of many long runs. Values are those of the file, bit for bit; what `tuner.curves` finds out
beyond that (steps in order, half a last line of a writer at work) matters less here, and such lines are left out.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tuner.curves import HEADER
from tuner.names import METRIC_LOSS, METRIC_LR


@dataclass(frozen=True, slots=True)
class CurveColumns:
    """A curve as columns of equal length: `steps` (int64) as they stand in the file, `losses` and `lrs` (float64)."""

    steps: NDArray[np.int64]
    losses: NDArray[np.float64]
    lrs: NDArray[np.float64]


def read_columns(path: Path) -> CurveColumns:
    """Return the columns of a curve file; rows that are not whole are left out, a NaN loss stays NaN.

    Raises:
        ValueError: the file is no curve, or damaged beyond its last line.
        OSError: it cannot be read.
    """
    import pyarrow
    from pyarrow import csv

    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    wanted = {"step": pyarrow.int64(), METRIC_LOSS: pyarrow.float64(), METRIC_LR: pyarrow.float64()}
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(use_threads=False),
            parse_options=csv.ParseOptions(invalid_row_handler=lambda _: "skip"),
            convert_options=csv.ConvertOptions(column_types=wanted, include_columns=list(wanted)),
        )
    except (pyarrow.ArrowInvalid, pyarrow.ArrowKeyError) as error:
        raise ValueError(f"must be a curve ({','.join(HEADER)}), but {str(error).splitlines()[0]}") from None
    step, loss, lr = (table.column(name).to_numpy() for name in wanted)
    if table.column("step").null_count:
        raise ValueError("a row has no step")
    return CurveColumns(step, loss, lr)
