"""`fastface-tuner compare`."""

import csv
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.cli.progress import progress_bar
from tuner.errors import UserError

if TYPE_CHECKING:
    from tuner.analysis.collected import Shown
    from tuner.analysis.grid import Grid
    from tuner.analysis.summary import Summary
    from tuner.analysis.target import Target

_TOP_OF_SEVERAL = 3
"""So many trials of each sweep are shown to people, where several are compared and nothing else is asked for."""


def compare(
    sweeps: Annotated[
        list[str],
        typer.Argument(
            metavar="SWEEP...",
            help="Folders of sweeps, names below sweeps/, or names or ids of runs and experiments in the MLflow store.",
        ),
    ],
    *,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help="Only trials like 'decay_factor>=4 and state=FINISHED'."),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="KEY[,KEY]", help="Order of the trials; -KEY descends [default: best first].")
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Show the first N trials of each sweep [default: all].")
    ] = None,
    target_loss: Annotated[
        float | None, typer.Option(metavar="X", help="Also: after how many steps the loss was at most X.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="METRIC=V", help="Also: after how many steps a metric had reached V.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Judge the trials by this final metric [default: the sweep's own].")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store [default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a trial in a row.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Show the trials of sweeps, best first, and several sweeps side by side: values, parameters that differ, cost.

    A key of --where and --sort is a parameter, a setting, a metric, or one of: sweep, trial, state, value, scheduler,
    base_lr, steps_executed, steps_shared, seconds, minutes, target_steps. Conditions are joined by and, or, not.

    A loss counts as the mean of the last twentieth of the run. Times are at the sweep's pace, from scratch.

    Example: fastface-tuner compare first second --target accuracy=0.8

    Example: fastface-tuner compare first --where 'decay_factor>=4' --sort -tar_at_far --top 5
    """
    from tuner.analysis.collected import check_metric
    from tuner.analysis.compare import trial_grid, without_repeated_names
    from tuner.analysis.select import first, select
    from tuner.analysis.summary import summarize
    from tuner.analysis.target import larger_is_better
    from tuner.sweep.collect import find_collected

    if sum((as_json, as_csv, as_markdown)) > 1:
        raise UserError("one form of output can be printed, but got several of --json, --csv and --markdown; keep one")
    goal = _goal(target_loss, target)
    found = without_repeated_names(
        [find_collected(sweep, tracking_uri=tracking_uri, metric=metric) for sweep in dict.fromkeys(sweeps)]
    )
    if metric is not None:
        check_metric(metric, found, option="--metric")
        found = [sweep.judged_by(metric, maximize=larger_is_better(metric)) for sweep in found]
    with progress_bar("reading what was recorded") as tell:
        kept = select(found, where=where or (), sort=sort, target=goal, progress=tell)
    summaries = [summarize(sweep, [e for e in kept if e.sweep is sweep], target=goal) for sweep in found]
    if as_json:
        trials = [_row(each, goal) for each in first(kept, top)]
        typer.echo(json.dumps({"sweeps": [each.as_json() for each in summaries], "trials": trials}, indent=2))
        return
    if as_csv:
        _print_csv(first(kept, top), goal)
        return
    shown = first(kept, top or (_TOP_OF_SEVERAL if len(found) > 1 else None))
    _show(summaries, trial_grid(shown, target=goal), goal, of=len(kept), markdown=as_markdown)


def _goal(loss: float | None, text: str | None) -> "Target | None":
    from tuner.analysis.target import Target, parse_target
    from tuner.names import METRIC_LOSS

    if loss is not None and text is not None:
        raise UserError("one target can be asked for, but got --target-loss and --target; keep one")
    if loss is not None:
        return Target(METRIC_LOSS, loss, maximize=False)
    return None if text is None else parse_target(text)


def _row(shown: "Shown", goal: "Target | None") -> dict[str, Any]:
    from tuner.analysis.compare import as_row

    reached = {"target_steps": shown.target_steps, "target_seconds": shown.target_seconds}
    return {"sweep": shown.sweep.name, **as_row(shown.trial), **({} if goal is None else reached)}


def _print_csv(shown: "Sequence[Shown]", goal: "Target | None") -> None:
    from tuner.analysis.keys import flat_row

    rows = [flat_row(each) for each in shown]
    for row, each in zip(rows, shown, strict=True):
        if goal is not None:
            row |= {"target_steps": each.target_steps, "target_seconds": each.target_seconds}
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["sweep", "trial"]
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _show(summaries: "Sequence[Summary]", trials: "Grid", goal: "Target | None", *, of: int, markdown: bool) -> None:
    """Print the trials, and below or above them what the sweeps come to."""
    from dataclasses import replace

    from rich.console import Console

    from tuner.analysis.compare import in_words, sweep_grid, title_of

    shown, alone = len(trials.columns[0].cells), len(summaries) == 1
    cut = [] if shown == of else [f"the first {shown} of {of} trials" if alone else "the first trials of each sweep"]
    if alone:
        words = in_words(summaries[0], target=goal)
        trials = replace(
            trials,
            title=", ".join([title_of(summaries[0].sweep), *cut]),
            caption=f"{words}\n{trials.caption}",
        )
        grids = [trials]
    else:
        grids = [sweep_grid(summaries, target=goal), replace(trials, title="".join(cut))]
    if markdown:
        typer.echo("\n".join(grid.as_markdown() for grid in grids), nl=False)
        return
    console = Console(markup=False)
    for place, grid in enumerate(grids):
        if place:
            console.print()
        grid.show(console)
