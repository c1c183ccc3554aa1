"""`fastface-tuner replay`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.progress import progress_bar
from tuner.cli.settings_option import DEFAULT_SCHEDULER, SchedulerOption, SetOption, parse_settings
from tuner.errors import UserError
from tuner.names import Setting

if TYPE_CHECKING:
    from tuner.analysis.loss_log import LossLog
    from tuner.config.space_model import SpaceFile

_RUN = "runs:/"
_LATE_ROWS = 20
"""A log whose first row is this many rows late begins in the middle of a run."""


def replay(
    losses: Annotated[
        str, typer.Argument(help="CSV with the columns step, loss and perhaps lr; or an MLflow run, runs:/ID.")
    ],
    *,
    scheduler: SchedulerOption = None,
    settings: SetOption = None,
    base_lr: Annotated[
        float | None, typer.Option(help="LR that the schedule multiplies [default: the highest recorded LR].")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Length of the run that fractions refer to [default: the log's].")
    ] = None,
    loss_delay: Annotated[
        int, typer.Option(min=0, max=1, help="Steps that the schedule reads a loss late; 1 is the published timing.")
    ] = 1,
    fit: Annotated[
        bool, typer.Option("--fit", help="Find settings that reproduce the log's LRs; those of --set stay.")
    ] = False,
    space: Annotated[
        str | None, typer.Option(help="Search space, a YAML file or a shipped name: its fixed settings and base LR.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Draw this many configurations of the space and count what they do.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw loss, detector and LR into this file (png, svg, pdf).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store [default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db].")
    ] = None,
) -> None:
    """Show which LR changes a scheduler would have made on a recorded loss curve.

    Steps are numbered as in the log; a change is at the first step with the new LR. Where the log has LRs, its changes
    stand beside those of the replay.

    Example: fastface-tuner replay run.csv --scheduler haar --set patience=4962 --base-lr 0.02

    Example: fastface-tuner replay run.csv --scheduler haar --fit --plot fit.png

    Example: fastface-tuner replay run.csv --space fastface --samples 1000
    """
    given = parse_settings(settings)
    for name, used in {"--fit": fit, "--plot": plot is not None}.items():
        if used and samples is not None:
            raise UserError(
                f"`{name}` is for one configuration, but `--samples` asks for {samples}; drop one of the two"
            )
    log = _load(losses, tracking_uri)
    if steps is not None and steps < log.num_steps:
        raise UserError(
            f"`--steps >= {log.num_steps}`, the log's length, must hold, but got {steps}; cut the log first"
        )
    total_steps = steps or log.num_steps
    if log.row_steps[0] > _LATE_ROWS * log.steps_between_rows():
        typer.echo(f"note: {losses} begins at step {log.row_steps[0]}; the steps before get its first loss", err=True)
    if samples is not None:
        loaded = _load_space(space or scheduler or DEFAULT_SCHEDULER, scheduler, total_steps)
        _try_space(loaded, scheduler, given, samples, log, total_steps=total_steps, delay=loss_delay, as_json=as_json)
        return
    if space is not None:
        from tuner.analysis.replay_samples import pin

        loaded = _load_space(space, scheduler, total_steps)
        entry = next(entry for entry in loaded.schedulers if scheduler in (None, entry.name))
        scheduler, given = entry.name, pin(entry.name, entry.fixed, given)
        base_lr = base_lr if base_lr is not None or log.lr is not None else loaded.reference_base_lr
    scheduler = scheduler or DEFAULT_SCHEDULER
    if fit:
        from tuner.analysis.fit import fit as find

        with progress_bar(f"fitting {scheduler}") as tell:
            found = find(scheduler, log, fixed=given, total_steps=total_steps, delay=loss_delay, progress=tell)
        given = dict(found.settings)
        base_lr = found.base_lr if base_lr is None else base_lr
    base_lr = _base_lr(log, base_lr)
    _replay_one(scheduler, given, log, base_lr, total_steps, delay=loss_delay, plot=plot, as_json=as_json, fitted=fit)


def _load(losses: str, tracking_uri: str | None) -> "LossLog":
    if not losses.startswith(_RUN):
        from tuner.analysis.loss_csv import read_loss_csv

        return read_loss_csv(Path(losses))
    from tuner.tracking.store import connect  # first, because it sets MLflow up before MLflow is imported
    from tuner.tracking.uri import resolve_uri, sqlite_path

    uri = resolve_uri(tracking_uri)
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        raise UserError(f"{losses}: there is no tracking store at {uri}; name the store with --tracking-uri")
    tracker = connect(uri)
    from tuner.analysis.loss_run import read_loss_run

    with tracker.asked_to(f"read {losses}"):
        return read_loss_run(tracker.client, losses.removeprefix(_RUN))


def _load_space(name: str, scheduler: str | None, total_steps: int) -> "SpaceFile":
    from tuner.config.space_check import check_space
    from tuner.config.space_file import load_space

    loaded = load_space(name)
    check_space(loaded, steps=total_steps)
    names = [entry.name for entry in loaded.schedulers]
    if scheduler is not None and scheduler not in names:
        raise UserError(f"{loaded.file}: `{scheduler}` is not a scheduler of this space; it has {', '.join(names)}")
    return loaded


def _base_lr(log: "LossLog", given: float | None) -> float:
    if given is None and log.lr is None:
        raise UserError(f"{log.source}: there is no column `lr` to take the base LR from; give --base-lr")
    value = given if given is not None or log.lr is None else float(log.lr.values.max())
    if value is None or not 0 < value < float("inf"):
        raise UserError(f"`--base-lr > 0` must hold, but got {value}; 0.02 is the published value")
    return value


def _replay_one(
    scheduler: str,
    settings: Mapping[str, Setting],
    log: "LossLog",
    base_lr: float,
    total_steps: int,
    *,
    delay: int,
    plot: Path | None,
    as_json: bool,
    fitted: bool,
) -> None:
    from rich.console import Console

    from tuner.analysis.replay import compare, trace
    from tuner.analysis.replay import replay as run
    from tuner.analysis.replay_report import changes_table, replay_data, summary
    from tuner.schedulers.registry import resolve

    schedule = resolve(scheduler, settings, total_steps=total_steps)
    with progress_bar(f"replaying {log.num_steps:,} steps") as tell:
        replayed = run(schedule, log, base_lr=base_lr, delay=delay, progress=tell)
    agreement = compare(log, replayed)
    verdict = summary(replayed, agreement)
    if plot is not None:
        from tuner.analysis.replay_plot import draw_replay

        title = f"{scheduler} over {Path(log.source).name}, {total_steps:,} steps, base LR {base_lr:g}\n{verdict}"
        with progress_bar("drawing") as tell:
            heard = trace(schedule, log, progress=tell)
            draw_replay(plot, log=log, replay=replayed, trace=heard, title=title)
    if as_json:
        data = replay_data(
            replayed,
            log,
            scheduler=scheduler,
            settings=settings,
            base_lr=base_lr,
            total_steps=total_steps,
            delay=delay,
            agreement=agreement,
        )
        typer.echo(json.dumps(data, indent=2))
        return
    typer.echo(f"{scheduler} over {log.source}, {total_steps:,} steps, base LR {base_lr:g}")
    if replayed.changes or (agreement and agreement.pairs):
        Console().print(changes_table(replayed, agreement), highlight=False)
    typer.echo(verdict)
    if fitted:
        found = (
            "found" if agreement and agreement.complete else "no setting makes all of them; the closest that was found"
        )
        typer.echo(f"{found}: " + " ".join(f"--set {name}={value}" for name, value in settings.items()))
    if plot is not None:
        typer.echo(f"picture: {plot}")


def _try_space(
    space: "SpaceFile",
    scheduler: str | None,
    pinned: Mapping[str, Setting],
    samples: int,
    log: "LossLog",
    *,
    total_steps: int,
    delay: int,
    as_json: bool,
) -> None:
    from rich.console import Console

    from tuner.analysis import replay_samples as sampling
    from tuner.schedulers.registry import defaults

    drawn = sampling.draw(space, num=samples, scheduler=scheduler, pinned=pinned)
    names = [entry.name for entry in space.schedulers if scheduler in (None, entry.name)]
    configurations = [(name, defaults(name)) for name in names] + drawn
    with progress_bar(f"replaying {samples:,} configurations") as tell:
        found = sampling.outcomes(configurations, log, total_steps=total_steps, delay=delay, progress=tell)
    references, outcomes = found[: len(names)], found[len(names) :]
    summaries = sampling.by_scheduler(outcomes)
    if as_json:
        data = {
            "total_steps": total_steps,
            "space": space.file,
            **sampling.summarise(outcomes).as_data(),
            "schedulers": {name: summary.as_data() for name, summary in summaries.items()},
        }
        typer.echo(json.dumps(data, indent=2))
        return
    typer.echo(f"{samples:,} configurations of {space.file} over {log.source}, {total_steps:,} steps")
    Console().print(sampling.samples_table(summaries), highlight=False)
    for line in (*sampling.SAMPLES_LEGEND, *map(sampling.reference_line, references)):
        typer.echo(line)
