"""Sizes in bytes, as people write and read them."""

import re

from tuner.errors import UserError

_UNITS = " kmgt"


def num_bytes(text: str) -> int:
    """Return the bytes that a size such as "20GiB", "500 MB" or "0" means; UserError where it is no such text."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt])(i?)b?\s*", text, re.IGNORECASE)
    if match is None and text.strip() != "0":
        raise UserError(f"a size must be a number and a unit, such as 20GiB or 500MB, but got {text!r}; write it so")
    if match is None:
        return 0
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _UNITS.index(prefix.lower()))


def shown(size: float) -> str:
    """Return a number of bytes in the largest unit that leaves at least one of it, such as "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
