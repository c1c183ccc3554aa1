"""`fastface-tuner sync`."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tuner.sweep.run_folder import RunFolder


def sync(
    sweep: Annotated[
        str, typer.Argument(help="A sweep's folder, or its name below sweeps/; or the folder of a finished run.")
    ],
    *,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="The sweep's MLflow store, with credentials, or where it is now [default: the sweep's own]."),
    ] = None,
) -> None:
    """Send to MLflow what it lacks of a sweep or a run: runs, curves, metrics, texts, and how they ended.

    For one that has ended or died while the tracking server was away. Exits with 1 where the server does not
    answer (yet).

    Example: fastface-tuner sync first
    """
    from tuner.analysis.words import count
    from tuner.errors import UserError
    from tuner.sweep.confirm_runs import ConfirmRuns
    from tuner.sweep.folder import find_sweep
    from tuner.sweep.in_line import bring_in_line
    from tuner.sweep.run_folder import RunFolder
    from tuner.tracking.store import reconnect
    from tuner.tracking.uri import reopen_uri

    run = RunFolder.of_argument(sweep)
    if run is not None:
        _sync_run(run, tracking_uri)
        return
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
    unsent = ConfirmRuns(folder.path).num_unsent
    if unsent:
        typer.echo(
            f"fastface-tuner: MLflow lacks {count(unsent, 'run')} of the confirmation; send them with the command that "
            f"made them: fastface-tuner confirm {folder.argument}",
            err=True,
        )
        raise typer.Exit(1)


def _sync_run(folder: "RunFolder", tracking_uri: str | None) -> None:
    from tuner.errors import UserError
    from tuner.sweep.single_view import send_rest

    record = folder.read()
    if record.state != "finished":
        raise UserError(
            f"a run must be finished for its rest to be sent, but {folder.path} is {record.state}; "
            f"go on with it: {folder.command}"
        )
    if record.mirrored:
        typer.echo("nothing to send")
    elif not send_rest(record, folder, tracking_uri=tracking_uri, hear=typer.echo).mirrored:
        raise typer.Exit(1)
