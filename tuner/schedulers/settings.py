"""How schedulers declare their settings: one `SettingSpec` each, with range, default and its other forms.

Settings are flat, `name: scalar`. A time-like setting exists in steps (`patience`) and as a fraction of the run
(`patience_fraction`): the two are forms of one group. Giving one form replaces the default of the group; giving two
is an error. `check_settings` returns one value per group that is given or has a default.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from tuner.errors import UserError

Setting = float | int | str
Unit = Literal["", "steps", "fraction", "intervals", "interval_fraction", "decay", "response", "response_fraction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingSpec:
    """One setting of a scheduler: its kind, meaning, range and default.

    `group` ties the forms of one quantity together; `unit` says how the value depends on the run's length and loss, for
    `tuner.schedulers.scale`: "" not at all. `low` and `high` bound a number, included unless `low_open` or
    `high_open`. `choices` are the values of a "choice"; a list is a string of numbers joined by commas.
    """

    name: str
    kind: Literal["float", "int", "choice", "float_list", "int_list"]
    doc: str
    group: str
    unit: Unit = ""
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    choices: tuple[str, ...] = ()
    default: Setting | None = None

    def rule(self) -> str:
        """Return the range as a formula, e.g. `0 <= ema_decay < 1`."""
        if self.choices:
            return f"{self.name} in {{{', '.join(self.choices)}}}"
        left = "" if self.low == -math.inf else f"{self.low:g} {'<' if self.low_open else '<='} "
        right = "" if self.high == math.inf else f" {'<' if self.high_open else '<='} {self.high:g}"
        if not left and not right:
            return f"{self.name} finite"
        if not right:
            return f"{self.name} {'>' if self.low_open else '>='} {self.low:g}"
        return f"{left}{self.name}{right}"

    def check(self, value: object) -> Setting:
        """Return `value` in the setting's own type; raise `UserError` where kind or range does not fit."""
        if self.kind == "choice":
            if value not in self.choices:
                raise UserError(f"`{self.rule()}` must hold, but got {value!r}; {self._way_out()}")
            return str(value)
        if self.kind in {"float_list", "int_list"}:
            return self._check_list(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"`{self.name}` must be a number, but got {value!r}; {self._way_out()}")
        if not self._in_range(value):
            raise UserError(f"`{self.rule()}` must hold, but got {value!r}; {self._way_out()}")
        if self.kind == "float":
            return float(value)
        if value != int(value):
            raise UserError(f"`{self.name}` must be a whole number, but got {value!r}; {self._way_out()}")
        return int(value)

    def _check_list(self, value: object) -> str:
        whole = self.kind == "int_list"
        items = [item.strip() for item in str(value).split(",")]
        for item in items:
            try:
                number = float(int(item) if whole else float(item))
            except ValueError:
                number = math.nan
            if not self._in_range(number):
                raise UserError(
                    f"`{self.name}` must be {'whole ' if whole else ''}numbers joined by commas, each with "
                    f"{self.rule()}, but got {value!r}; write for example {self.default or '100,200,300'}"
                )
        return ",".join(items)

    def _in_range(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below and math.isfinite(value)

    def _way_out(self) -> str:
        return f"it means: {self.doc}" if self.default is None else f"the default is {self.default}"


def check_settings(name: str, specs: Iterable[SettingSpec], settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the checked settings, completed by the defaults of the groups that are not given.

    Raises `UserError` for an unknown key, a value out of range, or two forms of one group.
    """
    known = {spec.name: spec for spec in specs}
    given: dict[str, str] = {}
    values: dict[str, Setting] = {}
    for key, value in settings.items():
        spec = known.get(key)
        if spec is None:
            raise UserError(_unknown(f"`{key}` is not a setting of the scheduler `{name}`", key, known))
        if spec.group in given:
            raise UserError(
                f"`{given[spec.group]}` and `{key}` set the same thing in two forms, "
                f"but got {settings[given[spec.group]]!r} and {value!r}; give one of them"
            )
        given[spec.group] = key
        values[key] = spec.check(value)
    for spec in known.values():
        if spec.default is not None and spec.group not in given:
            values[spec.name] = spec.default
    return values


def unknown_name(name: str, known: Iterable[str]) -> UserError:
    """Return the error for a scheduler that does not exist, with the nearest name."""
    return UserError(_unknown(f"`{name}` is not a scheduler", name, known))


def _unknown(problem: str, key: str, known: Iterable[str]) -> str:
    import difflib  # brings `re`, which only this error needs

    near = difflib.get_close_matches(key, list(known), n=1)
    return f"{problem}; did you mean `{near[0]}`?" if near else f"{problem}; known are {', '.join(sorted(known))}"


def whole_steps(fraction: float, total_steps: float, *, at_least: int = 0) -> int:
    """Return `int(fraction * total_steps)`, steps: rounded down, as published.

    The product may fall a rounding error short of the whole number that was meant (0.29 * 100 is less than 29); what is
    within 1e-12 of it, relatively, counts as that number. So steps written as a fraction come back exactly.
    """
    return max(at_least, math.floor(fraction * total_steps * (1 + 1e-12)))


def steps_and_fraction(
    name: str, doc: str, *, fraction: float | None = None, low: int = 0, whole: bool = True
) -> tuple[SettingSpec, SettingSpec]:
    """Return the two forms of a time-like setting of at least `low` steps.

    `fraction` is the default, on the fraction form. A fraction that comes out below `low` steps counts as `low`.
    """
    steps = SettingSpec(
        name=name, kind="int" if whole else "float", doc=f"{doc}; in steps", group=name, unit="steps", low=low
    )
    share = SettingSpec(
        name=f"{name}_fraction",
        kind="float",
        doc=f"{doc}; as a fraction of the run",
        group=name,
        unit="fraction",
        low=0.0,
        low_open=low > 0,
        high=1.0,
        default=fraction,
    )
    return steps, share


def resolve_steps(values: Mapping[str, Setting], name: str, total_steps: float, *, at_least: int = 0) -> int:
    """Return the time-like setting `name` in whole steps, from whichever form is in `values`; 0 where neither is."""
    if name in values:
        return int(values[name])
    return whole_steps(float(values.get(f"{name}_fraction", 0.0)), total_steps, at_least=at_least)
