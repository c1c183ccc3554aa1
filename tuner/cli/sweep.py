"""`fastface-tuner sweep` and `fastface-tuner resume`."""

from pathlib import Path
from typing import Annotated

import typer

_TRACKING_HELP = "MLflow store [default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db]."


def sweep(
    space: Annotated[
        str | None, typer.Argument(help="Search space: a YAML file, or the name of a shipped one [default: fastface].")
    ] = None,
    *,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|synthetic",
            help="Faces: a folder root/identity/image.*, or rendered ones [default: synthetic].",
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Number of trials [default: the space's].")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of a trial [default: the space's].")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the search and of every trial's training [default: 0].")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The sweep's name [default: the space and the time].")] = None,
    out: Annotated[Path | None, typer.Option(help="The sweep's own folder [default: sweeps/NAME].")] = None,
    tracking_uri: Annotated[str | None, typer.Option(help=_TRACKING_HELP)] = None,
    share: Annotated[
        bool | None,
        typer.Option(
            "--share/--no-share",
            help="Take over the steps that earlier trials in this working folder have trained [default: share].",
        ),
    ] = None,
    checkpoint_budget: Annotated[
        str, typer.Option(metavar="SIZE", help="Disk that the checkpoints of shared steps may take.")
    ] = "20GiB",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep of this --name or --out; begin it if there is none.")
    ] = False,
) -> None:
    """Search a scheduler's hyperparameters: one trial after another, each an MLflow run.

    Exits with 1 where every trial failed, and after 5 trials in a row that failed. Ctrl-C and SIGTERM leave a
    checkpoint and exit with 130 and 143; `fastface-tuner resume` then goes on, as after a kill or a power cut.

    Example: fastface-tuner sweep fastface --data faces/ --trials 12 --name first
    """
    from rich.console import Console

    from tuner.sweep.ending import Ending
    from tuner.sweep.resume import Asked, find_begun, resume_sweep
    from tuner.sweep.run import new_sweep

    console = Console(markup=False)  # names, paths and reasons may hold brackets
    with Ending() as ending:
        begun = find_begun(name, out) if resume else None
        if begun is not None:
            ledger = resume_sweep(
                begun,
                trials=trials,
                tracking_uri=tracking_uri,
                asked=Asked(space=space, steps=steps, seed=seed, data=data, share=share),
                console=console,
                ending=ending,
            )
        else:
            ledger = new_sweep(
                space or "fastface",
                data=data,
                trials=trials,
                steps=steps,
                seed=seed or 0,
                name=name,
                out=out,
                tracking_uri=tracking_uri,
                share=share is not False,
                checkpoint_budget=checkpoint_budget,
                console=console,
                ending=ending,
            )
    if ledger.best() is None:
        raise typer.Exit(1)


def resume(
    sweep: Annotated[str, typer.Argument(help="A sweep's folder, or its name below sweeps/.")],
    *,
    trials: Annotated[int | None, typer.Option(min=1, help="Number of trials in all [default: as before].")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store [default: the sweep's]; one with a password must be given again.")
    ] = None,
) -> None:
    """Go on with a sweep where it was, however it ended; with --trials, also with one that is finished.

    No finished trial runs again, and an interrupted one goes on from its last recorded step under its own MLflow run.
    Exits as `sweep` does.

    Example: fastface-tuner resume first --trials 24
    """
    from rich.console import Console

    from tuner.sweep.ending import Ending
    from tuner.sweep.folder import find_sweep
    from tuner.sweep.resume import resume_sweep

    with Ending() as ending:
        ledger = resume_sweep(
            find_sweep(sweep),
            trials=trials,
            tracking_uri=tracking_uri,
            console=Console(markup=False),
            ending=ending,
        )
    if ledger.best() is None:
        raise typer.Exit(1)
