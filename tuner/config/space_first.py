"""The settings that a space wants tried first: each a point of the space, with a value in range for all it searches."""

from tuner.config.space_model import Domain, SpaceFile
from tuner.config.strict_yaml import did_you_mean, dotted
from tuner.errors import UserError
from tuner.names import Setting
from tuner.schedulers import registry


def first_settings(space: SpaceFile) -> list[tuple[str, dict[str, Setting]]]:
    """Return what is tried first as (scheduler, value by searched setting), the values as the space itself has them.

    Raises:
        UserError: a setting that is no point of the space, or stands twice.
    """
    found: list[tuple[str, dict[str, Setting]]] = []
    for index, scheduler in enumerate(space.schedulers):
        for place, setting in enumerate(scheduler.first):
            path = f"{space.file}: {dotted(('schedulers', index, 'first', place))}"
            point = scheduler.name, _point(space, index, setting, path=path)
            if point in found:
                raise UserError(f"{path}: each setting must stand once, but this one repeats another; remove it")
            found.append(point)
    return found


def _point(space: SpaceFile, index: int, setting: dict[str, Setting], *, path: str) -> dict[str, Setting]:
    scheduler = space.schedulers[index]
    common = {"base_lr": space.base_lr} if isinstance(space.base_lr, Domain) else {}
    domains = {**common, **scheduler.parameters}
    for key in setting:
        if key not in domains:
            raise UserError(f"{path}.{key}: {_not_searched(space, index, key)}")
    point: dict[str, Setting] = {}
    for key, domain in domains.items():
        if key not in setting:
            raise UserError(
                f"{path}: must give a value for all that is searched, but lacks `{key}`; add one of {domain.said()}"
            )
        spec = registry.setting_names(scheduler.name).get(key)
        value = domain.held(setting[key], whole=spec is not None and spec.kind == "int")
        if value is None:
            raise UserError(
                f"{path}.{key}: must be a value that is searched ({domain.said()}), but got {setting[key]!r}; "
                "change it, or search it there too"
            )
        point[key] = value
    return point


def _not_searched(space: SpaceFile, index: int, key: str) -> str:
    scheduler = space.schedulers[index]
    if key == "base_lr":
        return "only what is searched can be tried first, but `base_lr` is not; give it `low` and `high`, or remove it"
    if key in registry.setting_names(scheduler.name):
        return (
            f"only what is searched can be tried first, but `{key}` is not; "
            "search it under `parameters`, or keep it under `fixed` alone"
        )
    known = sorted(scheduler.parameters)
    return f"`{key}` is not a setting of `{scheduler.name}`; {did_you_mean(key, known)}"
