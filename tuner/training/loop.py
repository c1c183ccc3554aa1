"""Training as a generator over a complete state: one report per step; between two reports the run can be saved.

The loop knows a workload, a schedule and nothing else; whoever iterates it records, evaluates, saves, or stops.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tuner.errors import DivergedError, UserError
from tuner.schedulers.late_loss import LateLoss
from tuner.schedulers.registry import Schedule
from tuner.training import delay
from tuner.workload import Workload


@dataclass(frozen=True, slots=True)
class StepReport:
    """One training step, counted from 0: its loss, the LR it used, the detector's response to that loss (if any)."""

    step: int
    loss: float
    lr: float
    response: float | None


@dataclass(slots=True, kw_only=True)
class TrainingRun:
    """A training run and its whole state: to save it between any two reports is to lose nothing.

    `loss_delay` 1 reads the loss of a step after the next one was launched, so that a GPU never waits for the host; the
    loss of step t then decides the LR of step t + 2. With 0 it decides that of t + 1. See `tuner.training.delay`.

    State: `step`, the first step not reported yet; losses of steps launched since; the schedule's state and the LR
    factors it has decided; the workload's own.
    """

    workload: Workload
    schedule: Schedule
    base_lr: float
    total_steps: int
    loss_delay: int = 1
    step: int = field(default=0, init=False)
    _pending: deque["PendingLoss"] = field(default_factory=deque, init=False, repr=False)
    _outlook: delay.Outlook = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._outlook = delay.begin(self.schedule, delay=self.loss_delay)

    @property
    def steps_launched(self) -> int:
        """Number of steps that the workload's weights have seen; ahead of `step` by at most `loss_delay`."""
        return self.step + len(self._pending)

    @property
    def upcoming_lrs(self) -> tuple[float, ...]:
        """LRs of the steps from `step` on, as far as they are decided: `1 + loss_delay` of them."""
        return tuple(self.base_lr * factor for factor in self._outlook.factors)

    def launch(self) -> None:
        """Start the next step at its LR, without waiting for its loss."""
        lr = self.base_lr * self._outlook.factors[len(self._pending)]
        self._pending.append(PendingLoss(self.workload.training_step(self.steps_launched, lr)))

    def report(self) -> StepReport:
        """Read the oldest loss not read yet and let the schedule decide on it."""
        step, loss, lr = self.step, self._pending[0].read(), self.base_lr * self._outlook.factors[0]
        if not math.isfinite(loss):
            raise diverged(step, loss=loss, lr=lr)
        self._pending.popleft()
        self._outlook = delay.advance(self.schedule, self._outlook, loss)
        self.step += 1
        return StepReport(step, loss, lr, self.schedule.response(self._outlook.schedule_state))

    def state_dict(self) -> dict[str, Any]:
        """Return the state: "loop" is JSON-able, "workload" holds tensors. Waits for the losses still under way."""
        loop = {
            "settings": self._settings(),
            "step": self.step,
            "pending": [loss.read() for loss in self._pending],
            **delay.dump(self.schedule, self._outlook),
        }
        return {"loop": loop, "workload": self.workload.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned, into a run built with the same arguments.

        Raises:
            UserError: the state is damaged or of a run with other settings; this run is then as it was.
        """
        loop = state["loop"]
        for name, ours in self._settings().items():
            if loop["settings"].get(name) != ours:
                raise UserError(f"a saved run must have {name} {ours}, but got {loop['settings'].get(name)}")
        outlook = delay.load(self.schedule, loop, delay=self.loss_delay)
        pending = deque(PendingLoss(loss) for loss in loop["pending"])
        self.workload.load_state_dict(state["workload"])
        self.step, self._outlook, self._pending = loop["step"], outlook, pending

    def resume(self, *, step: int, outlook: delay.Outlook) -> None:
        """Go on before `step`, where the losses until then decided `outlook` and the workload has seen those steps."""
        self.step, self._outlook, self._pending = step, outlook, deque()

    def _settings(self) -> dict[str, Any]:
        return {
            "base_lr": self.base_lr,
            "total_steps": self.total_steps,
            "loss_delay": self.loss_delay,
            "scheduler": f"{self.schedule.name} {self.schedule.params}",
        }


def train(run: TrainingRun, *, stop: int | None = None) -> Iterator[StepReport]:
    """Train until `stop` steps are reported (None: all of the run), yielding each step's report once and in order.

    When it ends, no step beyond `stop` has been launched, unless an earlier, broken-off iteration did; where a run is
    stopped and taken up again changes nothing in it.

    Raises:
        DivergedError: a loss is NaN or infinite.
    """
    stop = run.total_steps if stop is None else stop
    if not 0 <= stop <= run.total_steps:
        raise ValueError(f"`0 <= stop <= total_steps` must hold, but got stop={stop}, total_steps={run.total_steps}")
    while run.step < stop:
        while run.steps_launched < min(stop, run.step + 1 + run.loss_delay):
            run.launch()
        yield run.report()


def diverged(step: int, *, loss: float, lr: float) -> DivergedError:
    """Return the error for a loss that is not finite."""
    return DivergedError(f"the loss must stay finite, but is {loss} at step {step}, LR {lr:g}; lower the base LR")


class PendingLoss:
    """A loss to be read later: at hand already, or on its way from a CUDA device, which then is not made to wait."""

    __slots__ = ("_loss",)

    def __init__(self, loss: Tensor | float) -> None:
        self._loss: Tensor | float | LateLoss = loss
        if isinstance(loss, Tensor) and loss.is_cuda:
            self._loss = LateLoss(loss)
            self._loss.send(loss)

    def read(self) -> float:
        """Return the loss."""
        return self._loss.read() if isinstance(self._loss, LateLoss) else float(self._loss)
