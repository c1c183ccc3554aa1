"""What a trial on a shelf says while it runs, besides the reports of its steps."""

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.training.loop import StepReport


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The metrics of the state after `steps` steps."""

    steps: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Repetition:
    """A step that is known was trained again, on the way from a checkpoint to where known ground ends."""

    step: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Another trial, of this label, trains `step` or evaluates before it: this one waits for what it finds."""

    step: int
    label: str


Event = StepReport | Evaluation | Repetition | Waiting
