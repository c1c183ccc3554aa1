"""What a report is made from: everything that ledger and files say of a sweep, and what several figures need of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tuner.analysis.confirmed import Confirmation
from tuner.analysis.summary import ranked
from tuner.analysis.verdict import Verdict, judge
from tuner.analysis.words import fixed, plain, setting_line
from tuner.names import Setting
from tuner.trials import TrialRecord

SHADES: Final = 5
"""Trials are shaded by rank in so many groups, the best fifth strongest."""
_LABEL_WIDTH: Final = 46
"""Characters of a line on hover; more would not fit a phone."""

Facts = Sequence[tuple[str, str]]
"""What is known of something: names and values, in order."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """A sweep as a report needs it.

    `argument` stands for it on the command line. `confirmation` is what new seeds said, `chosen` the number of the
    trial to train with, and `run` its run as YAML: None and empty where no trial has finished. `curves` are the trials'
    curve files; a trial that repeats another has the other's. `label` begins the names of its trials in `shared_with`.
    `environment`, `data` and `search` are facts to print, `commands` repeat the sweep.
    """

    name: str
    argument: str
    question: str
    metric: str
    maximize: bool
    steps: int
    records: Sequence[TrialRecord]
    study: optuna.Study
    confirmation: Confirmation | None
    chosen: int | None
    run: str
    curves: Mapping[int, Path]
    label: str
    environment: Facts
    data: Facts
    search: Facts
    commands: Sequence[str]
    space_text: str

    @cached_property
    def verdict(self) -> Verdict:
        """The answer."""
        return judge(self.records, metric=self.metric, maximize=self.maximize)

    @cached_property
    def ranked(self) -> list[TrialRecord]:
        """The trials, best first, those without a value last."""
        return ranked(self.records, maximize=self.maximize)

    @cached_property
    def complete(self) -> list[TrialRecord]:
        """The trials that have a value, by number."""
        return [record for record in self.records if record.value is not None]

    @cached_property
    def shades(self) -> dict[int, int]:
        """The shade of each trial with a value, 0 for the worst fifth to `SHADES - 1` for the best."""
        valued = [record.number for record in self.ranked if record.value is not None]
        return {number: SHADES - 1 - SHADES * place // len(valued) for place, number in enumerate(valued)}

    @cached_property
    def best(self) -> int | None:
        """The number of the best trial."""
        return None if self.verdict.best is None else self.verdict.best.number

    @cached_property
    def reference(self) -> int | None:
        """The number of the published setting's trial where it is not the best one itself."""
        found = self.verdict.reference
        return None if found is None or found.number == self.best else found.number

    @cached_property
    def axes(self) -> list["Axis"]:
        """The parameters that differ between trials, in the order in which they were first drawn."""
        domains: dict[str, BaseDistribution] = {}
        for trial in self.study.get_trials(deepcopy=False):
            domains |= trial.distributions
        axes = [Axis.of(name, domain) for name, domain in domains.items()]
        return [axis for axis in axes if len({record.params.get(axis.name) for record in self.complete} - {None}) > 1]

    @property
    def metric_words(self) -> str:
        """The metric's name in words."""
        return plain(self.metric)

    def mark(self, number: int) -> str:
        """Return a trial's number for the side of a row, with the sign of the best or of the published setting."""
        sign = {self.best: "★ ", self.reference: "◆ "}.get(number, "")
        return f"{sign}{number}"

    def label_of(self, record: TrialRecord) -> str:
        """Return what a figure says of a trial on hover, as a few short lines of plain text."""
        value = record.state.lower() if record.value is None else f"{self.metric_words} {fixed(record.value)}"
        mark = " (published)" if record.reference else ""
        lines = wrap(setting_line(record.params), _LABEL_WIDTH, break_on_hyphens=False)
        return "\n".join([f"trial {record.number}{mark} · {value}", *lines])


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A searched parameter on paper: a range with two ends, logarithmic or not, or choices."""

    name: str
    title: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Setting, ...] = ()

    @classmethod
    def of(cls, name: str, domain: BaseDistribution) -> "Axis":
        """Return the axis of a parameter as the study describes it."""
        if isinstance(domain, CategoricalDistribution):
            choices = tuple(each for each in domain.choices if isinstance(each, int | float | str))
            numbers = all(isinstance(each, int | float) for each in choices)
            return cls(name=name, title=plain(name), choices=tuple(sorted(choices)) if numbers else choices)
        assert isinstance(domain, FloatDistribution | IntDistribution)  # noqa: S101 - Optuna has no others
        return cls(name=name, title=plain(name), low=float(domain.low), high=float(domain.high), log=domain.log)

    def place(self, value: Setting) -> float:
        """Return where a value lies between the ends, 0 to 1; choices stand at equal distances."""
        if self.choices:
            return self.choices.index(value) / max(1, len(self.choices) - 1)
        scale = math.log if self.log else float
        low, high = scale(self.low), scale(self.high)
        return (scale(float(value)) - low) / (high - low) if high > low else 0.5

    def layout(self) -> dict[str, Any]:
        """Return the axis as plotly.js takes it, with ticks that can be read as they stand."""
        if self.choices:
            order = [str(each) for each in self.choices]
            return {"title": {"text": self.title}, "type": "category", "categoryorder": "array", "categoryarray": order}
        margin = 0.04
        if not self.log:
            wide = margin * (self.high - self.low)
            return {"title": {"text": self.title}, "range": [self.low - wide, self.high + wide], "minexponent": 4}
        low, high = math.log10(self.low), math.log10(self.high)
        ticks = _log_ticks(self.low, self.high)
        return {
            "title": {"text": self.title},
            "type": "log",
            "range": [low - margin * (high - low), high + margin * (high - low)],
            "tickvals": ticks,
            "ticktext": [f"{tick:g}" for tick in ticks],
        }

    def shown(self, value: Setting) -> float | str:
        """Return a value as a figure's axis takes it: choices are words, though they may be numbers."""
        return str(value) if self.choices else float(value)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two ends, about five of them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 6:
            return ticks
    return ticks[:: math.ceil(len(ticks) / 6)]
