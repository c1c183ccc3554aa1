"""Recorded curves as numpy columns, read fast: millions of rows a second where `tuner.curves` reads them one by one.

For pictures and tables of many long runs. Values are those of the file, bit for bit. Whether its steps are in order,
which `tuner.curves` finds out too, is not looked at.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import csv

from tuner.analysis.collected import Columns
from tuner.curves import HEADER


def read_columns(path: Path, names: Sequence[str]) -> Columns:
    """Return these columns of a curve file, up to its last whole row; see `tuner.analysis.collected.Columns`.

    Raises:
        ValueError: the file is no curve, or damaged.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read()
    whole = memoryview(data)[: data.rfind(b"\n") + 1]
    if not whole:  # its writer has just begun
        return no_columns(names)
    kinds = {name: pyarrow.int64() if name == HEADER[0] else pyarrow.float64() for name in names}
    try:
        table = csv.read_csv(
            pyarrow.BufferReader(whole),
            read_options=csv.ReadOptions(use_threads=False),
            convert_options=csv.ConvertOptions(column_types=kinds, include_columns=list(names)),
        )
    except (pyarrow.ArrowInvalid, pyarrow.ArrowKeyError) as error:
        raise ValueError(f"it must be a curve ({','.join(HEADER)}), but {str(error).splitlines()[0]}") from None
    if HEADER[0] in names and table.column(HEADER[0]).null_count:
        raise ValueError("a row has no step")
    return {name: table.column(name).to_numpy().astype(np.float64, copy=False) for name in names}


def no_columns(names: Sequence[str]) -> Columns:
    """Return the columns of a curve without a row."""
    return {name: np.empty(0) for name in names}
