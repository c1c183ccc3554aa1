"""Figures as plotly.js takes them, and what all of them share: colours by role, hovering by trial, rounding.

A figure names colours by what they stand for ("@best"); the page fills in those of its theme. A trace that says in
`trials` which trial each point belongs to gets their labels on hover, and is marked where a reader pins a trial.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tuner.analysis.grid import Grid
from tuner.analysis.report_material import Material
from tuner.trials import TrialRecord

Trace = dict[str, Any]

BEST: Final = "@best"
REFERENCE: Final = "@reference"
INK: Final = "@ink"
MUTED: Final = "@muted"
SOFT: Final = "@soft"
SHADES: Final = ("@shade-0", "@shade-1", "@shade-2", "@shade-3", "@shade-4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One drawing: `title` and `caption` (how to read it) for people, `height` in pixels, traces and layout.

    `built` names a function of the page that makes the traces from the curves, where they are too large to repeat.
    """

    id: str
    title: str
    caption: str
    height: int
    data: Sequence[Trace] = ()
    layout: Trace = field(default_factory=dict)
    built: str | None = None

    def spec(self) -> Trace:
        """Return what the page needs to draw it."""
        return {"data": list(self.data), "layout": self.layout, "built": self.built}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page: what its figures, its table and its notes say, or in `missing` why there is nothing to show.

    The figures of a `small` one stand side by side where there is room.
    """

    id: str
    title: str
    lead: str = ""
    figures: Sequence[Figure] = ()
    table: Grid | None = None
    notes: Sequence[str] = ()
    missing: str = ""
    small: bool = False


def rounded(value: float, digits: int = 6) -> float | None:
    """Return a number short enough for a page; None, a gap, where it is not finite."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def shade(material: Material, record: TrialRecord) -> str:
    """Return the colour of a trial by its rank."""
    return SHADES[material.shades[record.number]] if record.number in material.shades else MUTED


def marked(material: Material, points: Sequence[tuple[TrialRecord, Any, Any]]) -> list[Trace]:
    """Return markers for trials at (x, y): the best a star, the published setting a diamond, others dots by rank."""
    special = {material.best: ("best", BEST, "star", 15), material.reference: ("published", REFERENCE, "diamond", 11)}
    others = [point for point in points if point[0].number not in special]
    traces = [
        {
            **_points(others),
            "name": "trial",
            "marker": {
                "size": 7,
                "color": [shade(material, record) for record, *_ in others],
                "line": {"width": 0.5, "color": "@paper"},
            },
        }
    ]
    for number, (name, color, symbol, size) in special.items():
        own = [point for point in points if number is not None and point[0].number == number]
        if own:
            marker = {"size": size, "color": color, "symbol": symbol, "line": {"width": 1, "color": "@paper"}}
            traces.append({**_points(own), "name": name, "marker": marker})
    return traces


def _points(points: Sequence[tuple[TrialRecord, Any, Any]]) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x for _, x, _ in points],
        "y": [y for _, _, y in points],
        "trials": [record.number for record, *_ in points],
        "hovertemplate": "%{text}<extra></extra>",
        "cliponaxis": False,
    }
