"""What the executor asks of whoever decides what runs: free of Ray, so that it imports at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Job:
    """One trial to run: its number in the ledger and the config for the actor."""

    number: int
    config: Mapping[str, Any]


class TrialSource(Protocol):
    """Decides what runs and hears what came out; called in the driver process, one trial at a time."""

    def next_trial(self) -> Job | None:
        """Return the next trial, or None when the sweep is done."""
        ...

    def moved(self, number: int, result: Mapping[str, Any]) -> None:
        """Hear a result of the running trial."""
        ...

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        """Hear a trial's last result; None where its process died without one."""
        ...
