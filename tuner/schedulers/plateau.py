"""Reduce the LR on a plateau: torch's ReduceLROnPlateau on the mean loss of successive intervals.

After the warm-up each `interval` steps make one interval with the mean loss M. With `bad` and `rest` from 0:

    M < best * (1 - threshold), or the first interval:  best = M, bad = 0;  otherwise bad += 1
    rest > 0:                                           rest -= 1, bad = 0
    bad > patience:                                     level = max(floor, level * factor), rest = cooldown, bad = 0

which is `ReduceLROnPlateau(mode="min", threshold_mode="rel", min_lr=floor * base_lr, eps=0)`, stepped with M. The LR
changes at the first step of the next interval. The defaults are torch's own at a hundred intervals a run.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.schedulers.rule import diverged, ramp, warmup_specs
from tuner.schedulers.settings import Setting, SettingSpec, resolve_steps, steps_and_fraction

SPECS: tuple[SettingSpec, ...] = (
    *steps_and_fraction("interval", "steps whose mean loss counts as one value", fraction=0.01, low=1),
    SettingSpec(
        name="patience",
        kind="int",
        doc="intervals without improvement that pass before the LR is reduced after the next one",
        group="patience",
        unit="intervals",
        low=0,
    ),
    SettingSpec(
        name="patience_fraction",
        kind="float",
        doc="the same as a fraction of the run",
        group="patience",
        unit="interval_fraction",
        low=0.0,
        high=1.0,
        default=0.1,
    ),
    SettingSpec(
        name="factor",
        kind="float",
        doc="what the LR is multiplied by",
        group="factor",
        low=0.0,
        low_open=True,
        high=1.0,
        high_open=True,
        default=0.1,
    ),
    SettingSpec(
        name="threshold",
        kind="float",
        doc="relative fall of the mean loss that counts as an improvement",
        group="threshold",
        low=0.0,
        high=1.0,
        high_open=True,
        default=1e-4,
    ),
    SettingSpec(
        name="cooldown",
        kind="int",
        doc="intervals after a reduction that do not count as bad",
        group="cooldown",
        unit="intervals",
        low=0,
    ),
    SettingSpec(
        name="cooldown_fraction",
        kind="float",
        doc="the same as a fraction of the run",
        group="cooldown",
        unit="interval_fraction",
        low=0.0,
        high=1.0,
        default=0.0,
    ),
    SettingSpec(
        name="floor",
        kind="float",
        doc="smallest LR factor",
        group="floor",
        low=0.0,
        high=1.0,
        default=0.0,
    ),
    *warmup_specs(),
)


@dataclass(frozen=True, slots=True)
class PlateauParams:
    """Resolved parameters: `interval` and `warmup` in steps, `patience` and `cooldown` in intervals."""

    interval: int
    patience: int
    factor: float
    threshold: float
    cooldown: int
    floor: float
    warmup: int


PlateauState = tuple[int, float, float, int, int, float]
"""A plain tuple with the `FIELDS` in order."""

FIELDS: Mapping[str, type] = {
    "step": int,  # number of losses seen
    "loss_sum": float,  # of the interval that runs
    "best": float,  # lowest mean that counted as an improvement; no meaning before the first interval is over
    "bad": int,
    "rest": int,
    "level": float,
}


def resolve(values: Mapping[str, Setting], total_steps: int) -> PlateauParams:
    """Return the parameters of checked settings for a run of `total_steps`."""
    interval = resolve_steps(values, "interval", total_steps, at_least=1)
    num_intervals = total_steps / interval
    return PlateauParams(
        interval=interval,
        patience=resolve_steps(values, "patience", num_intervals),
        factor=float(values["factor"]),
        threshold=float(values["threshold"]),
        cooldown=resolve_steps(values, "cooldown", num_intervals),
        floor=float(values["floor"]),
        warmup=resolve_steps(values, "warmup", total_steps),
    )


def start(params: PlateauParams) -> tuple[PlateauState, float]:
    """Return the state before the first loss and the LR factor of step 0."""
    return (0, 0.0, 0.0, 0, 0, 1.0), ramp(0, params.warmup)


def advance(params: PlateauParams, state: PlateauState, loss: float) -> tuple[PlateauState, float]:
    """Return the state after the loss of step t = `state[0]`, and the LR factor of step t + 1.

    Raises `DivergedError` where `loss` is NaN or infinite.
    """
    step, loss_sum, best, bad, rest, level = state
    if loss - loss != 0.0:
        raise diverged(step, loss)
    step += 1
    counted = step - params.warmup
    if counted <= 0:
        return (step, 0.0, 0.0, 0, 0, 1.0), ramp(step, params.warmup)
    loss_sum += loss
    if counted % params.interval != 0:
        return (step, loss_sum, best, bad, rest, level), level
    mean = loss_sum / params.interval
    if counted == params.interval or mean < best * (1.0 - params.threshold):
        best = mean
        bad = 0
    else:
        bad += 1
    if rest > 0:
        rest -= 1
        bad = 0
    if bad > params.patience:
        level = max(level * params.factor, params.floor)
        rest = params.cooldown
        bad = 0
    return (step, 0.0, best, bad, rest, level), level
