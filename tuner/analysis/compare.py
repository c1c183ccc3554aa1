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
            "seconds": round(record.seconds, 3),
            "run_id": record.run_id,
            "duplicate_of": record.duplicate_of,
            "reason": record.reason,
        }
        for record in ranked(records, maximize=maximize)
    ]


def table(records: Sequence[TrialRecord], *, maximize: bool, metric: str, title: str) -> Table:
    """Return the ranked trials as a terminal table; parameters that no trial varies are left to `--json`."""
    varied = [name for name in _parameter_names(records) if len({record.params.get(name) for record in records}) > 1]
    view = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in ("trial", metric, *varied, "steps", "seconds"):
        view.add_column(heading, justify="right", overflow="fold")
    view.add_column("note", overflow="fold")
    for record in ranked(records, maximize=maximize):
        view.add_row(
            str(record.number),
            "-" if record.value is None else f"{record.value:.4f}",
            *(_short(record.params.get(name)) for name in varied),
            str(record.steps_executed),
            f"{record.seconds:.1f}",
            _note(record),
        )
    return view


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
    return "reference setting" if record.reference else ""
