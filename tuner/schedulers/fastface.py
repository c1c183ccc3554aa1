"""FastFace: stationarity of the loss by an EMA, its first difference and a second EMA; O(1) time and memory.

With the loss `L_t` of step t = 0, 1, ..., `a = 1 - ema_decay` and `b = 2 / haar_window` (equal mean lag):

    D_t = (1-a) D_{t-1} + a (L_{t-1} - L_t)     first difference of the EMA of the loss, positive while the loss falls
    E_t = (1-b) E_{t-1} + b D_t                 its mean, the detector's response: loss per step

which is evaluated as one recurrence, for t >= 1:

    E_t = (2-a-b) E_{t-1} - (1-a)(1-b) E_{t-2} + a b (L_{t-1} - L_t)

Step t >= 1 is stationary if E_t < threshold; `tuner.schedulers.rule` says what follows from it.

1. Start. `matched` sets E_0 = E_{-1} = 0, which is the two-stage form from D_0 = E_0 = 0. `released` sets E_0 = 0 and
   E_1 = a (L_0 - L_1), that is 1/b times the first term of the two-stage form: the first loss difference is amplified
   (368 times its share at a = b = 1e-3) for 7 to 10 windows, and where the loss rose in the first step, short runs
   decay for no reason. It is here for comparison with runs of the released class.
2. The first loss only sets L_0: no decision, no response.
3. A loss that is NaN or infinite raises `DivergedError`; E_t would stay NaN and never decay the LR again.

Scale-free forms: `ema_window_fraction` f gives a = 1 / (f T); a window below one step is one step. The
`threshold_fraction` f gives the threshold f |L_0| / T: stationary is a pace that would take less than f of the first
loss off in a whole run.

Reference: "FastFace: Fast-converging Scheduler for Large-scale Face Recognition Training with One GPU",
arXiv 2404.11118. Published: a = b = 1e-3 at T = 202 000, threshold 5e-5 at a first loss of 46.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.schedulers.rule import Rule, decide, diverged, ramp, resolve_rule, rule_specs
from tuner.schedulers.settings import Setting, SettingSpec, steps_and_fraction

SPECS: tuple[SettingSpec, ...] = (
    SettingSpec(
        name="ema_decay",
        kind="float",
        doc="share of the loss EMA that one step keeps; a = 1 - ema_decay",
        group="ema_window",
        unit="decay",
        low=0.0,
        high=1.0,
        high_open=True,
    ),
    *steps_and_fraction("ema_window", "window of the loss EMA, a = 1 / window", fraction=1 / 202, low=1, whole=False),
    *steps_and_fraction(
        "haar_window", "window of the second EMA, b = 2 / window", fraction=2 / 202, low=2, whole=False
    ),
    SettingSpec(
        name="threshold",
        kind="float",
        doc="fall of the loss per step below which a step is stationary",
        group="threshold",
        unit="response",
    ),
    SettingSpec(
        name="threshold_fraction",
        kind="float",
        doc="the same as a fraction of the first loss over the whole run",
        group="threshold",
        unit="response_fraction",
        default=10.1 / 46,
    ),
    *rule_specs(patience_fraction=0.05, max_decays=8, rebound=None),
    SettingSpec(
        name="start",
        kind="choice",
        doc="start of the recurrence",
        group="start",
        choices=("matched", "released"),
        default="matched",
    ),
)


@dataclass(frozen=True, slots=True)
class FastFaceParams:
    """Resolved parameters: coefficients of the recurrence, `threshold` as scale * |L_0| + offset, and the rule."""

    a: float
    b: float
    keep: float
    keep_twice: float
    gain: float
    threshold_offset: float
    threshold_scale: float
    released: bool
    rule: Rule


FastFaceState = tuple[int, float, float, float, float, int, int, int, float]
"""A plain tuple with the `FIELDS` in order: a named one would double the time of a step."""

FIELDS: Mapping[str, type] = {
    "step": int,  # number of losses seen
    "loss": float,  # the last of them
    "response": float,  # E of the last step
    "previous_response": float,  # E of the step before
    "threshold": float,  # absolute, known from the first loss on
    "count": int,
    "decays": int,
    "streak": int,
    "level": float,
}


def resolve(values: Mapping[str, Setting], total_steps: int) -> FastFaceParams:
    """Return the parameters of checked settings for a run of `total_steps`."""
    if "ema_decay" in values:
        a = 1.0 - float(values["ema_decay"])
    else:
        a = 1.0 / _window(values, "ema_window", total_steps, at_least=1.0)
    b = 2.0 / _window(values, "haar_window", total_steps, at_least=2.0)
    return FastFaceParams(
        a=a,
        b=b,
        keep=2.0 - a - b,
        keep_twice=(1.0 - a) * (1.0 - b),
        gain=a * b,
        threshold_offset=float(values.get("threshold", 0.0)),
        threshold_scale=float(values.get("threshold_fraction", 0.0)) / total_steps,
        released=values["start"] == "released",
        rule=resolve_rule(values, total_steps),
    )


def reach(params: FastFaceParams) -> float:  # noqa: ARG001
    """Return the response to a loss that falls by 1 per step: 1, for E_t is in units of loss per step."""
    return 1.0


def start(params: FastFaceParams) -> tuple[FastFaceState, float]:
    """Return the state before the first loss and the LR factor of step 0."""
    return (0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, 1.0), ramp(0, params.rule.warmup)


def recurrence(params: FastFaceParams, response: float, previous: float, change: float) -> float:
    """Return E_t from E_{t-1}, E_{t-2} and the fall of the loss, L_{t-1} - L_t; compilable like `rule.decide`."""
    return params.keep * response - params.keep_twice * previous + params.gain * change


def advance(params: FastFaceParams, state: FastFaceState, loss: float) -> tuple[FastFaceState, float]:
    """Return the state after the loss of step t = `state[0]`, and the LR factor of step t + 1.

    Raises `DivergedError` where `loss` is NaN or infinite.
    """
    step, last, response, previous, threshold, count, decays, streak, level = state
    change = last - loss
    if change - change != 0.0:
        raise diverged(step, loss)
    if step < 2 or step < params.rule.warmup:
        return _advance_early(params, state, loss)
    newest = recurrence(params, response, previous, change)
    count, decays, streak, level = decide(params.rule, step + 1, newest < threshold, count, decays, streak, level)
    return (step + 1, loss, newest, response, threshold, count, decays, streak, level), level


def _advance_early(params: FastFaceParams, state: FastFaceState, loss: float) -> tuple[FastFaceState, float]:
    """Advance over the first loss, which starts the detector, over the second, and through the warm-up."""
    rule = params.rule
    step, last, response, previous, threshold, *_ = state
    factor = ramp(step + 1, rule.warmup)
    if step == 0:
        threshold = params.threshold_offset + params.threshold_scale * abs(loss)
        return (1, loss, 0.0, 0.0, threshold, 0, 0, 0, 1.0), factor
    if step == 1 and params.released:
        newest = params.a * (last - loss)
    else:
        newest = recurrence(params, response, previous, last - loss)
    if step < rule.warmup:
        return (step + 1, loss, newest, response, threshold, 0, 0, 0, 1.0), factor
    count, decays, streak, level = decide(rule, step + 1, newest < threshold, 0, 0, 0, 1.0)
    return (step + 1, loss, newest, response, threshold, count, decays, streak, level), level


def response(params: FastFaceParams, state: FastFaceState) -> float | None:
    """Return E_t of the newest step, loss per step; None before the first decision."""
    return state[2] if state[0] > max(1, params.rule.warmup) else None


def threshold(params: FastFaceParams, state: FastFaceState) -> float | None:  # noqa: ARG001
    """Return the absolute threshold, loss per step; None before the first loss."""
    return state[4] if state[0] > 0 else None


def _window(values: Mapping[str, Setting], name: str, total_steps: int, *, at_least: float) -> float:
    if name in values:
        return float(values[name])
    return max(at_least, float(values[f"{name}_fraction"]) * total_steps)
