"""How numbers, settings and durations are said to people, the same in tables, reports and sentences."""

from collections.abc import Mapping

from tuner.names import Setting


def short(value: object) -> str:
    """Return a value in at most three digits, nothing for None."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def fixed(value: float) -> str:
    """Return a metric's value to four places, or to four digits where it is large or tiny."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e3 else f"{value:.4g}"


def plain(name: str) -> str:
    """Return a parameter's name in words: `fastface.patience_fraction` is "fastface patience"."""
    return name.removesuffix("_fraction").replace("_", " ").replace(".", " ")


def setting_line(params: Mapping[str, Setting]) -> str:
    """Return searched parameters as one short line; "published setting" where there are none."""
    return ", ".join(f"{plain(name)} {short(value)}" for name, value in params.items()) or "published setting"


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


def listed(words: list[str]) -> str:
    """Return words as an enumeration: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
