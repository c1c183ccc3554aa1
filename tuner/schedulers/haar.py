"""MHLR, the windowed detector: moving average of the loss and a Haar kernel over it; O(1) time, O(m) memory.

With the loss L_t of step t = 0, 1, ..., m = `average_window` (by default `haar_window`) and h = `haar_window`:

    A_t = mean(L_{t-m+1} .. L_t)
    H_t = 1/2 (mean of the older half of A_{t-h+1} .. A_t  -  mean of its newer half)

A loss that falls by s per step gives H = s h / 4. Step t is stationary if H_t < threshold; `tuner.schedulers.rule` says
what follows from it.

1. The halves have h // 2 averages each; for an odd h the one in the middle belongs to neither, so that they lie
   g = h - h // 2 steps apart and the falling loss gives s g / 2.
2. The first decision falls at the step with the (m + h)-th loss: 2m, as published; until then there is no response.
3. Sums run: one addition and one subtraction a step. Each is replaced by a plain sum of exactly its window every time
   the window has gone round, so that rounding errors do not add up over a long run.
4. A loss that is NaN or infinite raises `DivergedError`.

Scale-free forms: H is in units of loss, but for a given pace it grows with the window. So `threshold_fraction` f means
the same as in `fastface`, a pace that would take f of the first loss off in a whole run: threshold = f |L_0| / T * g/2.
Time compression leaves the threshold alone, and so does a change of the window in what it means.

Reference: arXiv 2404.11118, version 1 ("Moving Haar Learning Rate"). Published: m = h = int(0.015 T), threshold 0.06,
patience 2m, decay factor 2, rebound 4 at the 4th change in a row, no limit to the decays. The default threshold 0.39 is
0.0615 at m = 2481, T = 165 435 and a first loss of 42.14, which reproduces the published WebFace4M run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.schedulers.rule import Rule, decide, diverged, ramp, resolve_rule, rule_specs
from tuner.schedulers.settings import Setting, SettingSpec, resolve_steps, steps_and_fraction
from tuner.schedulers.state import damaged

SPECS: tuple[SettingSpec, ...] = (
    *steps_and_fraction("haar_window", "length of the Haar kernel, in averages", fraction=0.015, low=2),
    *steps_and_fraction("average_window", "length of the moving average; haar_window where it is not set", low=1),
    SettingSpec(
        name="threshold",
        kind="float",
        doc="Haar response, in units of the loss, below which a step is stationary",
        group="threshold",
        unit="response",
    ),
    SettingSpec(
        name="threshold_fraction",
        kind="float",
        doc="pace below which a step is stationary, as a fraction of the first loss over the whole run",
        group="threshold",
        unit="response_fraction",
        default=0.39,
    ),
    *rule_specs(patience_fraction=0.03, max_decays=None, rebound=4.0),
)


@dataclass(frozen=True, slots=True)
class HaarParams:
    """Resolved parameters: windows in steps, `threshold` as offset + scale * |L_0|, and the rule.

    `half` is the length of each half of the kernel, `gap` the distance between them, `memory` the longest look back,
    `weight` = 1 / (2 half). The loss after which the first decision falls is the `first_decision`-th.
    """

    average_window: int
    haar_window: int
    half: int
    gap: int
    memory: int
    weight: float
    first_decision: int
    threshold_offset: float
    threshold_scale: float
    rule: Rule


Remembered = tuple[float, float, float]
"""What later steps need of one step: the loss, the average A_t, and the sum of the newest `half` averages."""

HaarState = tuple[int, list[Remembered], int, float, float, float, float, float, float, int, int, int, float]
"""A plain tuple: step, history, end, then `FIELDS` from loss_sum on.

`history[:end]` are the latest steps, at least `memory` of them, preceded by zeros at the start of the run. The list is
shared by successive states and only ever appended to: see `_writable`.
"""

FIELDS: Mapping[str, type] = {
    "step": int,  # number of losses seen
    "losses": list,
    "averages": list,
    "half_sums": list,
    "loss_sum": float,  # of the last average_window losses
    "loss_fresh": float,  # of those since step was last a multiple of average_window
    "half_sum": float,  # of the last `half` averages
    "half_fresh": float,
    "response": float,
    "threshold": float,  # absolute, known from the first loss on
    "count": int,
    "decays": int,
    "streak": int,
    "level": float,
}


def reach(params: HaarParams) -> float:
    """Return the response to a loss that falls by 1 per step: g / 2, for an even window h that is h / 4."""
    return params.gap / 2


def resolve(values: Mapping[str, Setting], total_steps: int) -> HaarParams:
    """Return the parameters of checked settings for a run of `total_steps`."""
    window = resolve_steps(values, "haar_window", total_steps, at_least=2)
    average_window = window
    if "average_window" in values or "average_window_fraction" in values:
        average_window = resolve_steps(values, "average_window", total_steps, at_least=1)
    half = window // 2
    rule = resolve_rule(values, total_steps)
    return HaarParams(
        average_window=average_window,
        haar_window=window,
        half=half,
        gap=window - half,
        memory=max(average_window, window - half),
        weight=0.5 / half,
        first_decision=max(average_window + window, rule.warmup + 1),
        threshold_offset=float(values.get("threshold", 0.0)),
        threshold_scale=float(values.get("threshold_fraction", 0.0)) / total_steps * (window - half) / 2,
        rule=rule,
    )


def start(params: HaarParams) -> tuple[HaarState, float]:
    """Return the state before the first loss and the LR factor of step 0."""
    history = [(0.0, 0.0, 0.0)] * params.memory
    return (0, history, params.memory, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, 1.0), ramp(0, params.rule.warmup)


def slide(
    params: HaarParams,
    step: int,
    loss: float,
    loss_out: float,
    average_out: float,
    loss_sum: float,
    loss_fresh: float,
    half_sum: float,
    half_fresh: float,
) -> tuple[float, float, float, float, float]:
    """Return (A_t, loss_sum, loss_fresh, half_sum, half_fresh) after the loss of `step`; compilable as `rule.decide`.

    `loss_out` and `average_out` are what leaves the windows: L_{t-m} and A_{t-half}, 0 where there was none.
    """
    seen = step + 1
    loss_fresh += loss
    loss_sum = loss_sum + loss - loss_out
    if seen % params.average_window == 0:
        loss_sum = loss_fresh
        loss_fresh = 0.0
    average = loss_sum / params.average_window if seen >= params.average_window else 0.0
    half_fresh += average
    half_sum = half_sum + average - average_out
    if seen % params.half == 0:
        half_sum = half_fresh
        half_fresh = 0.0
    return average, loss_sum, loss_fresh, half_sum, half_fresh


def advance(params: HaarParams, state: HaarState, loss: float) -> tuple[HaarState, float]:
    """Return the state after the loss of step t = `state[0]`, and the LR factor of step t + 1.

    Raises `DivergedError` where `loss` is NaN or infinite.
    """
    (
        step, history, end, loss_sum, loss_fresh, half_sum, half_fresh,
        response, threshold, count, decays, streak, level,
    ) = state  # fmt: skip
    if loss - loss != 0.0:
        raise diverged(step, loss)
    if step == 0:
        threshold = params.threshold_offset + params.threshold_scale * abs(loss)
    average, loss_sum, loss_fresh, half_sum, half_fresh = slide(
        params,
        step,
        loss,
        history[end - params.average_window][0],
        history[end - params.half][1],
        loss_sum,
        loss_fresh,
        half_sum,
        half_fresh,
    )
    response = (history[end - params.gap][2] - half_sum) * params.weight
    if end != len(history) or end >= 2 * params.memory:
        history = history[end - params.memory : end]
        end = params.memory
    history.append((loss, average, half_sum))
    step += 1
    if step >= params.first_decision:
        count, decays, streak, level = decide(params.rule, step, response < threshold, count, decays, streak, level)
    factor = level if step > params.rule.warmup else ramp(step, params.rule.warmup)
    return (
        step, history, end + 1, loss_sum, loss_fresh, half_sum, half_fresh,
        response, threshold, count, decays, streak, level,
    ), factor  # fmt: skip


def response(params: HaarParams, state: HaarState) -> float | None:
    """Return H_t of the newest step, in units of the loss; None before the first decision."""
    return state[7] if state[0] >= params.first_decision else None


def threshold(params: HaarParams, state: HaarState) -> float | None:  # noqa: ARG001
    """Return the absolute threshold, in units of the loss; None before the first loss."""
    return state[8] if state[0] > 0 else None


def pack(params: HaarParams, state: HaarState) -> tuple[Any, ...]:
    """Return the values of `FIELDS`: of the history only what later steps look at."""
    step, history, end, *rest = state
    losses = [entry[0] for entry in history[end - params.average_window : end]]
    averages = [entry[1] for entry in history[end - params.half : end]]
    half_sums = [entry[2] for entry in history[end - params.gap : end]]
    return (step, losses, averages, half_sums, *rest)


def unpack(params: HaarParams, values: tuple[Any, ...]) -> HaarState:
    """Return the state of which `pack` gave `values`; raise `UserError` where its windows are not of these lengths."""
    step, losses, averages, half_sums, *rest = values
    lengths = (len(losses), len(averages), len(half_sums))
    if lengths != (params.average_window, params.half, params.gap):
        raise damaged("haar", f"has windows of {lengths[0]} and {lengths[1] + lengths[2]} steps, not those of this run")
    padded = ([0.0] * (params.memory - len(column)) + column for column in (losses, averages, half_sums))
    return (step, list(zip(*padded, strict=True)), params.memory, *rest)
