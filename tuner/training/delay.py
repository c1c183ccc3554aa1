"""Which LR factor a step uses when losses are read late: a pure function, shared by the loop and by replay.

With `delay` d, the loss of step t decides the factor of step t + 1 + d. At any time the factors of the next d + 1 steps
are known, and those steps may be launched without waiting for a loss. A schedule that does not read the loss is run d
steps ahead, so that each step uses exactly the factor it would have used without a delay.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.errors import UserError
from tuner.schedulers.registry import Schedule


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known once the losses of all steps before t are: `factors` are those of the steps t .. t + delay."""

    schedule_state: Any
    factors: tuple[float, ...]


def begin(schedule: Schedule, *, delay: int) -> Outlook:
    """Return the outlook before the first loss; a schedule that waits for losses repeats its first factor."""
    state, factor = schedule.start()
    outlook = Outlook(state, (factor,) * (1 + delay))
    if not schedule.reads_loss:
        for _ in range(delay):
            outlook = advance(schedule, outlook, 0.0)
    return outlook


def advance(schedule: Schedule, outlook: Outlook, loss: float) -> Outlook:
    """Return the outlook one step on, after the loss of the first step of this one."""
    state, factor = schedule.advance(outlook.schedule_state, loss)
    return Outlook(state, (*outlook.factors[1:], factor))


def dump(schedule: Schedule, outlook: Outlook) -> dict[str, Any]:
    """Return the outlook as JSON-able data, exactly."""
    return {"schedule": schedule.dump(outlook.schedule_state), "factors": list(outlook.factors)}


def load(schedule: Schedule, data: Mapping[str, Any], *, delay: int) -> Outlook:
    """Return the outlook that `dump` wrote.

    Raises:
        UserError: the data are damaged, or of another schedule or delay.
    """
    factors, state = data.get("factors"), data.get("schedule")
    if not isinstance(factors, list) or len(factors) != 1 + delay or not all(isinstance(f, float) for f in factors):
        raise UserError(f"a saved run must hold {1 + delay} LR factors, but got {factors!r}; it is damaged or foreign")
    if not isinstance(state, dict):
        raise UserError(f"a saved run must hold a scheduler's state, but got {state!r}; it is damaged or foreign")
    return Outlook(schedule.load(state), tuple(factors))
