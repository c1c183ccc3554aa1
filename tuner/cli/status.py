"""`fastface-tuner status`."""

import json
from typing import Annotated

import typer


def status(
    sweep: Annotated[str, typer.Argument(help="A sweep's folder, or its name below sweeps/.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show where a sweep stands, whether it runs or not: trials, the best, the running trials' steps, how to resume.

    Example: fastface-tuner status first --json
    """
    from tuner.analysis.words import fixed, setting_line
    from tuner.sweep.folder import find_sweep
    from tuner.sweep.lock import is_running
    from tuner.sweep.status import sweep_status

    folder = find_sweep(sweep)
    found = sweep_status(folder, running=is_running(folder.path) is not None)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
        return
    failed = f", {found.failed} failed" if found.failed else ""
    done = found.budget.out_of(found.complete + found.failed)
    typer.echo(f"{found.name}: {found.state}; {done} done{failed}")
    best = found.best
    if best is not None and best.value is not None:
        typer.echo(f"best: trial {best.number} with {found.metric} {fixed(best.value)}: {setting_line(best.params)}")
    for each in found.under_way:
        trial, point = each.trial, each.point
        progress = "no step yet"
        if point is not None:
            progress = f"step {point.step + 1} of {found.steps}, loss {point.loss:.3f}, lr {point.lr:.2g}"
        typer.echo(f"trial {trial.number}: {progress}  {setting_line(trial.params)}")
    typer.echo(f"{found.steps_executed} steps trained ({found.steps_repeated} again), {found.steps_shared} shared")
    if found.last_failure is not None:
        typer.echo(f"the last failure: {found.last_failure}")
    if found.command is not None:
        typer.echo(f"go on with: {found.command}")
