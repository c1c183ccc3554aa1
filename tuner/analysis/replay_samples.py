"""What a search space would do: configurations drawn from it, replayed over a recorded loss curve, and counted.

Drawing is uniform, in the logarithm where the space says so, and each scheduler of a space is as likely as any other.
"""

import hashlib
import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from tuner.analysis.loss_log import LossLog
from tuner.analysis.replay import Progress
from tuner.analysis.replay_batch import FactorChanges, replay_batch
from tuner.config.space_check import whole
from tuner.config.space_model import Domain, SpaceFile
from tuner.names import Setting
from tuner.schedulers.registry import Schedule, defaults, resolve, setting_names

COLLAPSED = 1e-3
"""LR factor below which a schedule counts as collapsed, if it comes before half of the run."""

_MANY = 1000
_QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one configuration does: `first_decay` as a fraction of the run, None for none; `schedule` is a digest.

    `collapsed`: before half of the run the LR is below `COLLAPSED` of its base, or at the floor that was set.
    """

    scheduler: str
    first_decay: float | None
    num_decays: int
    collapsed: bool
    schedule: bytes


def draw(
    space: SpaceFile,
    *,
    num: int,
    seed: int = 0,
    scheduler: str | None = None,
    pinned: Mapping[str, Setting] | None = None,
) -> list[tuple[str, dict[str, Setting]]]:
    """Return `num` configurations of the space: scheduler and settings, the fixed ones included.

    `scheduler` draws from that one only; `pinned` settings replace what the space says of them, in any of their forms.
    """
    source = random.Random(seed)  # noqa: S311 - for sampling, not for secrets
    entries = [entry for entry in space.schedulers if scheduler in (None, entry.name)]
    drawn = []
    for _ in range(num):
        entry = source.choice(entries)
        values = {key: _value(domain, source, whole=whole(entry.name, key)) for key, domain in entry.parameters.items()}
        drawn.append((entry.name, pin(entry.name, {**entry.fixed, **values}, pinned or {})))
    return drawn


def pin(scheduler: str, settings: Mapping[str, Setting], pinned: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return `settings` with `pinned` in their place; a setting that is pinned in another form goes too."""
    specs = setting_names(scheduler)
    groups = {specs[name].group for name in pinned if name in specs}
    return {**{name: value for name, value in settings.items() if specs[name].group not in groups}, **pinned}


def _value(domain: Domain, source: random.Random, *, whole: bool) -> Setting:
    if domain.choices is not None:
        return source.choice(domain.choices)
    low, high = domain.ends()
    if domain.log:
        margin = 0.5 if whole else 0.0  # so that the ends are as likely as what lies between them
        value = math.exp(source.uniform(math.log(low - margin), math.log(high + margin)))
        return min(int(high), max(int(low), round(value))) if whole else min(high, max(low, value))
    step = domain.step or (1 if whole else None)
    return source.uniform(low, high) if step is None else low + step * source.randint(0, round((high - low) / step))


def outcomes(
    configurations: Sequence[tuple[str, Mapping[str, Setting]]],
    log: LossLog,
    *,
    total_steps: int,
    delay: int,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Replay each configuration over the log, as a run of `total_steps`."""
    schedules = [resolve(name, settings, total_steps=total_steps) for name, settings in configurations]
    found = []
    for index, (schedule, changes) in enumerate(zip(schedules, replay_batch(schedules, log, delay=delay), strict=True)):
        found.append(_outcome(schedule, configurations[index][1], changes, total_steps))
        if progress is not None:
            progress((index + 1) / len(schedules))
    return found


def _outcome(schedule: Schedule, settings: Mapping[str, Setting], changes: FactorChanges, total_steps: int) -> Outcome:
    before = np.concatenate([[changes.first], changes.factors[:-1]])
    decays = np.flatnonzero(changes.factors < before)
    half = int(np.searchsorted(changes.places, total_steps // 2, side="right"))
    at_half = float(changes.factors[half - 1]) if half else changes.first
    floor = settings.get("floor", defaults(schedule.name).get("floor", 0.0))
    lowest = max(COLLAPSED, floor) if isinstance(floor, int | float) else COLLAPSED
    digest = hashlib.blake2b(changes.places.tobytes() + changes.factors.tobytes(), digest_size=16)
    digest.update(repr(changes.first).encode())
    return Outcome(
        scheduler=schedule.name,
        first_decay=float(changes.places[decays[0]]) / total_steps if len(decays) else None,
        num_decays=len(decays),
        collapsed=at_half <= lowest,
        schedule=digest.digest(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Outcomes counted: shares between 0 and 1, and 10, 50 and 90 % quantiles; `first_decay` is of those that decay."""

    configurations: int
    never_decays: float
    collapses: float
    first_decay: tuple[float, ...] | None
    num_decays: tuple[int, ...]
    distinct: int

    def as_data(self) -> dict[str, Any]:
        """Return the summary as JSON-like data."""
        names = [f"p{round(100 * quantile)}" for quantile in _QUANTILES]
        return {
            "configurations": self.configurations,
            "never_decays": self.never_decays,
            "collapses": self.collapses,
            "first_decay": None if self.first_decay is None else dict(zip(names, self.first_decay, strict=True)),
            "num_decays": dict(zip(names, self.num_decays, strict=True)),
            "distinct_schedules": self.distinct,
        }


def summarise(found: Iterable[Outcome]) -> Summary:
    """Count outcomes, of which there must be at least one."""
    entries = list(found)
    first = [entry.first_decay for entry in entries if entry.first_decay is not None]
    decays = np.quantile([entry.num_decays for entry in entries], _QUANTILES, method="nearest")
    return Summary(
        configurations=len(entries),
        never_decays=(len(entries) - len(first)) / len(entries),
        collapses=sum(entry.collapsed for entry in entries) / len(entries),
        first_decay=tuple(float(q) for q in np.quantile(first, _QUANTILES)) if first else None,
        num_decays=tuple(int(number) for number in decays),
        distinct=len({entry.schedule for entry in entries}),
    )


def by_scheduler(found: Sequence[Outcome]) -> dict[str, Summary]:
    """Return a summary for each scheduler, in the order of their numbers."""
    counts = Counter(entry.scheduler for entry in found)
    return {name: summarise(entry for entry in found if entry.scheduler == name) for name, _ in counts.most_common()}


def samples_table(summaries: Mapping[str, Summary]) -> Table:
    """Return the summaries as a terminal table, one row for each scheduler."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("scheduler")
    for heading in ("drawn", "no decay", "collapse", "first decay at", "decays", "distinct"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, summary in summaries.items():
        table.add_row(
            name,
            f"{summary.configurations:,}",
            f"{summary.never_decays:.1%}",
            f"{summary.collapses:.1%}",
            "-" if summary.first_decay is None else " / ".join(f"{value:.0%}" for value in summary.first_decay),
            " / ".join(_decays(value) for value in summary.num_decays),
            f"{summary.distinct:,}",
        )
    return table


SAMPLES_LEGEND = (
    f"collapse: LR at most {COLLAPSED:g} of its base, or at its floor, before half of the run",
    "first decay (of those that decay) and decays: 10 / 50 / 90 % quantiles",
)


def reference_line(outcome: Outcome) -> str:
    """Return in one line what the published setting of a scheduler does."""
    if outcome.first_decay is None:
        return f"published {outcome.scheduler}: never decays"
    decays = f"{_decays(outcome.num_decays)} decay{'' if outcome.num_decays == 1 else 's'}"
    return f"published {outcome.scheduler}: first decay at {outcome.first_decay:.0%} of the run, {decays}"


def _decays(number: int) -> str:
    """Return a number of decays; where the LR falls all the time, as in a cosine, the number says nothing."""
    return str(number) if number < _MANY else "many"
