"""States of schedulers as JSON-like data and back, bit for bit: JSON keeps every finite float exactly."""

import math
from collections.abc import Mapping
from typing import Any

from tuner.errors import UserError


def dump_state(name: str, fields: Mapping[str, type], values: tuple[Any, ...]) -> dict[str, Any]:
    """Return `values` by field, tagged with the scheduler's name."""
    return {"scheduler": name, **dict(zip(fields, values, strict=True))}


def load_state(name: str, fields: Mapping[str, type], dumped: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the values that `dump_state` was given.

    Raises `UserError` where the state belongs to another scheduler, lacks a field, has one too many, or one of them
    is not a number (or list of numbers) of its type.
    """
    if dumped.get("scheduler") != name:
        raise damaged(name, f"is of the scheduler {dumped.get('scheduler')!r}")
    odd = {"scheduler", *fields}.symmetric_difference(dumped)
    if odd:
        raise damaged(name, f"has missing or foreign fields: {', '.join(sorted(map(str, odd)))}")
    for field, kind in fields.items():
        if not _fits(dumped[field], kind):
            raise damaged(name, f"has {field} = {str(dumped[field])[:60]}, which is no {kind.__name__}")
    return tuple(dumped[field] for field in fields)


def damaged(name: str, problem: str) -> UserError:
    """Return the error for a state that cannot be used."""
    return UserError(f"a whole state of the scheduler `{name}` is needed, but this one {problem}; load another one")


def _fits(value: object, kind: type) -> bool:
    if kind is list:
        return isinstance(value, list) and all(_fits(item, float) for item in value)
    if isinstance(value, bool):
        return False
    if kind is int:
        return isinstance(value, int) and value >= 0
    return isinstance(value, int | float) and math.isfinite(value)
