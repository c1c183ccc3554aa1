"""`fastface-tuner sweep`."""

from contextlib import ExitStack
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
    verify_sharing: Annotated[
        int,
        typer.Option(min=0, metavar="K", help="Then train K of the trials again, without sharing, and compare them."),
    ] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Where another sweep uses the GPU, wait for it to end.")] = False,
) -> None:
    """Search a scheduler's hyperparameters: one trial after another, each an MLflow run.

    Exits with 1 where every trial failed, or where --verify-sharing finds a trial that differs.

    Example: fastface-tuner sweep fastface --data faces/ --trials 12 --name first
    """
    from rich.console import Console

    from tuner.analysis.sharing import read_verification
    from tuner.sweep.run import new_sweep

    with ExitStack() as locks:
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
            verify=verify_sharing,
            wait=wait,
            locks=locks,
            console=Console(markup=False),  # names, paths and reasons may hold brackets
        )
    verified = read_verification(ledger.path.parent) if verify_sharing else None
    if ledger.best() is None or (verified is not None and not verified.passed):
        raise typer.Exit(1)
