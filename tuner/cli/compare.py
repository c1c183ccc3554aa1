"""`fastface-tuner compare`."""

import json
from typing import Annotated

import typer


def compare(
    sweep: Annotated[str, typer.Argument(help="A sweep's folder, or its name below sweeps/.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a sweep's trials, best first: parameters, value, steps and time.

    Example: fastface-tuner compare first --json
    """
    from rich.console import Console

    from tuner.analysis.compare import as_rows, table
    from tuner.search.ledger import Ledger
    from tuner.sweep.folder import find_sweep

    folder = find_sweep(sweep)
    ledger = Ledger.open(folder.journal, read_only=True)
    records, plan = ledger.trials(), ledger.plan
    objective = plan.space.objective
    if as_json:
        typer.echo(json.dumps({"trials": as_rows(records, maximize=objective.maximize)}, indent=2))
    else:
        source = plan.data or plan.space.workload.data.source
        title = f"{folder.read().name}: {objective.metric} after {plan.steps} steps on {source}"
        Console(markup=False).print(table(records, maximize=objective.maximize, metric=objective.metric, title=title))
