"""What new seeds said of the best settings, in a report: a figure, the table, and the rest in lines."""

import html
from collections.abc import Sequence
from dataclasses import replace

from tuner.analysis.confirmation import LEVEL
from tuner.analysis.confirmed import Confirmation
from tuner.analysis.confirmed_text import grid, lines
from tuner.analysis.report_figures import BEST, INK, MUTED, REFERENCE, SHADES, Figure, Section, Trace, rounded
from tuner.analysis.words import count, plain


def confirmed_section(confirmation: Confirmation) -> Section:
    """Return the section of a confirmation."""
    verdict, *rest = lines(confirmation)
    return Section(
        id="confirmed",
        title="What new seeds say",
        lead=verdict,
        figures=[_figure(confirmation)],
        table=replace(grid(confirmation), title=""),
        notes=rest,
    )


def _figure(confirmation: Confirmation) -> Figure:
    found, contenders = confirmation.findings, confirmation.contenders
    names = [html.escape(each.name) for each in contenders]
    metric = plain(confirmation.metric)
    values = [(value, row) for row, own in enumerate(confirmation.values) for value in own if value is not None]
    means = [(mean.mean, row) for row, mean in enumerate(found.means) if mean is not None]
    searched = [(each.searched, row) for row, each in enumerate(contenders) if each.searched is not None]
    spans: Trace = {
        "type": "scatter",
        "mode": "lines",
        "x": [
            x for mean in found.means if mean and (i := mean.interval) for x in (rounded(i.low), rounded(i.high), None)
        ],
        "y": [y for row, mean in enumerate(found.means) if mean and mean.interval for y in (row, row, None)],
        "line": {"color": MUTED, "width": 7},
        "hoverinfo": "skip",
    }
    roles = {0: REFERENCE, confirmation.best: BEST}
    diamonds = {"symbol": "diamond", "size": 12, "color": [roles.get(row, SHADES[-1]) for _, row in means]}
    circles = {"symbol": "circle-open", "size": 13, "color": INK, "line": {"width": 1.5}}
    shapes = []
    if found.means[0] is not None:
        x, dashed = rounded(found.means[0].mean), {"color": REFERENCE, "width": 1.2, "dash": "dash"}
        shapes.append({"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": x, "x1": x, "line": dashed})
    return Figure(
        id="confirmed",
        title=f"{metric.capitalize()} of each setting under {count(len(confirmation.seeds), 'new seed')}.",
        caption="Dots are the new seeds, and a diamond is their mean: blue of the setting to train with, orange of the "
        f"published one. The bar behind it holds the mean with {100 * LEVEL:.0f} %. A ring is what the search saw: "
        "where it is better than the dots, the search was lucky.",
        height=90 + 38 * len(contenders),
        data=[
            spans,
            _points(values, names, marker={"size": 6, "color": INK, "opacity": 0.55}, what="a new seed"),
            _points(means, names, marker=diamonds, what="mean of the new seeds"),
            _points(searched, names, marker=circles, what="in the search"),
        ],
        layout={
            "xaxis": {"title": {"text": f"{metric} after {count(confirmation.steps, 'step')}"}},
            "yaxis": {
                "tickvals": list(range(len(names))),
                "ticktext": names,
                "range": [len(names) - 0.4, -0.6],
                "automargin": True,
                "showgrid": False,
            },
            "shapes": shapes,
        },
    )


def _points(points: Sequence[tuple[float, int]], names: Sequence[str], *, marker: Trace, what: str) -> Trace:
    """Return markers for (value, row of the setting)."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [rounded(value) for value, _ in points],
        "y": [row for _, row in points],
        "marker": marker,
        "text": [names[row] for _, row in points],
        "hovertemplate": f"%{{text}}, {what}: %{{x:.4f}}<extra></extra>",
        "cliponaxis": False,
    }
