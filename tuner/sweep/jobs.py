"""What the executor asks of whoever decides what runs, and of the actor that runs it: free of Ray.

The actor finds the path of a file in its config as `STOP_FILE`; Tune gives no way to speak to one that is at work. Once
the file is there, the actor ends its trial at the next step, so that it can be taken up again, and reports `STOPPED` as
its last result. One that the disk had no room for reports `NO_ROOM`; it can be taken up again too. A trial that fails
reports `FAILED` with the reason; an actor that must not be used again does so in a result that is not the last, and
raises when it is asked for another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

STOP_FILE: Final = "stop"
HOME: Final = "home"
"""In the config of a trial that runs on another machine: the working folder, which that one sees too."""
ENVIRONMENT: Final = "environment"
"""Likewise: variables that stand before anything heavy is imported."""
STOPPED: Final = "stopped"
FAILED: Final = "failed"
NO_ROOM: Final = "no_room"


@dataclass(frozen=True, slots=True)
class Job:
    """One trial to run: its number in the ledger and the config for the actor."""

    number: int
    config: Mapping[str, Any]


class TrialSource(Protocol):
    """Decides what runs and hears what came out; called in the driver process, by one thread."""

    def next_trial(self) -> Job | None:
        """Return the next trial, or None when there is none to begin until one that runs has ended."""
        ...

    def moved(self, number: int, result: Mapping[str, Any]) -> None:
        """Hear a result of a running trial."""
        ...

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        """Hear a trial's last result, or how it failed; None where its process died without a word.

        In the latter case the trial may be the next one again.
        """
        ...
