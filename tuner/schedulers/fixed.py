"""Schedules that do not read the loss: constant, multi-step, cosine and polynomial, each with an optional warm-up.

With T total steps, w warm-up steps and the progress p = (t - w) / (T - w) of step t after the warm-up:

    constant     1
    multi_step   gamma ** (number of milestones <= t)
    cosine       f + (1 - f) (1 + cos(pi p)) / 2
    polynomial   f + (1 - f) (1 - p) ** power

where f is `final_factor`, the LR factor that step T would have. They are torch's MultiStepLR, CosineAnnealingLR and
PolynomialLR in closed form. Milestones count from step 0 of the run, warm-up or not.

The milestones are one setting in four forms: `milestones` in steps and `milestones_fraction`, numbers joined by commas
as people write them down ("0.4,0.6,0.75,0.9"); `first_milestone` and `first_milestone_fraction`, single numbers as a
search wants them, put `num_milestones` milestones evenly between the first one and the end of the run:
first + i (T - first) / num_milestones, i = 0, 1, ... The default is InsightFace's for 20 epochs of a large set: the LR
falls by 10 after 8, 12, 15 and 18 epochs.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from tuner.errors import UserError
from tuner.schedulers.rule import ramp, warmup_specs
from tuner.schedulers.settings import Setting, SettingSpec, resolve_steps, whole_steps

_FINAL_FACTOR = SettingSpec(
    name="final_factor",
    kind="float",
    doc="LR factor at the end of the run",
    group="final_factor",
    low=0.0,
    high=1.0,
    default=0.0,
)
CONSTANT_SPECS = warmup_specs()
MULTI_STEP_SPECS = (
    SettingSpec(
        name="milestones",
        kind="int_list",
        doc="steps at which the LR falls, joined by commas",
        group="milestones",
        unit="steps",
        low=0,
    ),
    SettingSpec(
        name="milestones_fraction",
        kind="float_list",
        doc="the same as fractions of the run",
        group="milestones",
        unit="fraction",
        low=0.0,
        high=1.0,
        default="0.4,0.6,0.75,0.9",
    ),
    SettingSpec(
        name="first_milestone",
        kind="int",
        doc="step of the first of num_milestones milestones that divide the rest of the run evenly",
        group="milestones",
        unit="steps",
        low=0,
    ),
    SettingSpec(
        name="first_milestone_fraction",
        kind="float",
        doc="the same as a fraction of the run",
        group="milestones",
        unit="fraction",
        low=0.0,
        high=1.0,
    ),
    SettingSpec(
        name="num_milestones",
        kind="int",
        doc="number of milestones from first_milestone on; 3 where it is not set",
        group="num_milestones",
        low=1,
    ),
    SettingSpec(
        name="gamma",
        kind="float",
        doc="what the LR is multiplied by at each milestone",
        group="gamma",
        low=0.0,
        low_open=True,
        high=1.0,
        default=0.1,
    ),
    *warmup_specs(),
)
COSINE_SPECS = (_FINAL_FACTOR, *warmup_specs())
POLYNOMIAL_SPECS = (
    SettingSpec(
        name="power",
        kind="float",
        doc="exponent; 1 is a straight line",
        group="power",
        low=0.0,
        low_open=True,
        default=2.0,
    ),
    _FINAL_FACTOR,
    *warmup_specs(),
)

StepState = tuple[int]
"""The step that comes next: all that a schedule without feedback needs."""

FIELDS: Mapping[str, type] = {"step": int}


@dataclass(frozen=True, slots=True)
class ConstantParams:
    """The base LR after `warmup` steps."""

    warmup: int

    def factor(self, step: int) -> float:
        """Return the LR factor of `step`."""
        return ramp(step, self.warmup)


@dataclass(frozen=True, slots=True)
class MultiStepParams:
    """The LR times `gamma` at each of the `milestones`, ascending, in steps."""

    milestones: tuple[int, ...]
    gamma: float
    warmup: int

    def factor(self, step: int) -> float:
        """Return the LR factor of `step`."""
        fallen: float = self.gamma ** bisect_right(self.milestones, step)
        return fallen * ramp(step, self.warmup)


@dataclass(frozen=True, slots=True)
class CosineParams:
    """Half a cosine from 1 to `final_factor` between steps `warmup` and `total_steps`."""

    final_factor: float
    warmup: int
    total_steps: int

    def factor(self, step: int) -> float:
        """Return the LR factor of `step`."""
        progress = _progress(step, self.warmup, self.total_steps)
        share = 0.5 * (1.0 + math.cos(math.pi * progress))
        return (self.final_factor + (1.0 - self.final_factor) * share) * ramp(step, self.warmup)


@dataclass(frozen=True, slots=True)
class PolynomialParams:
    """A power of the part of the run that is left, from 1 to `final_factor` between `warmup` and `total_steps`."""

    power: float
    final_factor: float
    warmup: int
    total_steps: int

    def factor(self, step: int) -> float:
        """Return the LR factor of `step`."""
        left = 1.0 - _progress(step, self.warmup, self.total_steps)
        share: float = left**self.power
        return (self.final_factor + (1.0 - self.final_factor) * share) * ramp(step, self.warmup)


FixedParams = ConstantParams | MultiStepParams | CosineParams | PolynomialParams


def resolve_constant(values: Mapping[str, Setting], total_steps: int) -> ConstantParams:
    """Return the parameters of checked settings for a run of `total_steps`."""
    return ConstantParams(warmup=resolve_steps(values, "warmup", total_steps))


def resolve_multi_step(values: Mapping[str, Setting], total_steps: int) -> MultiStepParams:
    """Return the parameters of checked settings for a run of `total_steps`.

    Raises `UserError` where `num_milestones` is given with a list of milestones, which has its own number.
    """
    return MultiStepParams(
        milestones=_milestones(values, total_steps),
        gamma=float(values["gamma"]),
        warmup=resolve_steps(values, "warmup", total_steps),
    )


def resolve_cosine(values: Mapping[str, Setting], total_steps: int) -> CosineParams:
    """Return the parameters of checked settings for a run of `total_steps`."""
    return CosineParams(
        final_factor=float(values["final_factor"]),
        warmup=resolve_steps(values, "warmup", total_steps),
        total_steps=total_steps,
    )


def resolve_polynomial(values: Mapping[str, Setting], total_steps: int) -> PolynomialParams:
    """Return the parameters of checked settings for a run of `total_steps`."""
    return PolynomialParams(
        power=float(values["power"]),
        final_factor=float(values["final_factor"]),
        warmup=resolve_steps(values, "warmup", total_steps),
        total_steps=total_steps,
    )


def start(params: FixedParams) -> tuple[StepState, float]:
    """Return the state before the first step and the LR factor of step 0."""
    return (0,), params.factor(0)


def advance(params: FixedParams, state: StepState, loss: float) -> tuple[StepState, float]:  # noqa: ARG001
    """Return the state after one more step, whatever its loss, and the LR factor of the next."""
    step = state[0] + 1
    return (step,), params.factor(step)


def _milestones(values: Mapping[str, Setting], total_steps: int) -> tuple[int, ...]:
    if "first_milestone" in values or "first_milestone_fraction" in values:
        first = resolve_steps(values, "first_milestone", total_steps)
        number = int(values.get("num_milestones", 3))
        return tuple(first + (total_steps - first) * i // number for i in range(number))
    if "num_milestones" in values:
        raise UserError(
            f"`num_milestones` needs `first_milestone_fraction` or `first_milestone`, but got "
            f"{values['num_milestones']} without; give the first milestone, or write all of them as a list"
        )
    if "milestones" in values:
        return tuple(sorted(int(item) for item in str(values["milestones"]).split(",")))
    fractions = str(values["milestones_fraction"]).split(",")
    return tuple(sorted(whole_steps(float(fraction), total_steps) for fraction in fractions))


def _progress(step: int, warmup: int, total_steps: int) -> float:
    return min(1.0, max(0, step - warmup) / max(1, total_steps - warmup))
