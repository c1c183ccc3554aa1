"""How numbers, settings and durations are said to people, the same in tables, reports and sentences."""

from collections.abc import Collection, Mapping

from tuner.names import Setting


def short(value: object) -> str:
    """Return a value in at most three digits, nothing for None."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def fixed(value: float) -> str:
    """Return a metric's value, or a difference of two, to four places; where it is large or tiny, in few digits."""
    if value == 0 or 5e-5 <= abs(value) < 1e3:
        return f"{value:.4f}"
    return f"{value:.5g}" if abs(value) >= 1 else f"{value:.1g}"


def plain(name: str) -> str:
    """Return a parameter's or a metric's name in words: `fastface.patience_fraction` is "fastface patience"."""
    return name.removesuffix("_fraction").replace("_", " ").replace(".", " ")


def setting_line(params: Mapping[str, Setting]) -> str:
    """Return searched parameters as one short line; "published setting" where there are none."""
    return _line(params) or "published setting"


def own_line(params: Mapping[str, Setting], names: Collection[str] | None = None) -> str:
    """Return those searched parameters that belong to a single scheduler (`cosine.final_factor`) as one short line.

    `names` leaves out others; empty where there are none.
    """
    return _line({name: params[name] for name in params if "." in name and (names is None or name in names)})


def count(number: int, thing: str) -> str:
    """Return how many of a thing there are: "1 trial", "12,000 steps"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a time span in the unit that suits it, seconds to days."""
    for limit, size, unit in ((90, 1, "seconds"), (90 * 60, 60, "minutes"), (72 * 3600, 3600, "hours")):
        if seconds < limit:
            amount = seconds / size
            return f"{amount:.1f} {unit}" if amount < 10 and size > 1 else f"{amount:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"


def brief_duration(seconds: float) -> str:
    """Return a time span for a column: "42 s", "12.5 min", "3.1 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def listed(words: list[str]) -> str:
    """Return words as an enumeration: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _line(params: Mapping[str, Setting]) -> str:
    return ", ".join(f"{plain(name.rpartition('.')[2])} {short(value)}" for name, value in params.items())
