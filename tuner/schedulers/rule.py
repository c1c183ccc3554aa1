"""The stationarity rule that both detectors share: when to change the LR, and by how much.

After each decision step of a detector, with `count`, `decays`, `streak` and `level` (the LR factor) from 0, 0, 0, 1:

    not stationary:                                  count = 0, streak = 0
    stationary, count < patience or off the grid:    count += 1
    stationary otherwise:                            count = 0, and the LR changes

So an LR change needs `patience + 1` stationary steps in a row, and with patience 0 each stationary step is one. The
grid is every `decision_every`-th loss; with 1, as published, every step lies on it. On a coarser one schedules that
would change the LR a few steps apart change it at the same step, and so are the same run for longer. The
change is a decay, `level /= decay_factor`, at most `max_decays` times and never below `floor`. The published runs also
have a rebound: `streak` counts LR changes with no non-stationary step between them, and the `rebound_after`-th of a
streak is not a decay but `level *= rebound`, never above 1; the streak then starts anew, so that after four more
stationary patiences the LR rebounds again. A rebound does not count as a decay. Once `max_decays` is reached nothing
changes the LR any more. During warm-up the detector runs but no step counts as a decision.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.errors import DivergedError
from tuner.schedulers.settings import Setting, SettingSpec, resolve_steps, steps_and_fraction

NO_LIMIT = 2**31 - 1
"""`max_decays` of a rule without limit; fits a 32-bit integer."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule's parameters: `patience`, `grid` and `warmup` in steps, `rebound` 0 for none, factors without unit."""

    patience: int
    grid: int
    decay_factor: float
    max_decays: int
    rebound: float
    rebound_after: int
    floor: float
    warmup: int


def decide(
    rule: Rule, seen: int, stationary: bool, count: int, decays: int, streak: int, level: float
) -> tuple[int, int, int, float]:
    """Return (count, decays, streak, level) after one decision step, when `seen` losses have been seen.

    Scalars in, scalars out, and no globals: a compiler for such functions can take it as it is, with any record that
    has the rule's fields.
    """
    if not stationary:
        return 0, decays, 0, level
    if count < rule.patience or seen % rule.grid != 0:
        return count + 1, decays, streak, level
    if decays >= rule.max_decays:
        return 0, decays, streak, level
    streak += 1
    if rule.rebound > 0.0 and streak >= rule.rebound_after:
        return 0, decays, 0, min(1.0, level * rule.rebound)
    return 0, decays + 1, streak, max(rule.floor, level / rule.decay_factor)


def rule_specs(*, patience_fraction: float, max_decays: int | None, rebound: float | None) -> tuple[SettingSpec, ...]:
    """Return the rule's settings with the defaults of one detector."""
    return (
        *steps_and_fraction(
            "patience",
            "stationary steps in a row that pass before the LR changes at the next one",
            fraction=patience_fraction,
        ),
        *steps_and_fraction(
            "decision_every",
            "grid of decisions: the LR changes only after each so many losses; after any where it is not set",
            low=1,
        ),
        SettingSpec(
            name="decay_factor",
            kind="float",
            doc="what the LR is divided by at a decay",
            group="decay_factor",
            low=1.0,
            low_open=True,
            default=2.0,
        ),
        SettingSpec(
            name="max_decays",
            kind="int",
            doc="decays after which the LR stays; no limit where it is not set",
            group="max_decays",
            low=0,
            default=max_decays,
        ),
        SettingSpec(
            name="rebound",
            kind="float",
            doc="what the LR is multiplied by at the last change of a streak, up to the base LR; 0: no rebound",
            group="rebound",
            low=0.0,
            default=rebound,
        ),
        SettingSpec(
            name="rebound_after",
            kind="int",
            doc="the change in a row that is a rebound instead of a decay",
            group="rebound_after",
            low=1,
            default=4,
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


def resolve_rule(values: Mapping[str, Setting], total_steps: int) -> Rule:
    """Return the rule of checked settings for a run of `total_steps`."""
    return Rule(
        patience=resolve_steps(values, "patience", total_steps),
        grid=resolve_steps(values, "decision_every", total_steps, at_least=1),
        decay_factor=float(values["decay_factor"]),
        max_decays=int(values.get("max_decays", NO_LIMIT)),
        rebound=float(values.get("rebound", 0.0)),
        rebound_after=int(values["rebound_after"]),
        floor=float(values["floor"]),
        warmup=resolve_steps(values, "warmup", total_steps),
    )


def warmup_specs() -> tuple[SettingSpec, SettingSpec]:
    """Return the two forms of the linear warm-up that every scheduler has; the default is none."""
    return steps_and_fraction("warmup", "linear rise of the LR from base_lr / warmup at step 0", fraction=0.0)


def ramp(step: int, warmup: int) -> float:
    """Return the warm-up's share of the LR at `step` (from 0): (step + 1) / warmup, and 1 from step warmup - 1 on."""
    return 1.0 if step + 1 >= warmup else (step + 1) / warmup


def diverged(step: int, loss: float) -> DivergedError:
    """Return the error for a loss that is not finite: a detector fed with it would silently stop working for ever."""
    return DivergedError(
        f"the loss must be finite, but got {loss!r} at step {step}; lower the base LR or clip gradients"
    )
