"""What is told of a trial that failed: a reason in one line, with the way out where there is a known one."""

import traceback
from dataclasses import dataclass
from typing import Final

import torch

from tuner.config.run import RunConfig
from tuner.errors import DivergedError, UserError

REASON_LENGTH: Final = 500
"""Characters of a reason; the traceback has the rest."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a trial failed; `known`: in a way that leaves its process fit for the next trial."""

    reason: str
    traceback: str
    known: bool


def failure(error: Exception, config: RunConfig) -> Failure:
    """Return what to tell of an exception that ended the trial of this configuration."""
    known = isinstance(error, DivergedError | UserError)
    return Failure(_reason(error, config), "".join(traceback.format_exception(error)), known)


def _reason(error: Exception, config: RunConfig) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, DivergedError | UserError):
        return text
    if _out_of_memory(error):
        device = "GPU" if isinstance(error, torch.OutOfMemoryError) else "host"
        way_out = f"lower workload.optimizer.batch_size, which is {config.workload.optimizer.batch_size}"
        return _clip(f"a trial must fit into the {device}'s memory, but does not; {way_out} ({text})")
    return _clip(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _out_of_memory(error: Exception) -> bool:
    # On the host torch raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _clip(text: str) -> str:
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"
