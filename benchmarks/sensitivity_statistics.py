"""How much a setting matters: values along its range, differences to the best setting, its share of the importance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from tuner.analysis.confirmation import confirm
from tuner.names import Setting
from tuner.search.space import Parameter

FLAT = 0.005
FAILED = 0.5
"""What a run that failed counts as: the accuracy of a coin."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting at one value: the mean difference of accuracy to the best setting, with its interval (95 %).

    The interval is for this point alone; None where the seeds do not differ, or there is one only.
    """

    level: Setting
    difference: float
    low: float | None
    high: float | None

    @property
    def flat(self) -> bool:
        """Whether the mean loss is within what counts as none."""
        return self.difference >= -FLAT


def levels(entry: Parameter, number: int) -> list[Setting]:
    """Return a parameter's choices, or `number` values over its range, both ends included."""
    domain = entry.domain
    if domain.choices is not None:
        return list(domain.choices)
    low, high = domain.ends()
    spaced = np.geomspace(low, high, number) if domain.log else np.linspace(low, high, number)
    if entry.whole:
        return sorted({round(float(value)) for value in spaced})
    ends = {0: float(low), number - 1: float(high)}  # exact, whatever the spacing rounds to
    return [ends.get(index, float(value)) for index, value in enumerate(spaced)]


def points(varied: Sequence[Sequence[Mapping[str, Any]]], *, centre: Mapping[str, Setting]) -> dict[str, list[Point]]:
    """Return the points of each setting, the best one's own value among them, in order of their values.

    `varied` has a row for each seed: the best setting first, then the same variations in the same order.
    """
    matrix = [
        [FAILED if row[column]["value"] is None else row[column]["value"] for row in varied]
        for column in range(len(varied[0]))
    ]
    found = confirm(
        matrix, published=0, chosen=list(range(1, len(matrix))), searched=[None] * len(matrix), maximize=True
    )
    by_name: dict[str, list[Point]] = {}
    for column, entry in enumerate(varied[0]):
        gain = found.gains[column]
        if gain is None:  # the best setting itself
            continue
        reach = gain.interval
        by_name.setdefault(entry["varied"], []).append(
            Point(
                level=entry["level"],
                difference=gain.mean,
                low=None if reach is None else reach.low,
                high=None if reach is None else reach.high,
            )
        )
    for name, row in by_name.items():
        if centre[name] not in [point.level for point in row]:
            row.append(Point(level=centre[name], difference=0.0, low=None, high=None))
        row.sort(key=lambda point: (isinstance(point.level, str), point.level))
    return by_name


def flat_region(row: Sequence[Point], centre: Setting) -> tuple[Setting, Setting]:
    """Return the first and the last value of the flat stretch around the best setting's own."""
    at = [point.level for point in row].index(centre)
    first = last = at
    while first > 0 and row[first - 1].flat:
        first -= 1
    while last < len(row) - 1 and row[last + 1].flat:
        last += 1
    return row[first].level, row[last].level


def importances(entries: Sequence[Parameter], drawn: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return each parameter's PED-ANOVA share over the random settings that did not fail, the better quarter wanted."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    distributions = {entry.name: entry.distribution() for entry in entries}
    for each in drawn:
        if each["value"] is not None:
            study.add_trial(
                optuna.create_trial(params=dict(each["params"]), distributions=distributions, value=each["value"])
            )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    return {
        name: float(share)
        for name, share in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
    }


def table(
    found: Mapping[str, Sequence[Point]],
    shares: Mapping[str, float],
    *,
    centre: Mapping[str, Setting],
    entries: Sequence[Parameter],
) -> str:
    """Return a row for each setting, the most important first, then its points."""
    lines = [
        f"| setting | importance | best | flat: loses {FLAT} at most | range searched | worst value of it loses |",
        "|---|---|---|---|---|---|",
    ]
    domains = {entry.setting: entry.domain for entry in entries}
    for name in sorted(found, key=lambda name: -shares.get(name, 0.0)):
        row, domain = found[name], domains.get(name)
        first, last = flat_region(row, centre[name])
        worst = min(row, key=lambda point: point.difference)
        searched = "" if domain is None else f"{_text(domain.corners()[0])} to {_text(domain.corners()[-1])}"
        share = f"{shares[name]:.2f}" if name in shares else ""
        lines.append(
            f"| {name} | {share} | {_text(centre[name])} | {_text(first)} to {_text(last)} "
            f"| {searched} | {-worst.difference:.4f} (at {_text(worst.level)}) |"
        )
    lines += ["", "| setting | value | difference to the best setting [interval] |", "|---|---|---|"]
    for name, row in found.items():
        for point in row:
            reach = "" if point.low is None else f" [{point.low:+.4f}, {point.high:+.4f}]"
            lines.append(f"| {name} | {_text(point.level)} | {point.difference:+.4f}{reach} |")
    return "\n".join(lines)


def _text(value: Setting) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
