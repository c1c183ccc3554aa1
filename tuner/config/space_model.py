"""The search-space file: one question about schedulers, and what a sweep may try to answer it.

    question: Which FastFace setting serves a run of this length best?
    objective: {metric: accuracy}
    steps: 600
    trials: 12
    sampler: tpe
    decision_grid: 50
    base_lr: {low: 0.02, high: 0.4, log: true}
    schedulers:
      - name: fastface
        parameters:
          decay_factor: {choices: [2, 4, 10]}
          max_decays: {low: 1, high: 8}
        fixed: {patience_fraction: 0.05}
        first:
          - {base_lr: 0.1, decay_factor: 2, max_decays: 4}

Trial 0 is always the reference setting of the first scheduler (for FastFace the published one, scaled to the run);
with several schedulers the first trials are each one's reference, in file order. `fixed` does not touch them, and a
reference value outside a searched range runs all the same: the range stays as it is written, and the sampler does not
learn from that trial, whose setting the space does not contain.

The settings under `first` come next, before the sampler draws: what earlier sweeps found good. Each is a whole point of
the space, with a value for all that is searched, the base LR too where that is; the sampler learns from it as from any.
One that is the same run as a reference, or as another one before it, is not run again.
"""

import math
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, PlainValidator, PrivateAttr, Tag, model_validator

from tuner.config.run import FaceConfig, WorkloadConfig
from tuner.config.strict import PositiveInt, Strict
from tuner.config.strict_yaml import did_you_mean
from tuner.names import METRIC_ACCURACY, METRIC_FINAL_LOSS, METRIC_TAR, Setting
from tuner.workload import Direction

SamplerName = Literal["tpe", "random", "grid", "cmaes", "gp"]

METRICS: Final[tuple[str, ...]] = (METRIC_ACCURACY, METRIC_TAR, METRIC_FINAL_LOSS)
"""What any face trial can be judged by, besides accuracy and TAR on the verification sets of its workload."""


def _number(value: object) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")  # noqa: TRY004 (pydantic collects ValueError)
    if not math.isfinite(value):
        raise ValueError("must be finite")
    return value


def _setting(value: object) -> Setting:
    if isinstance(value, list | dict):
        raise ValueError("must be a number or a word (a list of numbers is one: 100,200)")  # noqa: TRY004
    return value if isinstance(value, str) else _number(value)


# Whole numbers stay `int`, which a pydantic union of int and float would report by its members' names.
Number = Annotated[float | int, PlainValidator(_number)]
Scalar = Annotated[Setting, PlainValidator(_setting)]


class Domain(Strict):
    """The values that one parameter may take: a range `low`..`high`, both included, or a list of `choices`.

    `log` draws evenly in the logarithm, `step` restricts the range to low, low + step, ..., high. A parameter that
    counts something takes whole numbers and stays whole.
    """

    low: Number | None = None
    high: Number | None = None
    log: bool = False
    step: Number | None = None
    choices: tuple[Scalar, ...] | None = None

    @model_validator(mode="after")
    def _some_values_satisfy_it(self) -> "Domain":
        if self.choices is not None:
            _check_choices(self)
        else:
            _check_range(self)
        return self

    def ends(self) -> tuple[float | int, float | int]:
        """Return both ends of a range."""
        if self.low is None or self.high is None:
            raise ValueError("`choices` have no ends")
        return self.low, self.high

    def corners(self) -> tuple[Setting, ...]:
        """Return the values that decide whether all are allowed: both ends of a range, or every choice."""
        return self.ends() if self.choices is None else self.choices

    def held(self, value: Setting, *, whole: bool) -> Setting | None:
        """Return a value as the domain itself has it, on its `step` without rounding error; None where it has not.

        `whole`: the parameter counts something.
        """
        if self.choices is not None:
            return next((choice for choice in self.choices if choice == value), None)
        low, high = self.ends()
        if isinstance(value, str) or not low <= value <= high:
            return None
        step = self.step if self.step is not None else 1 if whole else None
        if step is None:
            return float(value)
        steps = (value - low) / step
        if not math.isclose(steps, round(steps), abs_tol=1e-9):
            return None
        found = low + round(steps) * step
        return int(found) if whole else float(found)

    def said(self) -> str:
        """Return the values in words, for messages: "0.1 to 0.5 in steps of 0.1", "2, 4 or 10"."""
        if self.choices is not None:
            return f"{', '.join(map(str, self.choices[:-1]))} or {self.choices[-1]}"
        low, high = self.ends()
        return f"{low} to {high}" + ("" if self.step is None else f" in steps of {self.step}")


def _check_choices(domain: Domain) -> None:
    choices = domain.choices or ()
    if {domain.low, domain.high, domain.step} != {None} or domain.log:
        raise ValueError("either `choices` or a range (`low`, `high`, `log`, `step`) may be given, not both")
    if len(choices) < 2:
        raise ValueError(
            f"at least two `choices` must be given, but got {list(choices)}; a single value belongs under `fixed`"
        )
    if len(set(choices)) < len(choices):
        raise ValueError(f"`choices` must differ from each other, but got {list(choices)}")


def _check_range(domain: Domain) -> None:
    low, high, step = domain.low, domain.high, domain.step
    if low is None or high is None:
        raise ValueError("both `low` and `high` must be given, or a list of `choices`")
    if low >= high:
        raise ValueError(
            f"`low < high` must hold, but got low={low}, high={high}; a single value belongs under `fixed`"
        )
    if domain.log and low <= 0:
        raise ValueError(f"`low > 0` must hold with `log: true`, but got low={low}")
    if step is None:
        return
    if domain.log:
        raise ValueError(f"`step` and `log: true` exclude each other, but got step={step}; leave one of them out")
    if step <= 0:
        raise ValueError(f"`step > 0` must hold, but got step={step}")
    steps = (high - low) / step
    if round(steps) < 1 or not math.isclose(steps, round(steps), rel_tol=1e-9):
        end = low + max(1, math.floor(steps)) * step
        raise ValueError(
            f"`high - low` must be a multiple of `step`, but got low={low}, high={high}, step={step}; try high={end}"
        )


class Objective(Strict):
    """The trial's value: a final metric of the workload, and which way is better (by default the metric's own way)."""

    metric: str = METRIC_ACCURACY
    direction: Direction | None = None

    @property
    def maximize(self) -> bool:
        """Whether more is better."""
        if self.direction is not None:
            return self.direction == "maximize"
        return self.metric != METRIC_FINAL_LOSS


class SchedulerSpace(Strict):
    """One scheduler: what is searched (`parameters`), and what stands at another value than its default (`fixed`).

    `first` are points of what is searched that are tried before the sampler draws.
    """

    name: str
    parameters: dict[str, Domain] = Field(default_factory=dict)
    fixed: dict[str, Scalar] = Field(default_factory=dict)
    first: tuple[dict[str, Scalar], ...] = ()


def _base_lr_kind(value: object) -> str:
    return "<range>" if isinstance(value, dict | Domain) else "<number>"


def _positive(value: float | int) -> float:
    if value <= 0:
        raise ValueError("`base_lr > 0` must hold")
    return float(value)


BaseLR = Annotated[
    Annotated[Number, AfterValidator(_positive), Tag("<number>")] | Annotated[Domain, Tag("<range>")],
    Discriminator(_base_lr_kind),
]


def _not_empty(schedulers: tuple[SchedulerSpace, ...]) -> tuple[SchedulerSpace, ...]:
    if not schedulers:
        raise ValueError("at least one scheduler must be listed, but got none; write `- name: fastface`")
    return schedulers


class SpaceFile(Strict):
    """A search space as it stands in its file.

    `steps`, `trials`, `sampler`, `cost_aware` and `decision_grid` are defaults of the command line. With a
    `decision_grid` of G the schedulers that watch the loss change the LR after multiples of T/G steps only, so that
    schedules which differ little are the same run; 0 is no grid. A `cost_aware` search weighs candidates by the steps
    that they still cost.

    `workload` overrides settings of the training run; `base_lr`, common to all schedulers, is fixed to a number or
    searched, in which case the references run at the workload's own.
    """

    question: Annotated[str, Field(min_length=1)]
    source: str = ""
    objective: Objective = Objective()
    steps: PositiveInt = 600
    trials: PositiveInt = 12
    sampler: SamplerName = "tpe"
    decision_grid: Annotated[int, Field(ge=0)] = 0
    cost_aware: bool = False
    workload: WorkloadConfig = FaceConfig()
    base_lr: BaseLR | None = None
    schedulers: Annotated[tuple[SchedulerSpace, ...], AfterValidator(_not_empty)]

    @model_validator(mode="after")
    def _the_workload_has_the_metric(self) -> Self:
        metric, known = self.objective.metric, self.workload.metrics
        if not known:  # the class of an own workload was not looked up yet
            return self
        if metric not in known:
            rule = f"must be a metric of the workload ({did_you_mean(metric, [*known])})"
            raise ValueError(f"objective.metric: {rule}, but got {metric!r}")
        better, direction = known[metric], self.objective.direction
        if direction not in (None, better):
            raise ValueError(f"objective: the direction of `{metric}` must be {better}, but got {direction}")
        return self

    _text: str = PrivateAttr("")
    _file: str = PrivateAttr("search space")

    @property
    def reference_base_lr(self) -> float:
        """The base LR where it is not searched, which is also that of the references."""
        return float(self.base_lr) if isinstance(self.base_lr, int | float) else self.workload.reference_lr

    @property
    def text(self) -> str:
        """The source text of the file, comments included; empty where the space was made in Python."""
        return self._text

    @property
    def file(self) -> str:
        """The file's name, for messages."""
        return self._file

    def named(self, *, text: str, file: str) -> Self:
        """Return the space with where it came from, which is no part of what it says."""
        copy = self.model_copy()
        copy._text, copy._file = text, file
        return copy
