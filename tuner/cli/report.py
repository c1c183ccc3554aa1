"""`fastface-tuner report`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tuner.sweep.folder import SweepFolder


def report(
    sweep: Annotated[str, typer.Argument(help="A sweep's folder, or its name below sweeps/.")],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page to write [default: report.html in the sweep's folder].")
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="The sweep's MLflow store, with credentials, or where it is now [default: the sweep's own]."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write what a sweep found as one HTML page: the answer, whether to believe it, and what all trials did.

    The page loads nothing and can be sent as it is. It is made from the sweep's ledger and files, running or not, and
    becomes an artifact of the sweep's MLflow run; where the tracking server is away, a line on stderr says so.

    Example: fastface-tuner report first -o report.html
    """
    from tuner.analysis.report_page import make_report
    from tuner.errors import UserError
    from tuner.files import write_whole
    from tuner.names import REPORT_FILE
    from tuner.sweep.folder import find_sweep
    from tuner.sweep.report import report_material

    folder = find_sweep(sweep)
    path = folder.path / REPORT_FILE if out is None else out
    material = report_material(folder)
    made = make_report(material)
    try:
        write_whole(path, made.page.encode("utf-8", "backslashreplace"))  # names of folders may be no text
    except OSError as error:
        raise UserError(f"{path}: the report cannot be written ({error.strerror}); name another file with -o") from None
    left = _attach(folder, path, tracking_uri)
    opening = made.opening
    if as_json:
        found = {
            "report": str(path),
            "answer": f"{opening.headline} {opening.more}".strip(),
            "doubt": opening.doubt,
            "belief": opening.belief,
            "best": material.chosen,
            "in_mlflow": left is None,
        }
        typer.echo(json.dumps(found, indent=2))
    else:
        typer.echo(f"{opening.headline} {opening.more}".strip())
        typer.echo(opening.doubt)
        typer.echo(f"report: {path}")
    if left is not None:
        typer.echo(f"fastface-tuner: the report is not in MLflow: {left}", err=True)


def _attach(folder: "SweepFolder", path: Path, tracking_uri: str | None) -> str | None:
    """Make the page an artifact of the sweep's run; return why not, where it cannot be."""
    from tuner.errors import UserError
    from tuner.tracking.runs import attach_file
    from tuner.tracking.store import reconnect
    from tuner.tracking.uri import reopen_uri

    description = folder.read()
    try:
        uri = reopen_uri(description.tracking_uri, tracking_uri)
        attach_file(reconnect(uri, run_id=description.parent_run_id), description.parent_run_id, path)
    except UserError as error:
        return str(error)
    return None
