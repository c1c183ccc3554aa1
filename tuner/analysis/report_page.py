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

from tuner.analysis.report_confirmed import confirmed_section
from tuner.analysis.report_curves import bucket_edges, thin_curves
from tuner.analysis.report_curves_figure import curve_block, curve_sections
from tuner.analysis.report_material import Material
from tuner.analysis.report_opening import Opening, opening_of, tiles
from tuner.analysis.report_parameters import UNITS, parameter_sections
from tuner.analysis.report_progress import progress_section
from tuner.analysis.report_sharing import sharing_section
from tuner.analysis.report_table import failures, trial_table


@dataclass(frozen=True, slots=True)
class Report:
    """A finished report: the page, and how it opens."""

    page: str
    opening: Opening


def make_report(material: Material) -> Report:
    """Return the report on a sweep, whatever its state; what it cannot show, it says."""
    edges = bucket_edges(material.steps, trials=len(material.curves))
    curves, unreadable = thin_curves(material.curves, edges=edges)
    curves_shown, decays = curve_sections(curves)
    importance, slices, contour, parallel = parameter_sections(material)
    sharing = sharing_section(material)
    sections = [curves_shown, progress_section(material), importance, slices, contour, parallel, decays, sharing]
    headings, rows = trial_table(material, curves)
    if material.confirmation is not None:
        sections.insert(0, confirmed_section(material.confirmation))
    opening = opening_of(material)
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
        opening=opening,
        tiles=tiles(material),
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
    return Report(page, opening)


def _part(name: str) -> str:
    return files("tuner.analysis").joinpath(name).read_text("utf-8")


def _embedded(data: Any) -> str:
    """Return JSON that can stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
