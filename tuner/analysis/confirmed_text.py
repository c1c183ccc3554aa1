"""A confirmation in words and as a table."""

from dataclasses import replace
from typing import Final

from tuner.analysis.confirmation import LEVEL, Gain, Interval, Mean
from tuner.analysis.confirmed import Confirmation, Contender
from tuner.analysis.grid import Column, Grid
from tuner.analysis.words import brief_duration, count, fixed, plain, setting_line

_LEVEL: Final = f"{100 * LEVEL:.0f} %"
_SEARCH, _SPREAD, _P = 1, 2, 3
"""Ranks of columns: what is left out first where a terminal is narrow comes last."""


def verdict(confirmation: Confirmation) -> str:
    """Return what was found, in a sentence or three."""
    parts = [_winner(confirmation), _luck(confirmation), _baseline(confirmation)]
    return " ".join(part for part in parts if part)


def headline(confirmation: Confirmation) -> str:
    """Return which setting to train with, and its mean under the new seeds, in a sentence."""
    best = confirmation.best
    mean = None if best is None else confirmation.findings.means[best]
    if best is None or mean is None:
        return "No setting trained to its end with a new seed."
    contender = confirmation.contenders[best]
    what = f"the published setting of {contender.scheduler}" if contender.role == "published" else in_words(contender)
    span = "" if mean.interval is None else f" ({_LEVEL}: {_span(mean.interval)})"
    value = f"{plain(confirmation.metric)} {fixed(mean.mean)}{span}"
    return f"Train with {what}: {value} with {count(len(confirmation.seeds), 'new seed')}."


def lines(confirmation: Confirmation) -> list[str]:
    """Return what stands below the table: the verdict, what it cost, what failed, and what else there is to know."""
    cost, found = confirmation.cost, confirmation.findings
    shared = f"{cost.shared} of {cost.steps} steps were shared ({_percent(cost.shared / max(1, cost.steps))})"
    again = f", {cost.repeated} of them again" if cost.repeated else ""
    said = [
        verdict(confirmation),
        f"cost: {cost.runs} runs, {cost.executed} steps trained{again}; {shared}; {brief_duration(cost.seconds)}",
    ]
    winner = found.winner
    if winner is not None and winner.corrected_value is not None and len(confirmation.chosen) > 1:
        gain = "" if winner.corrected_gain is None else f", {winner.corrected_gain:+.4f} over the published setting"
        said.append(
            f"these seeds named {confirmation.contenders[winner.index].name} best of {len(confirmation.chosen)}; "
            f"corrected for that, its {confirmation.metric} is {winner.corrected_value:.4f}{gain}"
        )
    settings = [line for each in confirmation.contenders if (line := _setting(each)) is not None]
    return [*said, *settings, *confirmation.failures, *confirmation.notes]


def grid(confirmation: Confirmation) -> Grid:
    """Return the settings as a table: what the search saw, the mean of the new seeds, and the gain over the published.

    A setting to train with is marked with a star.
    """
    found, rows = confirmation.findings, list(enumerate(confirmation.contenders))
    means, gains = found.means, found.gains
    marks = [" *" if row == confirmation.best else "" for row, _ in rows]
    columns = [
        Column("setting", [f"{each.name}{marks[row]}" for row, each in rows], kind="name"),
        Column("search", ["-" if each.searched is None else fixed(each.searched) for _, each in rows], _SEARCH),
        Column("mean", [_mean(mean, of=len(confirmation.seeds)) for mean in means]),
        Column(_LEVEL, [_span(None if mean is None else mean.interval) for mean in means], _SPREAD),
        Column("gain", ["-" if gain is None else _signed(gain.mean) for gain in gains]),
        Column(f"{_LEVEL}, corrected", [_span(None if gain is None else gain.corrected, sign=True) for gain in gains]),
        Column("p", [_p(gain) for gain in gains], _P),
    ]
    return Grid(_title(confirmation), columns, _caption(confirmation))


def markdown(confirmation: Confirmation) -> str:
    """Return table, verdict and the rest as Markdown."""
    first, *rest = lines(confirmation)
    table = replace(grid(confirmation), title="").as_markdown()
    return "\n".join([f"# {_title(confirmation)}", "", first, "", table, *(f"- {line}" for line in rest), ""])


def in_words(contender: Contender) -> str:
    """Return name, scheduler and searched parameters of a contender in one line."""
    params = {key: value for key, value in contender.params.items() if key != "scheduler"}
    trial = [] if contender.role != "published" or contender.trial is None else [f"trial {contender.trial}"]
    scheduler = [] if contender.name == contender.scheduler else [contender.scheduler]
    about = ", ".join([*trial, *scheduler, *([setting_line(params)] if params else [])])
    return f"{contender.name} ({about})" if about else contender.name


def _setting(contender: Contender) -> str | None:
    """Return in a line what the table's name of a contender stands for; None where it says all."""
    same = "; the same run: trial " + ", ".join(map(str, contender.same_as)) if contender.same_as else ""
    return f"{in_words(contender)}{same}" if in_words(contender) != contender.name or same else None


def _title(confirmation: Confirmation) -> str:
    seeds = count(len(confirmation.seeds), "new seed")
    return f"{confirmation.sweep}: {confirmation.metric} after {count(confirmation.steps, 'step')} with {seeds}"


def _caption(confirmation: Confirmation) -> str:
    families = {gain.family for gain in confirmation.findings.gains if gain is not None}
    corrected = f"corrected and p: for {len(confirmation.chosen)} settings at once" if families - {1} else ""
    if any(each.role == "baseline" for each in confirmation.contenders) and corrected:
        corrected += ", baselines on their own"
    parts = ["* best", "gain: over the published setting, paired by seed, positive is better", corrected]
    return "; ".join(part for part in parts if part)


def _winner(confirmation: Confirmation) -> str:
    found, several = confirmation.findings, len(confirmation.chosen)
    if found.winner is None:
        return "None of the settings that the search picked trained to its end with a new seed."
    name, gain = _capital(confirmation.contenders[found.winner.index].name), found.gains[found.winner.index]
    among = f", the best of {several}," if several > 1 else ""
    if gain is None:
        return f"{name}{among} cannot be compared: the published setting failed under the same seeds."
    if gain.corrected is None:
        cause = "one new seed says nothing certain" if gain.pairs == 1 else "the difference does not vary with the seed"
        return f"{name}{among} gains {gain.mean:+.4g} over the published setting, but {cause}; give more --seeds."
    choosing = f", corrected for choosing among {gain.family}" if gain.family > 1 else ""
    low, high = gain.corrected.low, gain.corrected.high
    if low > 0:
        return f"{name} is better than the published setting by {_amount(low)} to {_amount(high)} ({_LEVEL}{choosing})."
    if high < 0:
        return (
            f"The published setting is the best: {name[0].lower()}{name[1:]}{among} is worse by {_amount(-high)} to "
            f"{_amount(-low)} ({_LEVEL}{choosing})."
        )
    return (
        f"No setting is shown to be better than the published one: {name[0].lower()}{name[1:]}{among} gains between "
        f"{_amount(low)} and {_amount(high)} over it ({_LEVEL}{choosing})."
    )


def _luck(confirmation: Confirmation) -> str:
    luck, winner = confirmation.findings.luck, confirmation.findings.winner
    if luck.share is None or luck.promised is None or luck.index is None:
        return "" if luck.reason is None else f"{_capital(luck.reason)}."
    whose = (
        "" if winner is not None and winner.index == luck.index else f" for {confirmation.contenders[luck.index].name}"
    )
    reach = ""
    if luck.interval is not None:
        reach = f" ({_LEVEL}: {100 * luck.interval.low:.0f} to {_percent(luck.interval.high)})"
    promise = f"Of the {_amount(luck.promised)} that the search promised{whose}"
    if luck.interval is not None and luck.interval.low <= 0 and luck.interval.high >= 1:
        return f"{promise}, these seeds cannot tell how much was luck{reach}."
    if luck.share <= 0:
        return f"{promise}, nothing was luck{reach}."
    return f"{promise}, {'all' if luck.share >= 1 else _share(luck.share)} was luck{reach}."


def _baseline(confirmation: Confirmation) -> str:
    """Name the baseline that did better than everything else, where there is one."""
    found, best = confirmation.findings, confirmation.best
    sign = 1 if confirmation.maximize else -1
    means = {
        row: sign * mean.mean
        for row, mean in enumerate(found.means)
        if mean is not None and (row == best or confirmation.contenders[row].role == "baseline")
    }
    top = max(means, key=lambda row: means[row], default=best)
    if top is None or top == best or best not in means:
        return ""
    return f"The baseline {confirmation.contenders[top].name} has a better mean still: {abs(means[top]):.4f}."


def _share(share: float) -> str:
    words = (
        (1 / 4, "a quarter"),
        (1 / 3, "a third"),
        (1 / 2, "half"),
        (2 / 3, "two thirds"),
        (3 / 4, "three quarters"),
    )
    near = next((word for value, word in words if abs(value - share) < 0.03), None)
    return near or _percent(share)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _amount(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 10 else f"{value:.4g}"


def _mean(mean: Mean | None, *, of: int) -> str:
    if mean is None:
        return "failed"
    return fixed(mean.mean) if mean.seeds == of else f"{fixed(mean.mean)} (n={mean.seeds})"


def _span(interval: Interval | None, *, sign: bool = False) -> str:
    if interval is None:
        return "-"
    form = _signed if sign else fixed
    return f"{form(interval.low)} to {form(interval.high)}"


def _signed(value: float) -> str:
    return f"{'' if value < 0 else '+'}{fixed(value)}"


def _p(gain: Gain | None) -> str:
    if gain is None or gain.corrected_p is None:
        return "-"
    p = gain.corrected_p
    return "<0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
