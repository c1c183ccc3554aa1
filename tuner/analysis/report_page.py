"""The report as one HTML page: template, style, script, plotly.js and data in a single file that loads nothing."""

import html
import json
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from tuner.analysis.report_curves import bucket_edges, thin_curves
from tuner.analysis.report_curves_figure import curve_block, curve_sections
from tuner.analysis.report_material import Material
from tuner.analysis.report_parameters import UNITS, parameter_sections
from tuner.analysis.report_progress import progress_section
from tuner.analysis.report_sharing import sharing_section
from tuner.analysis.report_table import failures, setting_yaml, trial_table
from tuner.analysis.verdict import Verdict
from tuner.analysis.words import count, duration, fixed


@dataclass(frozen=True, slots=True)
class Report:
    """A finished report: the page, and what it answers."""

    page: str
    verdict: Verdict


def make_report(material: Material) -> Report:
    """Return the report on a sweep, whatever its state; what it cannot show, it says."""
    edges = bucket_edges(material.steps, trials=len(material.curves))
    curves, unreadable = thin_curves(material.curves, edges=edges)
    curves_shown, decays = curve_sections(curves)
    importance, slices, contour, parallel = parameter_sections(material)
    sharing = sharing_section(material)
    sections = [curves_shown, progress_section(material), importance, slices, contour, parallel, decays, sharing]
    headings, rows = trial_table(material, curves)
    verdict = material.verdict
    data = {
        "figures": {figure.id: figure.spec() for section in sections for figure in section.figures},
        "labels": {
            record.number: html.escape(material.label_of(record)).replace("\n", "<br>") for record in material.records
        },
        "shades": material.shades,
        "best": material.best,
        "reference": material.reference,
        "marks": {record.number: material.mark(record.number) for record in material.records},
        "curves": curve_block(material, curves, edges=edges) if curves else None,
    }
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        _part("report.html")
    )
    page = template.render(
        material=material,
        verdict=verdict,
        headline=verdict.headline,
        cost=verdict.cost,
        tiles=_tiles(verdict),
        best_yaml="" if verdict.best is None else _best_yaml(material),
        sections=sections,
        headings=headings,
        rows=rows,
        failures=failures(material, unreadable),
        units=UNITS,
        written=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        version=version("fastface-tuner"),
        style=Markup(_part("report.css")),  # noqa: S704 - a file of ours
        script=Markup(_part("report_curves.js") + _part("report.js")),  # noqa: S704 - a file of ours
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),  # noqa: S704 - the library's own file
        data=Markup(_embedded(data)),  # noqa: S704 - no `<` is left in it
    )
    return Report(page, verdict)


def _tiles(verdict: Verdict) -> list[tuple[str, str]]:
    tiles: list[tuple[str, str]] = []
    if verdict.best is not None and verdict.best.value is not None:
        tiles.append((f"best {verdict.metric.replace('_', ' ')}", fixed(verdict.best.value)))
    if verdict.reference is not None and verdict.reference.value is not None:
        tiles.append(("published setting", fixed(verdict.reference.value)))
    tiles.append(("trials", f"{verdict.complete + verdict.failed}"))
    tiles.append(("steps trained", f"{verdict.steps_executed:,}"))
    tiles.append(("steps shared", f"{verdict.steps_shared:,}"))
    tiles.append(("time", duration(verdict.seconds)))
    return tiles


def _best_yaml(material: Material) -> str:
    best = material.verdict.best
    assert best is not None  # noqa: S101 - asked for where there is one
    value = fixed(best.value or 0.0)
    about = (
        f"# {material.name}, trial {best.number}: {material.metric_words} {value} after {count(material.steps, 'step')}"
    )
    return f"{about}\n{setting_yaml(best, steps=material.steps, seed=material.seed)}"


def _part(name: str) -> str:
    return files("tuner.analysis").joinpath(name).read_text("utf-8")


def _embedded(data: Any) -> str:
    """Return JSON that can stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
