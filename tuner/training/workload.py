"""The protocol of what is trained: the loop knows a run only through these five methods."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor


class Workload(Protocol):
    """Something with weights that learns from a loss, one step at a time.

    What sharing and resuming rest on: the same construction arguments and the same LRs give the same losses; the batch
    of a step depends on (seed, step) only; `evaluate` leaves the state alone; `load_state_dict(state_dict())` into a
    freshly built workload continues bit for bit.
    """

    def training_step(self, step: int, lr: float) -> Tensor:
        """Train on the batch of `step` (from 0) at learning rate `lr`; return the detached loss, shape ()."""
        ...

    def evaluate(self) -> Mapping[str, float]:
        """Return the metrics of the current weights by name, e.g. {"accuracy": 0.93}."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on: weights, momentum, grad scaler, RNG where used."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        ...

    def fingerprint(self) -> Mapping[str, Any]:
        """Return, as JSON-like data, all that decides the losses besides LR history: config, data content, seed."""
        ...
