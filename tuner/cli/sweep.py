"""`fastface-tuner sweep`."""

from pathlib import Path
from typing import Annotated

import typer


def sweep(
    space: Annotated[str, typer.Argument(help="Search space: a YAML file, or the name of a shipped one.")] = "fastface",
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
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search and of every trial's training.")] = 0,
    decision_grid: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="G", help="Decide on the LR every T/G steps only; 0: any step [default: the space's]."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The sweep's name [default: the space and the time].")] = None,
    out: Annotated[Path | None, typer.Option(help="The sweep's own folder [default: sweeps/NAME].")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store [default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db].")
    ] = None,
    share: Annotated[
        bool, typer.Option(help="Take over the steps that earlier trials in this working folder have trained.")
    ] = True,
    checkpoint_budget: Annotated[
        str, typer.Option(metavar="SIZE", help="Disk that the checkpoints of shared steps may take.")
    ] = "20GiB",
) -> None:
    """Search a scheduler's hyperparameters: one trial after another, each an MLflow run.

    Exits with 1 where every trial failed.

    Example: fastface-tuner sweep fastface --data faces/ --trials 12 --name first
    """
    from rich.console import Console

    from tuner.sweep.run import new_sweep

    ledger = new_sweep(
        space,
        data=data,
        trials=trials,
        steps=steps,
        seed=seed,
        decision_grid=decision_grid,
        name=name,
        out=out,
        tracking_uri=tracking_uri,
        share=share,
        checkpoint_budget=checkpoint_budget,
        console=Console(markup=False),  # names, paths and reasons may hold brackets
    )
    if ledger.best() is None:
        raise typer.Exit(1)
