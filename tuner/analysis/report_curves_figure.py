"""Loss curves with the LR beneath, and when each schedule decayed: what the page needs to build both from one block.

The curves are the bulk of a report. They are written once, as base64 of 32-bit floats, and the page makes the traces.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tuner.analysis.report_curves import ThinCurve
from tuner.analysis.report_figures import Figure, Section, rounded
from tuner.analysis.report_material import Material

_NO_CURVE: Final = "No trial has recorded a training step yet, or the files of the curves are gone."


def curve_sections(curves: Mapping[int, ThinCurve]) -> list[Section]:
    """Return the sections of the curves and of the decays."""
    curves_title, decays_title = "What training looked like", "When each schedule decayed"
    if not curves:
        return [
            Section(id="curves", title=curves_title, missing=_NO_CURVE),
            Section(id="decays", title=decays_title, missing=_NO_CURVE),
        ]
    return [
        Section(id="curves", title=curves_title, figures=[_curves_figure()]),
        Section(id="decays", title=decays_title, figures=[_decays_figure(len(curves))]),
    ]


def curve_block(material: Material, curves: Mapping[int, ThinCurve], *, edges: NDArray[np.int64]) -> dict[str, Any]:
    """Return the curves as JSON-like data: buckets common to all, trials best first, a row of floats for each."""
    order = [record.number for record in material.ranked if record.number in curves]
    chosen = [curves[number] for number in order]
    return {
        "edges": [int(edge) for edge in edges],
        "trials": order,
        "low": _floats([curve.low for curve in chosen]),
        "mean": _floats([curve.mean for curve in chosen]),
        "high": _floats([curve.high for curve in chosen]),
        "lr": [_lr(curve) for curve in chosen],
        "steps": [curve.num_steps for curve in chosen],
    }


def _lr(curve: ThinCurve) -> dict[str, Any]:
    """Return the LR as its changes (step, LR from there on) where they are few, else bucket by bucket."""
    if curve.changes is None:
        return {"buckets": _floats([curve.lr])}
    first = curve.changes[0][1] if curve.changes else float(np.append(curve.lr[np.isfinite(curve.lr)], np.nan)[0])
    return {"changes": [[0, rounded(first)], *([step, rounded(after)] for step, _, after in curve.changes)]}


def _floats(rows: Sequence[NDArray[np.float64]]) -> str:
    return base64.b64encode(np.concatenate(rows).astype("<f4").tobytes()).decode("ascii")


def _curves_figure() -> Figure:
    return Figure(
        id="curves",
        title="Training loss, and the learning rate beneath, over the same steps.",
        caption="Each line is the mean loss of a trial in a narrow range of steps; the band of the best and the "
        "published setting spans the smallest and the largest loss there, and “extremes” draws both for the others. "
        "Lines are shaded by rank, the best fifth strongest. A triangle marks a decay of the learning rate. Point at "
        "a line to read loss and learning rate together, click it to keep it in view, drag to zoom, double-click to "
        "zoom out.",
        height=560,
        built="curves",
    )


def _decays_figure(num_curves: int) -> Figure:
    row = 20 if num_curves <= 30 else 12 if num_curves <= 60 else 4
    return Figure(
        id="decays",
        title="Learning rate of each trial, best trial on top.",
        caption="A row is a trial, strong colour its highest learning rate, on a logarithmic scale. Ticks mark the "
        "steps at which the schedule decayed. If good trials decay alike, the top rows look alike.",
        height=min(900, 110 + num_curves * row),
        built="decays",
    )
