"""The value over two parameters: a smooth surface where trials are near, and how much of the spread it explains."""

import numpy as np
from numpy.typing import NDArray

from tuner.analysis.report_figures import Figure, Trace, marked, rounded
from tuner.analysis.report_material import Axis, Material

Array = NDArray[np.float64]

CELLS = 48
FEWEST_TRIALS = 8
_LEAST_EXPLAINED = 0.02
_WIDTHS = (0.06, 0.09, 0.13, 0.18, 0.25, 0.35)


def contour_figure(material: Material, across: Axis, up: Axis) -> Figure | None:
    """Return the figure of the value over two parameters; None where too few trials have both, or all are equal."""
    own = [record for record in material.complete if across.name in record.params and up.name in record.params]
    values = np.array([record.value for record in own], dtype=np.float64)
    if len(own) < FEWEST_TRIALS or np.ptp(values) == 0:
        return None
    if across.choices and not up.choices:
        across, up = up, across  # choices as rows, so that each is a strip along the other parameter
    at = np.array([[axis.place(record.params[axis.name]) for axis in (across, up)] for record in own])
    grid_x, grid_y = _places(across), _places(up)
    width, explained = _best_width(at, values)
    where = np.stack(np.meshgrid(grid_x, grid_y), axis=-1).reshape(-1, 2)
    # Beyond two widths from the nearest trial the surface would be made up.
    surface = smooth(at, values, where, width=width, reach=2 * width).reshape(len(grid_y), len(grid_x))
    points = [(r, across.shown(r.params[across.name]), up.shown(r.params[up.name])) for r in own]
    return Figure(
        id="contour",
        title=f"{material.metric_words.capitalize()} over {across.title} and {up.title}.",
        caption="Stronger colour is better. The surface is a smooth mean of the trials (the dots); it is left empty "
        f"where no trial is near. {_worth(explained)}",
        height=430,
        data=[_surface(material, across, up, grid_x, grid_y, surface), *marked(material, points)],
        layout={
            "xaxis": across.layout() | {"showgrid": False},
            "yaxis": up.layout() | {"showgrid": False},
            "margin": {"t": 56},
        },
    )


def smooth(at: Array, values: Array, where: Array, *, width: float, reach: float = np.inf) -> Array:
    """Return a Gaussian-weighted mean of values at [N, 2] in [M, 2] places; NaN with no value within `reach`.

    A place that is among `at` itself takes part with full weight.
    """
    squares = np.square(where[:, None, :] - at[None, :, :]).sum(axis=-1)
    weights = np.exp(-squares / (2 * width**2))
    mean: Array = (weights @ values) / np.maximum(weights.sum(axis=1), np.finfo(np.float64).tiny)
    mean[squares.min(axis=1) > reach**2] = np.nan
    return mean


def _best_width(at: Array, values: Array) -> tuple[float, float]:
    """Return the width that foretells left-out values best, and the share of the variance that it explains, 0 to 1."""
    squares = np.square(at[:, None, :] - at[None, :, :]).sum(axis=-1)
    np.fill_diagonal(squares, np.inf)
    errors = {}
    for width in _WIDTHS:
        weights = np.exp(-squares / (2 * width**2)) + 1e-9 * np.isfinite(squares)
        errors[width] = float(np.square(weights @ values / weights.sum(axis=1) - values).mean())
    width = min(errors, key=lambda each: errors[each])
    return width, max(0.0, 1 - errors[width] / float(values.var()))


def _places(axis: Axis) -> Array:
    return np.linspace(0, 1, len(axis.choices) if axis.choices else CELLS)


def _surface(material: Material, across: Axis, up: Axis, grid_x: Array, grid_y: Array, surface: Array) -> Trace:
    rows = [[rounded(value, 5) for value in row] for row in surface]
    common: Trace = {
        "x": [_value(across, place) for place in grid_x],
        "y": [_value(up, place) for place in grid_y],
        "z": rows,
        "colorscale": "@scale-value",
        "reversescale": not material.maximize,
        "hoverinfo": "skip",
        "colorbar": {
            "title": {"text": material.metric_words, "side": "top"},
            "orientation": "h",
            "thickness": 9,
            "len": 0.5,
            "x": 1,
            "xanchor": "right",
            "y": 1.02,
            "yanchor": "bottom",
            "outlinewidth": 0,
            "nticks": 4,
        },
    }
    if up.choices:
        return {"type": "heatmap", **common}
    lines = {"width": 0.6, "color": "@paper"}
    return {"type": "contour", **common, "ncontours": 14, "line": lines, "connectgaps": False}


def _value(axis: Axis, place: float) -> float | str | None:
    if axis.choices:
        return str(axis.choices[round(place * (len(axis.choices) - 1))])
    if axis.log:
        return rounded(axis.low * (axis.high / axis.low) ** place)
    return rounded(axis.low + (axis.high - axis.low) * place)


def _worth(share: float) -> str:
    """Return what the surface is good for, by the share of the variance that it explains."""
    what = "of the variance of trials that were left out one at a time"
    if share < _LEAST_EXPLAINED:
        return f"It explains none {what}: these two alone decide nothing, and the colours mean little."
    return f"It explains {100 * share:.0f} % {what}; the rest is what other parameters did, and chance."
