"""A detector with a cooldown: whatever it has decided, the LR falls to 0 in a straight line over the end of the run.

With the detector's own factor f_t, T steps in all and a cooldown of C steps:

    factor_t = f_t * min(1, (T - t) / C)        so that step T - 1, the last, has f_t / C

The detector goes on deciding during the cooldown. It is a variant of ours, not of the paper: a detector alone leaves
the LR where its last decay has put it, and a short run may end before its LR is small. Linear cooldowns are usual at
the end of constant LRs (Haegele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations",
arXiv 2405.18392). `docs/results.md` has what it gains.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tuner.schedulers.family import Family
from tuner.schedulers.settings import Setting, resolve_steps, steps_and_fraction

SPECS = steps_and_fraction("cooldown", "steps at the end of the run over which the LR falls to 0", fraction=0.25)


@dataclass(frozen=True, slots=True)
class CooledParams:
    """The detector's own parameters, and the lengths of the run and of its cooldown, in steps."""

    detector: Any
    total_steps: int
    cooldown: int


def cooled(family: Family) -> Family:
    """Return a detector's family with a cooldown; its state is the detector's own, and must begin with the step."""

    def resolve(values: Mapping[str, Setting], total_steps: int) -> CooledParams:
        own = {name: value for name, value in values.items() if name not in {spec.name for spec in SPECS}}
        cooldown = resolve_steps(values, "cooldown", total_steps)
        return CooledParams(family.resolve(own, total_steps), total_steps, cooldown)

    def start(params: CooledParams) -> tuple[Any, float]:
        state, factor = family.start(params.detector)
        return state, factor * share(0, params)

    def advance(params: CooledParams, state: Any, loss: float) -> tuple[Any, float]:
        state, factor = family.advance(params.detector, state, loss)
        return state, factor * share(state[0], params)

    return replace(
        family,
        specs=(*family.specs, *SPECS),
        resolve=resolve,
        start=start,
        advance=advance,
        response=lambda params, state: family.response(params.detector, state),
        threshold=lambda params, state: family.threshold(params.detector, state),
        reach=lambda params: family.reach(params.detector),
        pack=lambda params, state: family.pack(params.detector, state),
        unpack=lambda params, values: family.unpack(params.detector, values),
    )


def share(step: int, params: CooledParams) -> float:
    """Return the cooldown's share of the LR at `step` (from 0): 1 until it begins, 0 from the end of the run on."""
    left = max(0, params.total_steps - step)
    return 1.0 if left >= params.cooldown else left / params.cooldown
