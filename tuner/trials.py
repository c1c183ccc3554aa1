"""What is known of one trial of a sweep: the row that the ledger keeps and that comparison shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tuner.names import Setting

RecordState = Literal["RUNNING", "COMPLETE", "FAIL"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """A trial as the ledger has it.

    `params` are the searched parameters as Optuna knows them; `settings` all that the scheduler was given; `reference`
    says that it ran the scheduler's own default setting; `key` is equal for trials that are the same run, step by step,
    and `duplicate_of` names the one that this one repeats. `value` is None unless COMPLETE, `reason` None unless FAIL.
    `steps_executed` counts the training steps run for this trial, `steps_shared` those whose losses earlier trials had
    recorded, and `shared_with` by whom; they lie on a `shelf` of the stage store. Of those executed, `steps_repeated`
    were known and only trained again: on the way from a checkpoint to where the trial departs from known ground, or
    after it was interrupted. For a COMPLETE trial executed - repeated + shared are all its steps. Unless
    `deterministic` kernels trained it, the steps that it shared are common random numbers, not its own to the last bit.
    `seconds` is its wall time. It was `begun` and, unless RUNNING, `ended` at these times, in seconds since 1970.
    `run_id` is that of its MLflow run, once it is known; `mirrored` says that all of a finished trial has been sent
    there.
    """

    number: int
    state: RecordState
    value: float | None
    params: Mapping[str, Setting]
    scheduler: str
    settings: Mapping[str, Setting]
    base_lr: float
    reference: bool
    key: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    steps_executed: int = 0
    steps_repeated: int = 0
    steps_shared: int = 0
    shared_with: Mapping[str, int] = field(default_factory=dict)
    shelf: str | None = None
    deterministic: bool = True
    seconds: float = 0.0
    begun: float = field(default=0.0, compare=False)
    ended: float | None = field(default=None, compare=False)
    mirrored: bool = False
    run_id: str | None = None
    duplicate_of: int | None = None
    reason: str | None = None
