"""`fastface-tuner confirm`."""

import json
from typing import Annotated

import typer


def confirm(
    sweep: Annotated[str, typer.Argument(help="A sweep's folder, or its name below sweeps/.")],
    *,
    top: Annotated[int, typer.Option(min=1, metavar="K", help="How many of the best distinct settings.")] = 3,
    seeds: Annotated[int, typer.Option(min=1, metavar="S", help="How many new seeds each of them gets.")] = 5,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|SWEEP",
            help="Train this too: a scheduler as published, such as cosine, or the best trial of another sweep.",
        ),
    ] = None,
    seed_from: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="First of the new seeds [default: the one after the search's]."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, and the progress to stderr.")
    ] = False,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store [default: the sweep's]; one with a password must be given again.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the sweep and the GPU where they are in use.")] = False,
) -> None:
    """Train the best settings of a sweep and the published one again with new seeds, and say what can be believed.

    All are trained under the same seeds and compared seed by seed; intervals and p values are corrected for choosing
    among K. Runs are kept: the same command goes on after any ending, and more --seeds or a larger --top trains only
    what is missing. Exits with 1 where no setting trained to its end.

    Example: fastface-tuner confirm first --top 3 --seeds 5 --baseline cosine
    """
    from rich.console import Console

    from tuner.analysis.confirmed_record import confirmation_json
    from tuner.analysis.confirmed_text import grid, lines
    from tuner.sweep.confirm import Wanted, confirm_sweep
    from tuner.sweep.ending import Ending
    from tuner.sweep.folder import find_sweep

    folder = find_sweep(sweep)
    wanted = Wanted(top=top, seeds=seeds, first_seed=seed_from, baselines=tuple(baseline or ()))
    console = Console(markup=False, stderr=as_json)
    with Ending() as ending:
        found = confirm_sweep(folder, wanted, console=console, ending=ending, tracking_uri=tracking_uri, wait=wait)
    if as_json:
        typer.echo(json.dumps(confirmation_json(found), indent=2))
        return
    grid(found).show(console)
    for line in lines(found):
        console.print(line, highlight=False, soft_wrap=True)
