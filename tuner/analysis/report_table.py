"""Tables of a report: all trials, and those that failed."""

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.analysis.report_curves import ThinCurve
from tuner.analysis.report_material import Material
from tuner.analysis.words import brief_duration, fixed, own_line, setting_line, short
from tuner.trials import TrialRecord


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: what it shows, and the number it is sorted by (None: last)."""

    text: str
    key: float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A trial in the table; `role` is "best", "reference", "failed" or empty."""

    number: int
    role: str
    cells: list[Cell]


def trial_table(material: Material, curves: Mapping[int, ThinCurve]) -> tuple[list[str], list[Row]]:
    """Return the headings and the rows, best first; parameters that no trial varies are left out."""
    axes = [axis for axis in material.axes if "." not in axis.name]
    own = any("." in axis.name for axis in material.axes)
    notes = any(_note(record) for record in material.records)
    headings = [
        "trial",
        material.metric_words,
        "against published",
        *(axis.title for axis in axes),
        *(["setting"] if own else []),
        *("decays", "trained", "shared", "time"),
        *(["note"] if notes else []),
    ]
    rows = []
    for record in material.ranked:
        curve = curves.get(record.number)
        cells = [
            Cell(f"{record.number}{'*' if record.reference else ''}", record.number),
            Cell("–" if record.value is None else fixed(record.value), record.value),
            _against(material, record),
            *(_setting(record, axis.name) for axis in axes),
            *([_words(own_line(record.params))] if own else []),
            _decays(curve),
            Cell(f"{record.steps_executed:,}", record.steps_executed),
            Cell(f"{record.steps_shared:,}", record.steps_shared),
            Cell(brief_duration(record.seconds), record.seconds),
            *([_words(_note(record))] if notes else []),
        ]
        rows.append(Row(number=record.number, role=_role(material, record), cells=cells))
    return headings, rows


def failures(material: Material, unreadable: Mapping[int, str]) -> list[tuple[int, str, str]]:
    """Return (trial, setting, reason) of the trials that failed, and of those whose curve could not be read."""
    failed = [(r.number, setting_line(r.params), r.reason or "") for r in material.records if r.state == "FAIL"]
    settings = {record.number: setting_line(record.params) for record in material.records}
    return sorted([*failed, *((number, settings[number], reason) for number, reason in unreadable.items())])


def _words(text: str) -> Cell:
    return Cell(text, text)


def _against(material: Material, record: TrialRecord) -> Cell:
    reference = material.verdict.reference
    if record.value is None or reference is None or reference.value is None:
        return Cell("", None)
    difference = record.value - reference.value
    text = fixed(difference).replace("-", "−")
    return Cell(f"+{text}" if difference > 0 else text, difference)


def _setting(record: TrialRecord, name: str) -> Cell:
    value = record.params.get(name)
    return Cell(short(value), value)


def _decays(curve: ThinCurve | None) -> Cell:
    if curve is None:
        return Cell("", None)
    return Cell("steady", None) if curve.changes is None else Cell(str(len(curve.decays)), len(curve.decays))


def _note(record: TrialRecord) -> str:
    if record.state == "RUNNING":
        return "not finished"
    if record.reason is not None:
        return "failed"
    return "" if record.duplicate_of is None else f"same run as trial {record.duplicate_of}"


def _role(material: Material, record: TrialRecord) -> str:
    if record.state == "FAIL":
        return "failed"
    return {material.best: "best", material.reference: "reference"}.get(record.number, "")
