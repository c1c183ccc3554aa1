"""The trials of a sweep, best first, as rows for programs and as a table for people."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from tuner.trials import TrialRecord


def ranked(records: Sequence[TrialRecord], *, maximize: bool) -> list[TrialRecord]:
    """Return the trials best first; those without a value follow, in the order they were run."""
    sign = -1 if maximize else 1
    return sorted(
        records,
        key=lambda record: (record.value is None, 0 if record.value is None else sign * record.value, record.number),
    )


def as_rows(records: Sequence[TrialRecord], *, maximize: bool) -> list[dict[str, Any]]:
    """Return the ranked trials as JSON-like rows."""
    return [
        {
            "trial": record.number,
            "state": record.state,
            "value": record.value,
            "scheduler": record.scheduler,
            "params": dict(record.params),
            "settings": dict(record.settings),
            "base_lr": record.base_lr,
            "metrics": dict(record.metrics),
            "steps_executed": record.steps_executed,
            "steps_repeated": record.steps_repeated,
            "steps_shared": record.steps_shared,
            "seconds": round(record.seconds, 3),
            "run_id": record.run_id,
            "duplicate_of": record.duplicate_of,
            "reason": record.reason,
        }
        for record in ranked(records, maximize=maximize)
    ]


def table(records: Sequence[TrialRecord], *, maximize: bool, metric: str, title: str) -> Table:
    """Return the ranked trials as a terminal table; parameters that no trial varies are left to `--json`.

    Parameters that belong to one of several schedulers ("cosine.final_factor") share one column.
    """
    names = [name for name in _parameter_names(records) if len({record.params.get(name) for record in records}) > 1]
    varied, own = [name for name in names if "." not in name], [name for name in names if "." in name]
    notes = {record.number: _note(record) for record in records}
    headings = [
        *("trial", metric, *(name.removesuffix("_fraction") for name in varied)),
        *(["setting"] if own else []),
        *("trained", "shared", "time"),
    ]
    view = Table(
        title=title,
        caption=_caption(names, records),
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,
        header_style="bold",
    )
    for heading in headings:
        words = heading.replace("_", " ")  # in words, so that a narrow terminal can break them
        view.add_column(words, justify="right", min_width=max(map(len, words.split())))
    if any(notes.values()):
        view.add_column("note")
    for record in ranked(records, maximize=maximize):
        cells = [
            f"{record.number}{'*' if record.reference else ' '}",
            "-" if record.value is None else f"{record.value:.4f}",
            *(_short(record.params.get(name)) for name in varied),
            *([_own(record, own)] if own else []),
            str(record.steps_executed),
            str(record.steps_shared),
            f"{record.seconds:.0f} s",
        ]
        view.add_row(*cells, *([notes[record.number]] if any(notes.values()) else []))
    return view


def _own(record: TrialRecord, names: Sequence[str]) -> str:
    """Return the parameters of the trial's own scheduler, without its name."""
    mine = {name.partition(".")[2]: record.params[name] for name in names if name in record.params}
    return ", ".join(f"{name.removesuffix('_fraction').replace('_', ' ')} {_short(mine[name])}" for name in mine)


def _caption(varied: Sequence[str], records: Sequence[TrialRecord]) -> str:
    parts = ["trained, shared: training steps"]
    if any(name.endswith("_fraction") for name in varied):
        parts.append("windows and patience: fractions of the run; threshold: of the first loss over the run")
    if any(record.reference for record in records):
        parts.append("* reference setting")
    return "; ".join(parts)


def _parameter_names(records: Sequence[TrialRecord]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record.params))


def _short(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _note(record: TrialRecord) -> str:
    if record.state == "RUNNING":
        return "not finished"
    if record.reason is not None:
        return f"failed: {record.reason}"
    if record.duplicate_of is not None:
        return f"same as trial {record.duplicate_of}"
    return ""
