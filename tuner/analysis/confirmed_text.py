"""A confirmation in words and as a table."""

from rich.table import Table

from tuner.analysis.confirmation import LEVEL, Interval
from tuner.analysis.confirmed import Confirmation, Contender
from tuner.names import Setting

_LEVEL = f"{100 * LEVEL:.0f} %"


def verdict(confirmation: Confirmation) -> str:
    """Return what was found, in a sentence or three."""
    parts = [_winner(confirmation), _luck(confirmation), _baseline(confirmation)]
    return " ".join(part for part in parts if part)


def lines(confirmation: Confirmation) -> list[str]:
    """Return what stands below the table: the verdict, what it cost, what failed, and what else there is to know."""
    cost, found = confirmation.cost, confirmation.findings
    shared = f"{cost.shared} of {cost.steps} steps were shared ({_percent(cost.shared / max(1, cost.steps))})"
    again = f", {cost.repeated} of them again" if cost.repeated else ""
    said = [
        verdict(confirmation),
        f"cost: {cost.runs} runs, {cost.executed} steps trained{again}; {shared}; {_time(cost.seconds)}",
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


def table(confirmation: Confirmation) -> Table:
    """Return the settings as a terminal table: what the search saw, the mean of the new seeds, and the difference."""
    view = Table(
        title=_title(confirmation),
        caption=_caption(confirmation),
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,
        header_style="bold",
    )
    for number, heading in enumerate(_HEADINGS):
        view.add_column(heading, justify="left" if number == 0 else "right", min_width=max(map(len, heading.split())))
    for row in _rows(confirmation):
        view.add_row(*row)
    return view


def markdown(confirmation: Confirmation) -> str:
    """Return title, verdict, table and the rest as Markdown."""
    rows = [_HEADINGS, ["---", *["---:"] * (len(_HEADINGS) - 1)], *_rows(confirmation)]
    grid = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    first, *rest = lines(confirmation)
    return "\n".join(
        [
            f"# {_title(confirmation)}",
            "",
            first,
            "",
            *grid,
            "",
            _caption(confirmation),
            "",
            *[f"- {x}" for x in rest],
            "",
        ]
    )


def short(contender: Contender) -> str:
    """Return name, scheduler and searched parameters of a contender in one line."""
    parts = [f"{_word(key)} {_number(value)}" for key, value in contender.params.items() if key != "scheduler"]
    scheduler = [] if contender.name == contender.scheduler else [contender.scheduler]
    trial = [] if contender.role != "published" or contender.trial is None else [f"trial {contender.trial}"]
    about = ", ".join([*trial, *scheduler, *parts])
    return f"{contender.name} ({about})" if about else contender.name


def _setting(contender: Contender) -> str | None:
    """Return in a line what the table's name of a contender stands for; None where it says all."""
    same = "; the same run: trial " + ", ".join(map(str, contender.same_as)) if contender.same_as else ""
    return f"{short(contender)}{same}" if short(contender) != contender.name or same else None


_HEADINGS = ["setting", "search", "mean", _LEVEL, "gain", f"{_LEVEL}, corrected", "p"]


def _rows(confirmation: Confirmation) -> list[list[str]]:
    found, rows = confirmation.findings, []
    for row, each in enumerate(confirmation.contenders):
        mean, gain = found.means[row], found.gains[row]
        mark = " *" if row == confirmation.best else ""
        missing = "" if mean is None or mean.seeds == len(confirmation.seeds) else f" (n={mean.seeds})"
        rows.append(
            [
                f"{each.name}{mark}",
                "-" if each.searched is None else f"{each.searched:.4f}",
                "failed" if mean is None else f"{mean.mean:.4f}{missing}",
                _span(None if mean is None else mean.interval),
                "-" if gain is None else f"{gain.mean:+.4f}",
                _span(None if gain is None else gain.corrected, sign=True),
                "-" if gain is None or gain.corrected_p is None else _p(gain.corrected_p),
            ]
        )
    return rows


def _title(confirmation: Confirmation) -> str:
    count = len(confirmation.seeds)
    seeds = f"{count} new seeds" if count > 1 else "one new seed"
    return f"{confirmation.sweep}: {confirmation.metric} after {confirmation.steps} steps with {seeds}"


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


def _span(interval: Interval | None, *, sign: bool = False) -> str:
    if interval is None:
        return "-"
    form = "+.4f" if sign else ".4f"
    return f"{interval.low:{form}} to {interval.high:{form}}"


def _p(p: float) -> str:
    return "<0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def _word(key: str) -> str:
    return key.rpartition(".")[2].removesuffix("_fraction").replace("_", " ")


def _number(value: Setting) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{rest} s" if not minutes else f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
