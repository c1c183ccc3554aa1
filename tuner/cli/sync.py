"""`fastface-tuner sync`."""

from typing import Annotated

import typer


def sync(
    sweep: Annotated[str, typer.Argument(help="A sweep's folder, or its name below sweeps/.")],
    *,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="The sweep's MLflow store, with credentials, or where it is now [default: the sweep's own]."),
    ] = None,
) -> None:
    """Send to MLflow what it lacks of a sweep: runs, curves, metrics, texts, and how they ended.

    For a sweep that has ended or died while the tracking server was away. Exits with 1 where the server does not
    answer (yet).

    Example: fastface-tuner sync first
    """
    from tuner.errors import UserError
    from tuner.sweep.folder import find_sweep
    from tuner.sweep.in_line import bring_in_line
    from tuner.tracking.store import reconnect
    from tuner.tracking.uri import reopen_uri

    folder = find_sweep(sweep)
    description = folder.read()
    uri = reopen_uri(description.tracking_uri, tracking_uri)
    mended: list[str] = []

    def hear(line: str) -> None:
        mended.append(line)
        typer.echo(line)

    try:
        tracker = reconnect(uri, run_id=description.parent_run_id)
    except UserError as error:
        typer.echo(f"fastface-tuner: {error}", err=True)
        raise typer.Exit(1) from None
    left = bring_in_line(folder, tracker=tracker, hear=hear)
    if left is not None:
        typer.echo(f"fastface-tuner: {left}", err=True)
        raise typer.Exit(1)
    if not mended:
        typer.echo("nothing to send")
