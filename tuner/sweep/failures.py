"""What is told of a trial that failed: a reason in one line, with the way out where there is a known one."""

import traceback
from dataclasses import dataclass
from typing import Final

from tuner.errors import DivergedError, NoMemoryError, UserError

REASON_LENGTH: Final = 500
"""Characters of a reason; the traceback has the rest."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a trial failed; `known`: in a way that leaves its process fit for the next trial."""

    reason: str
    traceback: str
    known: bool


def failure(error: Exception) -> Failure:
    """Return what to tell of an exception that ended a trial."""
    text = " ".join(str(error).split())
    told = isinstance(error, DivergedError | UserError)
    if not told:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    # Memory that was full may be held by whatever is left of the trial.
    known = told and not isinstance(error, NoMemoryError)
    return Failure(text if told else _clip(text), "".join(traceback.format_exception(error)), known)


def _clip(text: str) -> str:
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"
