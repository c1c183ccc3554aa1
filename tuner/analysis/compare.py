"""The trials of sweeps, best first, and the sweeps side by side: as rows for programs and as tables for people."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tuner.analysis.collected import CollectedSweep, Shown
from tuner.analysis.grid import Column, Grid
from tuner.analysis.sharing import NOT_BITWISE
from tuner.analysis.summary import Summary
from tuner.analysis.target import Target
from tuner.analysis.words import fixed, own_line, plain, short
from tuner.names import Setting
from tuner.trials import TrialRecord

SCHEDULER = "scheduler"
_PARAMETER, _COST, _TIME, _SHARED = 1, 2, 3, 4
"""Ranks of columns: what is left out first where a terminal is narrow comes last."""


def as_row(record: TrialRecord) -> dict[str, Any]:
    """Return a trial as a JSON-like row."""
    return {
        "trial": record.number,
        "state": record.state,
        "value": record.value,
        "scheduler": record.scheduler,
        "params": dict(record.params),
        "settings": dict(record.settings),
        "base_lr": None if math.isnan(record.base_lr) else record.base_lr,
        "metrics": dict(record.metrics),
        "steps_executed": record.steps_executed,
        "steps_repeated": record.steps_repeated,
        "steps_shared": record.steps_shared,
        "deterministic": record.deterministic,
        "seconds": round(record.seconds, 3),
        "run_id": record.run_id,
        "duplicate_of": record.duplicate_of,
        "reason": record.reason,
    }


def trial_grid(shown: Sequence[Shown], *, title: str = "", target: Target | None = None) -> Grid:
    """Return the trials in this order; parameters that do not differ between them are left out.

    Parameters that belong to one of several schedulers ("cosine.final_factor") share one column.
    """
    trials = [each.trial for each in shown]
    varied = differing([_settings_of(each.trial) for each in shown], [trial.params for trial in trials])
    own = [name for name in varied if "." in name]
    shared = [name for name in varied if "." not in name]
    sweeps = list(dict.fromkeys(each.sweep.name for each in shown))
    metrics = dict.fromkeys(each.sweep.metric for each in shown)
    notes = [_note(trial) for trial in trials]
    columns = [
        *([Column("sweep", [each.sweep.name for each in shown], kind="name")] if len(sweeps) > 1 else []),
        Column("trial", [f"{trial.number}{'*' if trial.reference else ' '}" for trial in trials]),
        Column(" or ".join(metrics) or "value", [_value(trial.value) for trial in trials]),
        *(
            Column(plain(name), [short(_settings_of(trial).get(name)) for trial in trials], _PARAMETER)
            for name in shared
        ),
        *([Column("setting", [own_line(trial.params, own) for trial in trials], _PARAMETER)] if own else []),
        *([Column("steps to target", [_count(each.target_steps) for each in shown])] if target else []),
        Column("trained", [str(trial.steps_executed) for trial in trials], _COST),
        Column("shared", [str(trial.steps_shared) for trial in trials], _SHARED),
        Column("time", [f"{trial.seconds:.0f} s" for trial in trials], _TIME),
        *([Column("note", notes, kind="prose")] if any(notes) else []),
    ]
    caption = [] if target is None else [f"target: {target}"]
    return Grid(title, columns, "; ".join([*caption, *_caption(varied, trials)]))


def sweep_grid(summaries: Sequence[Summary], *, target: Target | None = None) -> Grid:
    """Return the sweeps in this order, one in a row, with what differs in their making."""
    about = differing([each.sweep.about for each in summaries], [each.sweep.about for each in summaries])
    metrics = [_judged(each.sweep) for each in summaries]
    alike = len(set(metrics)) == 1
    reached = [each.target for each in summaries]
    columns = [
        Column("sweep", [each.sweep.name for each in summaries], kind="name"),
        *([] if alike else [Column("metric", metrics, kind="name")]),
        Column("trials", [f"{each.trials}{each.others}" for each in summaries]),
        Column("best", [_value(None if each.best is None else each.best.value) for each in summaries]),
        Column("median", [_value(each.median) for each in summaries]),
        Column("quartiles", [_range(each.quartiles) for each in summaries], _PARAMETER),
        *(
            [
                Column("steps to target", [_count(None if t is None else t.fewest_steps) for t in reached]),
                Column("search to target", [_count(None if t is None else t.search_steps) for t in reached], _COST),
            ]
            if target
            else []
        ),
        Column("trained", [str(each.steps_executed) for each in summaries], _COST),
        Column("shared", [str(each.steps_shared) for each in summaries], _SHARED),
        Column("minutes", [f"{each.seconds / 60:.1f}" for each in summaries], _COST),
        *(Column(name, [short(each.sweep.about.get(name)) for each in summaries], _PARAMETER) for name in about),
    ]
    caption = ["median and quartiles: of distinct runs"]
    if target:
        caption.append(f"to {target}: steps of the quickest trial, and steps that the search trained until then")
    return Grid(metrics[0] if alike else "", columns, "; ".join(caption))


def in_words(summary: Summary, *, target: Target | None = None) -> str:
    """Return a summary as a paragraph, for a sweep that stands alone."""
    parts = [f"{summary.trials} trial{'' if summary.trials == 1 else 's'}{summary.others}"]
    if summary.median is not None:
        parts.append(f"median {_value(summary.median)}")
    if summary.quartiles is not None:
        parts.append(f"quartiles {_range(summary.quartiles)} (of distinct runs)")
    minutes = f"{summary.seconds / 60:.1f} minutes"
    parts.append(f"{summary.steps_executed} steps trained, {summary.steps_shared} shared, {minutes}")
    reached = summary.target
    if target is not None and reached is not None and reached.fewest_steps is not None:
        pace = "" if reached.seconds is None else f" ({reached.seconds:.0f} s at the sweep's pace)"
        parts.append(
            f"{target} reached by {reached.reached}, in {reached.fewest_steps} steps{pace} by the quickest, and by the "
            f"search after {reached.search_steps} steps and {(reached.search_seconds or 0) / 60:.1f} minutes"
        )
    elif target is not None:
        parts.append(f"{target} reached by none")
    return "; ".join(parts)


def title_of(sweep: CollectedSweep) -> str:
    """Return what a single sweep's table is about."""
    about = sweep.about
    steps = f" after {about['steps']} steps" if "steps" in about else ""
    data = f" on {about['data']}" if "data" in about else ""
    return f"{sweep.name}: {sweep.metric}{steps}{data}"


def without_repeated_names(sweeps: Sequence[CollectedSweep]) -> list[CollectedSweep]:
    """Return the sweeps with names that tell them apart: the second of a name gets a number."""
    found: list[CollectedSweep] = []
    for sweep in sweeps:
        taken, name, number = {each.name for each in found}, sweep.name, 1
        while name in taken:
            number += 1
            name = f"{sweep.name} ({number})"
        found.append(replace(sweep, name=name))
    return found


def differing(settings: Sequence[Mapping[str, Setting]], searched: Sequence[Mapping[str, Setting]]) -> list[str]:
    """Return the names whose values differ; of those that were searched also where one lacks it."""
    names = dict.fromkeys(name for params in searched for name in params)
    found = [name for name in names if len({each.get(name) for each in settings}) > 1]
    # What is searched for one scheduler only, "cosine.final_factor", is told under that name.
    told = {name.rpartition(".")[2] for name in names}
    others = dict.fromkeys(name for each in settings for name in each if name not in told)
    found += [name for name in others if len({each[name] for each in settings if name in each}) > 1]
    return sorted(found, key=lambda name: name != SCHEDULER)


def _settings_of(trial: TrialRecord) -> Mapping[str, Setting]:
    """Return what was searched, and what else stood fixed."""
    known: dict[str, Setting] = {SCHEDULER: trial.scheduler} if trial.scheduler else {}
    if not math.isnan(trial.base_lr):
        known["base_lr"] = trial.base_lr
    return {**trial.settings, **known, **trial.params}


def _caption(varied: Sequence[str], trials: Sequence[TrialRecord]) -> list[str]:
    parts = ["trained, shared: training steps"]
    if any(name.endswith("_fraction") for name in varied):
        parts.append("windows and patience: fractions of the run; threshold: of the first loss over the run")
    if any(trial.reference for trial in trials):
        parts.append("* published setting")
    if any(trial.steps_shared and not trial.deterministic for trial in trials):
        parts.append(NOT_BITWISE)
    return parts


def _judged(sweep: CollectedSweep) -> str:
    return f"{sweep.metric}, {'more' if sweep.maximize else 'less'} is better"


def _value(value: float | None) -> str:
    return "-" if value is None else fixed(value)


def _range(ends: tuple[float, float] | None) -> str:
    return "-" if ends is None else f"{fixed(ends[0])} to {fixed(ends[1])}"


def _count(steps: int | None) -> str:
    return "-" if steps is None else str(steps)


def _note(trial: TrialRecord) -> str:
    if trial.state == "RUNNING":
        return "not finished"
    if trial.reason is not None:
        return f"failed: {trial.reason}"
    if trial.duplicate_of is not None:
        return f"same as trial {trial.duplicate_of}"
    return ""
