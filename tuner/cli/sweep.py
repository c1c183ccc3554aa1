"""`fastface-tuner sweep` and `fastface-tuner resume`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from tuner.search.ledger import Ledger

TrackingURI = Annotated[
    str | None, typer.Option(help="MLflow store [default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db].")
]
Wait = Annotated[bool, typer.Option("--wait", help="Where another sweep uses the GPU, wait for it to end.")]
Workload = Annotated[
    str | None,
    typer.Option(metavar="MODULE:CLASS|classification", help="Train this in place of faces; see tuner.workload."),
]
Verify = Annotated[
    int,
    typer.Option(min=0, metavar="K", help="Then train K of the trials again, without sharing, and compare them."),
]
MaxIdentities = Annotated[
    int | None, typer.Option(min=4, metavar="N", help="Use N of the identities, drawn by the split's seed.")
]
MaxImages = Annotated[
    int | None, typer.Option(min=20, metavar="N", help="Use whole identities with N images together at most.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--sets",
        metavar="FILE|DIR",
        help="Verify on this set of pairs, or on all .bin sets of a folder, and hold nobody out; may be repeated.",
    ),
]
BudgetSteps = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="End after N training steps that were actually run.")
]
BudgetMinutes = Annotated[float | None, typer.Option(min=0.01, metavar="M", help="End after M minutes of trials.")]
Concurrent = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Run N trials at a time, each on a GPU of its own [default: 1; on a cluster, one for each of its GPUs].",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT|auto", help="Run the trials on the machines of this Ray cluster, which goes on."),
]


def sweep(
    space: Annotated[
        str | None, typer.Argument(help="Search space: a YAML file, or the name of a shipped one [default: fastface].")
    ] = None,
    *,
    recipe: Annotated[
        str | None,
        typer.Option(help="Train what this recipe trains: a run's YAML file, or a shipped one [default: the space's]."),
    ] = None,
    workload: Workload = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|synthetic",
            help="Faces: a folder root/identity/image.*, or rendered ones [default: synthetic].",
        ),
    ] = None,
    max_identities: MaxIdentities = None,
    max_images: MaxImages = None,
    sets: Sets = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Number of trials [default: the space's, unless a budget is given].")
    ] = None,
    budget_steps: BudgetSteps = None,
    budget_minutes: BudgetMinutes = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of a trial [default: the space's].")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the search and of every trial's training [default: 0].")
    ] = None,
    sampler: Annotated[
        Literal["tpe", "random", "grid", "cmaes", "gp"] | None,
        typer.Option(help="What suggests trials [default: the space's]."),
    ] = None,
    cost_aware: Annotated[
        bool | None,
        typer.Option(
            "--cost-aware/--no-cost-aware",
            help="Weigh the sampler's candidates by the steps that they still cost [default: the space's].",
        ),
    ] = None,
    decision_grid: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="G", help="Decide on the LR every T/G steps only; 0: any step [default: the space's]."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The sweep's name [default: the space and the time].")] = None,
    out: Annotated[Path | None, typer.Option(help="The sweep's own folder [default: sweeps/NAME].")] = None,
    tracking_uri: TrackingURI = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Keep the ledger in this database or gRPC storage, without the password in the sweep's folder "
            "[default: $FASTFACE_TUNER_STORAGE, else a journal file].",
        ),
    ] = None,
    share: Annotated[
        bool | None,
        typer.Option(
            "--share/--no-share",
            help="Take over the steps that earlier trials in this working folder have trained [default: share].",
        ),
    ] = None,
    checkpoint_budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Disk that the checkpoints of shared steps may take [default: 20GiB]."),
    ] = None,
    verify_sharing: Verify = 0,
    concurrent: Concurrent = None,
    ray_address: RayAddress = None,
    wait: Wait = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep of this --name or --out; begin it if there is none.")
    ] = False,
) -> None:
    """Search a scheduler's hyperparameters: one trial after another, or several at a time, each an MLflow run.

    Exits with 1 where every trial failed, after 5 trials in a row that failed, and where --verify-sharing finds a trial
    that differs. Ctrl-C and SIGTERM leave a checkpoint and exit with 130 and 143; `fastface-tuner resume` then goes on,
    as after a kill or a power cut.

    Example: fastface-tuner sweep fastface --data faces/ --trials 12 --name first
    """
    from rich.console import Console

    from tuner.sweep.asked import Asked
    from tuner.sweep.begin import new_sweep
    from tuner.sweep.ending import Ending
    from tuner.sweep.resume import find_begun, resume_sweep

    asked = Asked(
        space=space,
        recipe=recipe,
        workload=workload,
        data=data,
        max_identities=max_identities,
        max_images=max_images,
        sets=tuple(sets or ()),
        steps=steps,
        seed=seed,
        sampler=sampler,
        cost_aware=cost_aware,
        decision_grid=decision_grid,
        share=share,
        checkpoint_budget=checkpoint_budget,
        trials=trials,
        budget_steps=budget_steps,
        budget_minutes=budget_minutes,
        name=name,
        out=out,
        tracking_uri=tracking_uri,
        concurrent=concurrent,
        ray_address=ray_address,
        storage=storage,
    )
    console = Console(markup=False)  # names, paths and reasons may hold brackets
    with Ending() as ending:
        begun = find_begun(asked) if resume else None
        if begun is not None:
            ledger = resume_sweep(begun, asked, console=console, ending=ending, wait=wait, verify=verify_sharing)
        else:
            ledger = new_sweep(asked, console=console, ending=ending, wait=wait, verify=verify_sharing)
    _exit(ledger, verified=verify_sharing > 0)


def resume(
    sweep: Annotated[str, typer.Argument(help="A sweep's folder, or its name below sweeps/.")],
    *,
    trials: Annotated[int | None, typer.Option(min=1, help="Number of trials in all [default: as before].")] = None,
    budget_steps: BudgetSteps = None,
    budget_minutes: BudgetMinutes = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store [default: the sweep's]; one with a password must be given again.")
    ] = None,
    verify_sharing: Verify = 0,
    concurrent: Concurrent = None,
    ray_address: RayAddress = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="Where the ledger's storage is now [default: where it was].")
    ] = None,
    wait: Wait = False,
) -> None:
    """Go on with a sweep where it was, however it ended; with a larger budget, also with one that is finished.

    No finished trial runs again, and an interrupted one goes on from its last recorded step under its own MLflow run.
    Exits as `sweep` does.

    Example: fastface-tuner resume first --trials 24
    """
    from rich.console import Console

    from tuner.sweep.asked import Asked
    from tuner.sweep.ending import Ending
    from tuner.sweep.folder import find_sweep
    from tuner.sweep.resume import resume_sweep

    asked = Asked(
        trials=trials,
        budget_steps=budget_steps,
        budget_minutes=budget_minutes,
        tracking_uri=tracking_uri,
        concurrent=concurrent,
        ray_address=ray_address,
        storage=storage,
    )
    with Ending() as ending:
        ledger = resume_sweep(
            find_sweep(sweep),
            asked,
            console=Console(markup=False),
            ending=ending,
            wait=wait,
            verify=verify_sharing,
        )
    _exit(ledger, verified=verify_sharing > 0)


def _exit(ledger: "Ledger", *, verified: bool) -> None:
    """Exit with 1 where no trial came to an end, or one gave something else when it was trained again."""
    from tuner.analysis.sharing import read_verification

    found = read_verification(ledger.path.parent) if verified else None
    if ledger.best() is None or (found is not None and not found.passed):
        raise typer.Exit(1)
