"""Best-so-far: how the search came to its best value, against trials, training steps and minutes."""

from itertools import accumulate
from typing import Final

from tuner.analysis.report_figures import INK, REFERENCE, Figure, Section, Trace, marked, rounded
from tuner.analysis.report_material import Material
from tuner.trials import TrialRecord

FEW: Final = 7
"""Of fewer trials each has a tick; plotly would put some between them."""


def progress_section(material: Material) -> Section:
    """Return the section of the best value so far."""
    section = Section(
        id="progress",
        title="How the search got there",
        lead="Each dot is a trial; the line is the best value found until then, the dashed one the published setting.",
        small=True,
    )
    if not material.complete:
        return Section(id=section.id, title=section.title, missing="No trial has a value yet.")
    ended = [record for record in material.records if record.ended is not None or record.value is not None]
    trials = [float(place + 1) for place in range(len(ended))]
    steps = list(accumulate(float(record.steps_executed) for record in ended))
    minutes = list(accumulate(record.seconds / 60 for record in ended))
    figures = (
        _figure(
            material,
            ended,
            trials,
            id_="trials",
            title="trials that ended",
            what="against trials",
            ticks={"dtick": 1} if len(trials) < FEW else {},
        ),
        _figure(
            material,
            ended,
            steps,
            id_="steps",
            title="training steps executed",
            ticks={"tickformat": "~s"},
            what="against the training steps that were actually run: shared steps cost nothing",
        ),
        _figure(material, ended, minutes, id_="minutes", title="minutes", what="against the wall time of the trials"),
    )
    return Section(id=section.id, title=section.title, lead=section.lead, figures=figures, small=True)


def _figure(
    material: Material,
    ended: list[TrialRecord],
    at: list[float],
    *,
    id_: str,
    title: str,
    what: str,
    ticks: Trace | None = None,
) -> Figure:
    better = max if material.maximize else min
    line_x: list[float | None] = []
    line_y: list[float | None] = []
    best: float | None = None
    for record, x in zip(ended, at, strict=True):
        if record.value is not None and (best is None or better(record.value, best) != best):
            best = record.value
        if best is not None:
            line_x.append(rounded(x))
            line_y.append(rounded(best))
    points = [(r, rounded(x), rounded(r.value)) for r, x in zip(ended, at, strict=True) if r.value is not None]
    line: Trace = {
        "type": "scatter",
        "mode": "lines",
        "x": line_x,
        "y": line_y,
        "line": {"color": INK, "width": 1.6, "shape": "hv"},
        "hoverinfo": "skip",
    }
    shapes = []
    reference = material.verdict.reference
    if reference is not None and reference.value is not None:
        dashed = {"color": REFERENCE, "width": 1.2, "dash": "dash"}
        y = rounded(reference.value)
        shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": dashed})
    layout: Trace = {
        "xaxis": {"title": {"text": title}, "rangemode": "tozero", **(ticks or {})},
        "yaxis": {"title": {"text": material.metric_words}},
        "shapes": shapes,
    }
    caption = f"Best {material.metric_words} so far {what}."
    return Figure(
        id=f"progress-{id_}",
        title=caption,
        caption="",
        height=270,
        data=[line, *marked(material, points)],
        layout=layout,
    )
