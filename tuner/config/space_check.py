"""Whether the schedulers take what a search space asks for, at the run's length, before a sweep is begun.

The ends of each range are checked by the setting's own specification, and the corners of the space are resolved as a
trial's settings would be. So a rule stands once, beside the mathematics, and no trial fails for a setting that the file
already shows to be impossible.
"""

import itertools
from collections import Counter
from typing import Final

from tuner.config.run import FaceConfig
from tuner.config.space_first import first_settings
from tuner.config.space_model import Domain, SamplerName, SpaceFile
from tuner.config.strict_yaml import did_you_mean, dotted
from tuner.errors import UserError
from tuner.names import Setting
from tuner.schedulers import registry
from tuner.schedulers.settings import SettingSpec

MAX_GRID_POINTS: Final = 100_000
_MAX_CORNERS: Final = 4096

Path = tuple[str | int, ...]


def check_space(space: SpaceFile, *, steps: int | None = None, sampler: SamplerName | None = None) -> None:
    """Check a space for runs of `steps` steps searched by `sampler`; both default to what the file says.

    Raises:
        UserError: the first thing that cannot be, with file, path in the file, rule, value and way out.
    """
    counts = Counter(scheduler.name for scheduler in space.schedulers)
    for index, scheduler in enumerate(space.schedulers):
        if scheduler.name not in registry.names():
            raise _error(
                space,
                ("schedulers", index, "name"),
                f"`{scheduler.name}` is not a scheduler; {did_you_mean(scheduler.name, registry.names())}",
            )
        if counts[scheduler.name] > 1:
            raise _error(
                space,
                ("schedulers", index, "name"),
                f"each scheduler may stand once, but `{scheduler.name}` stands {counts[scheduler.name]} times; "
                "merge their parameters",
            )
        _check_scheduler(space, index, steps=steps or space.steps)
    _check_base_lr(space)
    first_settings(space)
    _check_sampler(space, sampler or space.sampler)


def whole(scheduler: str, setting: str) -> bool:
    """Return whether a setting counts something and so takes whole numbers only."""
    return registry.setting_names(scheduler)[setting].kind == "int"


def values_of(domain: Domain, *, whole: bool) -> tuple[Setting, ...] | None:
    """Return all values of a domain in order; None where there is no end of them."""
    if domain.choices is not None:
        return domain.choices
    low, high = domain.ends()
    step = domain.step if domain.step is not None else 1 if whole and not domain.log else None
    if step is None:
        return None
    return tuple(low + index * step for index in range(round((high - low) / step) + 1))


def _check_scheduler(space: SpaceFile, index: int, *, steps: int) -> None:
    scheduler = space.schedulers[index]
    specs = registry.setting_names(scheduler.name)
    for part, keys in (("parameters", scheduler.parameters), ("fixed", scheduler.fixed)):
        for key in keys:
            if key not in specs:
                rule = f"`{key}` is not a setting of `{scheduler.name}`; {did_you_mean(key, sorted(specs))}"
                raise _error(space, ("schedulers", index, part, key), rule)
    for key, value in scheduler.fixed.items():
        _check_value(space, ("schedulers", index, "fixed", key), specs[key], value)
    for key, domain in scheduler.parameters.items():
        path = ("schedulers", index, "parameters", key)
        if key in scheduler.fixed:
            raise _error(space, path, f"`{key}` must be searched or fixed, not both; remove it from one of them")
        _check_kind(space, path, specs[key], domain)
        for end, value in zip(_ends(domain), domain.corners(), strict=True):
            _check_value(space, (*path, *end), specs[key], value)
    _check_together(space, index, steps=steps)


def _check_kind(space: SpaceFile, path: Path, spec: SettingSpec, domain: Domain) -> None:
    if domain.choices is not None:
        return
    if spec.kind not in ("int", "float"):
        raise _error(space, path, f"`{spec.name}` is no number and so needs `choices`, but got a range")
    for name in ("low", "high", "step"):
        value = getattr(domain, name)
        if spec.kind == "int" and value is not None and not isinstance(value, int):
            rule = f"`{spec.name}` counts whole numbers, but got {value}; write {max(1, round(value))}"
            raise _error(space, (*path, name), rule)


def _check_value(space: SpaceFile, path: Path, spec: SettingSpec, value: Setting) -> None:
    try:
        spec.check(value)
    except UserError as error:
        raise _error(space, path, str(error)) from error


def _check_together(space: SpaceFile, index: int, *, steps: int) -> None:
    """Resolve all corners at once: two forms of one setting, a setting without the one that it needs."""
    scheduler = space.schedulers[index]
    corners = itertools.product(*(domain.corners() for domain in scheduler.parameters.values()))
    for values in itertools.islice(corners, _MAX_CORNERS):
        settings = {**scheduler.fixed, **dict(zip(scheduler.parameters, values, strict=True))}
        try:
            registry.resolve(scheduler.name, settings, total_steps=steps)
        except UserError as error:
            raise _error(space, ("schedulers", index), str(error)) from error


def _check_base_lr(space: SpaceFile) -> None:
    if isinstance(space.base_lr, Domain):
        for end, value in zip(_ends(space.base_lr), space.base_lr.corners(), strict=True):
            if isinstance(value, str) or value <= 0:
                raise _error(space, ("base_lr", *end), f"`base_lr > 0` must hold, but got {value}")
    elif space.base_lr is not None and (other := space.workload.given_lr) is not None:
        key = "workload.optimizer.base_lr" if isinstance(space.workload, FaceConfig) else "workload.base_lr"
        rule = f"`base_lr` ({space.base_lr}) and `{key}` ({other}) say the same thing; keep one"
        raise _error(space, ("base_lr",), rule)


def _check_sampler(space: SpaceFile, sampler: SamplerName) -> None:
    if sampler == "grid":
        _check_grid(space)
    if sampler in ("cmaes", "gp"):
        common = {} if len(space.schedulers) > 1 else dict(space.schedulers[0].parameters)
        if isinstance(space.base_lr, Domain):
            common["base_lr"] = space.base_lr
        if not any(domain.choices is None for domain in common.values()):
            rule = f"`{sampler}` needs a range (`low`, `high`) that all trials search, but there is none; use tpe"
            raise _error(space, ("sampler",), rule)


def _check_grid(space: SpaceFile) -> None:
    base = 1 if not isinstance(space.base_lr, Domain) else _count(space, ("base_lr",), space.base_lr, whole=False)
    points = 0
    for index, scheduler in enumerate(space.schedulers):
        size = base
        for key, domain in scheduler.parameters.items():
            path = ("schedulers", index, "parameters", key)
            size *= _count(space, path, domain, whole=whole(scheduler.name, key))
        points += size
    if points > MAX_GRID_POINTS:
        rule = f"a grid may have {MAX_GRID_POINTS} points, but this one has {points}; use fewer values or random"
        raise _error(space, ("sampler",), rule)


def _count(space: SpaceFile, path: Path, domain: Domain, *, whole: bool) -> int:
    values = values_of(domain, whole=whole)
    if values is None:
        raise _error(space, path, "the grid sampler needs `step` or `choices`, but got a continuous range; add one")
    return len(values)


def _ends(domain: Domain) -> list[Path]:
    if domain.choices is not None:
        return [("choices", index) for index in range(len(domain.choices))]
    return [("low",), ("high",)]


def _error(space: SpaceFile, path: Path, rule: str) -> UserError:
    return UserError(f"{space.file}: {dotted(path)}: {rule}")
