"""The same setting for a run of another length: scale-free, and back in steps.

What makes two settings the same is that a loss curve stretched k times gives the same decays, stretched k times:

    windows, patience, warm-up, milestones   steps / T stays (an EMA decay has the window 1 / (1 - ema_decay))
    threshold of a detector                  (pace / first loss) * T stays, with pace = threshold / reach
    factors, powers, counts of decays        stay
    intervals of `plateau`                   their length scales, counts of them stay

where `reach` is the detector's response to a loss that falls by 1 per step. An absolute threshold follows the length of
the run without knowing the loss; only to write it as a fraction of the first loss, or back, takes the first loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.errors import UserError
from tuner.schedulers.registry import resolve, setting_names
from tuner.schedulers.settings import Setting, SettingSpec, check_settings, whole_steps


@dataclass(frozen=True, slots=True)
class Rescaled:
    """One setting for a run of another length, written twice; `resolve` takes either.

    `scale_free` has fractions wherever there are any. `resolved` has steps, rounded down as everywhere, and an absolute
    threshold where the first loss is known.
    """

    scale_free: dict[str, Setting]
    resolved: dict[str, Setting]


def rescale(
    name: str,
    settings: Mapping[str, Setting],
    *,
    from_steps: int,
    to_steps: int,
    initial_loss: float | None = None,
) -> Rescaled:
    """Return `settings` of the scheduler `name`, made for `from_steps`, as settings for `to_steps` steps.

    `initial_loss` is the first loss of both runs; without it a threshold keeps the form it has. Defaults are written
    out. Raises `UserError` as `resolve` does, and where a step count of `settings` is longer than its run.
    """
    if initial_loss is not None and not 0 < initial_loss < float("inf"):
        raise UserError(f"`initial_loss > 0` must hold, but got {initial_loss}; give the first loss of the run")
    specs = setting_names(name)
    values = check_settings(name, specs.values(), settings)
    scale_free: dict[str, Setting] = {}
    resolved: dict[str, Setting] = {}
    for key, value in values.items():
        match specs[key].unit:
            case "steps":
                scale_free[f"{key}_fraction"] = _fraction(value, from_steps)
                resolved[key] = _stretch(specs[key], value, from_steps, to_steps)
            case "fraction":
                steps = specs[key.removesuffix("_fraction")]
                scale_free[key] = value
                resolved[steps.name] = _stretch(steps, value, 1, to_steps)
            case "decay":
                window = 1.0 / (1.0 - float(value))
                scale_free["ema_window_fraction"] = window / from_steps
                resolved[key] = 1.0 - 1.0 / max(1.0, window * (to_steps / from_steps))
            case "interval_fraction":
                scale_free[key] = value
                num_intervals = to_steps / float(resolved["interval"])
                resolved[key.removesuffix("_fraction")] = whole_steps(float(value), num_intervals)
            case "response" | "response_fraction":
                continue
            case _:
                scale_free[key] = resolved[key] = value
    before = resolve(name, settings, total_steps=from_steps)
    # Of the threshold's forms the one that is missing here falls back to its default, on which no reach depends.
    after = resolve(name, resolved, total_steps=to_steps)
    reach_before, reach_after = before.family.reach(before.params), after.family.reach(after.params)
    if "threshold" in values and specs["threshold"].unit == "response":
        absolute = float(values["threshold"])
        resolved["threshold"] = absolute * (from_steps / to_steps) * (reach_after / reach_before)
        if initial_loss is None:
            scale_free["threshold"] = resolved["threshold"]
        else:
            scale_free["threshold_fraction"] = absolute / reach_before / initial_loss * from_steps
    elif "threshold_fraction" in values:
        fraction = scale_free["threshold_fraction"] = float(values["threshold_fraction"])
        if initial_loss is None:
            resolved["threshold_fraction"] = fraction
        else:
            resolved["threshold"] = fraction / to_steps * reach_after * initial_loss
    resolve(name, scale_free, total_steps=to_steps)
    return Rescaled(scale_free, resolved)


def _fraction(value: Setting, total_steps: int) -> Setting:
    if isinstance(value, str):
        return ",".join(repr(float(item) / total_steps) for item in value.split(","))
    return value / total_steps


def _stretch(steps: SettingSpec, value: Setting, from_steps: int, to_steps: int) -> Setting:
    """Return `value`, which is in units of 1 / from_steps of the run, in the steps of a run of `to_steps`."""
    if isinstance(value, str):
        return ",".join(str(whole_steps(float(item) / from_steps, to_steps)) for item in value.split(","))
    if steps.kind == "int":
        return whole_steps(value / from_steps, to_steps, at_least=int(steps.low))
    return max(steps.low, value * (to_steps / from_steps))
