"""What the settings did: importance, one parameter at a time, and all at once as parallel coordinates."""

from collections.abc import Sequence
from math import isfinite
from statistics import median

from scipy.stats import spearmanr

from tuner.analysis.importance import FEWEST_TRIALS, Importance, importances
from tuner.analysis.report_contour import contour_figure
from tuner.analysis.report_figures import BEST, MUTED, REFERENCE, SHADES, SOFT, Figure, Section, Trace, marked, rounded
from tuner.analysis.report_material import Axis, Material
from tuner.analysis.words import fixed, plain, short
from tuner.trials import TrialRecord

UNITS = (
    "Windows and patience are fractions of the run, a threshold is a fraction of the first loss over the run, "
    "unless a name says steps."
)


def parameter_sections(material: Material) -> list[Section]:
    """Return the sections about parameters."""
    missing = _nothing_to_see(material)
    found = [] if missing else importances(material.study)
    return [
        _importance_section(material, found, missing=missing),
        Section(
            id="slices",
            title="One parameter at a time",
            lead=f"Each trial at its setting; stronger dots are better trials. {UNITS}" if not missing else "",
            figures=[] if missing else [_slice(material, axis) for axis in material.axes],
            missing=missing,
            small=True,
        ),
        _contour_section(material, found, missing=missing),
        Section(
            id="parallel",
            title="All parameters at once",
            figures=[] if missing else [_parallel(material)],
            missing=missing,
        ),
    ]


def _nothing_to_see(material: Material) -> str:
    """Return in one sentence why the parameters of this sweep say nothing, empty where they may."""
    if not material.complete:
        return "No trial has a value yet, so nothing is known of its parameters."
    if len(material.complete) == 1:
        return "Only one trial has a value; parameters can be compared from two trials on."
    if not material.axes:
        return "No parameter differs between the trials that have a value."
    return ""


def _importance_section(material: Material, found: Sequence[Importance], *, missing: str) -> Section:
    title = "Which parameters mattered"
    if not missing and not found:
        missing = _no_importance(material)
    if missing:
        return Section(id="importance", title=title, missing=missing)
    lowest_first = list(reversed(found))
    names = [plain(each.name) for each in lowest_first]
    whiskers: Trace = {
        "type": "scatter",
        "mode": "lines",
        "x": [x for each in lowest_first for x in (rounded(each.low), rounded(each.high), None)],
        "y": [name for name in names for _ in range(3)],
        "line": {"color": MUTED, "width": 7},
        "hoverinfo": "skip",
    }
    dots: Trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [rounded(each.share) for each in lowest_first],
        "y": names,
        "marker": {"color": BEST, "size": 11, "line": {"width": 1, "color": "@paper"}},
        "customdata": [[rounded(each.low), rounded(each.high)] for each in lowest_first],
        "hovertemplate": "%{y}: %{x:.2f} (%{customdata[0]:.2f} to %{customdata[1]:.2f})<extra></extra>",
    }
    figure = Figure(
        id="importance",
        title="Share of the importance (PED-ANOVA).",
        caption="How far the best tenth of the trials gathers at certain values of a parameter, in shares that sum "
        "to 1. The bar holds 90 % of the shares that the same number of trials, drawn again from these, would have "
        "given: where bars overlap, the order is not settled. A parameter that is not varied widely cannot be "
        "important.",
        height=70 + 38 * len(found),
        data=[whiskers, dots],
        layout={
            "xaxis": {
                "title": {"text": "share of the importance"},
                "range": [0, 1.05 * max(max(each.high, each.share) for each in found)],
            },
            "yaxis": {"title": {"text": ""}, "automargin": True},
        },
    )
    return Section(id="importance", title=title, figures=[figure])


def _no_importance(material: Material) -> str:
    """Return in one sentence why no parameter has a share."""
    if len({record.value for record in material.complete}) == 1:
        return "All trials have the same value, so no parameter can have mattered."
    if len(material.complete) >= FEWEST_TRIALS:
        return "The best tenth of the trials lies where all trials lie: no parameter stands out."
    return (
        f"Importance compares the best tenth of the trials with all, which takes {FEWEST_TRIALS} of them; "
        f"{len(material.complete)} have a value."
    )


def _slice(material: Material, axis: Axis) -> Figure:
    own = [record for record in material.complete if axis.name in record.params]
    points = [(r, axis.shown(r.params[axis.name]), rounded(r.value or 0.0)) for r in own]
    return Figure(
        id=f"slice-{material.axes.index(axis)}",
        title=f"{axis.title[:1].upper()}{axis.title[1:]}.",
        caption=_trend(axis, own),
        height=260,
        data=marked(material, points),
        layout={"xaxis": axis.layout(), "yaxis": {"title": {"text": material.metric_words}}},
    )


def _trend(axis: Axis, records: Sequence[TrialRecord]) -> str:
    """Return in a few words what the value does along a parameter."""
    pairs = [(record.params[axis.name], record.value) for record in records if record.value is not None]
    if axis.choices:
        medians = [(each, [value for choice, value in pairs if choice == each]) for each in axis.choices]
        return f"Medians: {', '.join(f'{short(each)}: {fixed(median(own))}' for each, own in medians if own)}."
    if len(pairs) < FEWEST_TRIALS or len({value for _, value in pairs}) < 2:
        return ""
    correlation = float(spearmanr([float(place) for place, _ in pairs], [value for _, value in pairs]).statistic)
    if not isfinite(correlation):
        return ""
    return (
        f"Rank correlation {correlation:+.2f}.".replace("-", "−")
        if abs(correlation) >= 0.005
        else "Rank correlation 0."
    )


def _contour_section(material: Material, found: Sequence[Importance], *, missing: str) -> Section:
    title = "The two that mattered most, together"
    order = [each.name for each in found] or [axis.name for axis in material.axes]
    axes = sorted(material.axes, key=lambda axis: order.index(axis.name) if axis.name in order else len(order))
    figure = None if missing or len(axes) < 2 else contour_figure(material, axes[0], axes[1])
    if figure is None:
        why = missing or ("Only one parameter differs between trials." if len(axes) < 2 else "")
        return Section(
            id="contour",
            title=title,
            missing=why or "Too few trials have both of these parameters, or all have the same value.",
        )
    return Section(id="contour", title=title, figures=[figure])


def _parallel(material: Material) -> Figure:
    values = [record.value for record in material.complete if record.value is not None]
    value_axis = Axis(name="", title=material.metric_words, low=min(values), high=max(values))
    axes = [*material.axes, value_axis]
    groups: dict[str, list[TrialRecord]] = {}
    for record in reversed(material.ranked):
        if record.value is not None and record.number not in (material.best, material.reference):
            groups.setdefault(SHADES[material.shades[record.number]], []).append(record)
    traces = [_lines(axes, group, color=color, width=1.2) for color, group in groups.items()]
    by_number = {record.number: record for record in material.complete}
    for number, color in ((material.reference, REFERENCE), (material.best, BEST)):
        if number is not None:
            traces.append(_lines(axes, [by_number[number]], color=color, width=3))
    notes = [_end(place, axis, at=at) for place, axis in enumerate(axes) for at in (0.0, 1.0)]
    xaxis: Trace = {
        "tickvals": list(range(len(axes))),
        "ticktext": [axis.title.replace(" ", "<br>") for axis in axes],
        "range": [-0.35, len(axes) - 0.65],
        "showgrid": False,
        "showline": False,
        "ticks": "",
        "automargin": True,
        "fixedrange": True,
    }
    return Figure(
        id="parallel",
        title="Each trial as a line through its settings, to its value on the right.",
        caption="Lines are shaded by rank, the best fifth strongest; blue is the best trial, orange the published "
        "setting. Where strong lines run together, good trials agree. Click one to keep it in view.",
        height=380,
        data=traces,
        layout={
            "xaxis": xaxis,
            "yaxis": {"visible": False, "range": [-0.12, 1.12], "fixedrange": True},
            "margin": {"l": 8, "r": 8},
            "annotations": notes,
            "shapes": [
                {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": {"color": MUTED, "width": 1}}
                for at in range(len(axes))
            ],
            "hovermode": "closest",
        },
    )


def _lines(axes: Sequence[Axis], records: Sequence[TrialRecord], *, color: str, width: float) -> Trace:
    """Return the lines of trials as one trace with gaps; a parameter that a trial does not have is passed over."""
    x: list[float | None] = []
    y: list[float | None] = []
    trials: list[int | None] = []
    for record in records:
        for place, axis in enumerate(axes):
            value = record.value if axis.name == "" else record.params.get(axis.name)
            if value is not None:
                x.append(place)
                y.append(rounded(axis.place(value), 4))
                trials.append(record.number)
        x.append(None)
        y.append(None)
        trials.append(None)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": x,
        "y": y,
        "trials": trials,
        "line": {"color": color, "width": width},
        "marker": {"size": 4, "color": color},
        "hovertemplate": "%{text}<extra></extra>",
    }


def _end(place: int, axis: Axis, *, at: float) -> Trace:
    if axis.choices:
        text = short(axis.choices[0 if at == 0 else -1])
    else:
        value = axis.low if at == 0 else axis.high
        text = fixed(value) if axis.name == "" else short(value)
    return {
        "x": place,
        "y": at,
        "text": text,
        "showarrow": False,
        "yanchor": "top" if at == 0 else "bottom",
        "yshift": -4 if at == 0 else 4,
        "font": {"color": SOFT, "size": 11},
    }
