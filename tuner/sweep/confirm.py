"""Confirm the best settings of a sweep: train them again with new seeds, and say what can be believed."""

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from rich.console import Console

from tuner.analysis.confirmed import Confirmation, Contender, Cost
from tuner.analysis.confirmed_record import write_confirmation
from tuner.errors import SweepStoppedError, UserError
from tuner.room import patiently
from tuner.search.ledger import Ledger
from tuner.search.plan import planned_workload, run_key
from tuner.sweep.confirm_runs import ConfirmRun, ConfirmRuns
from tuner.sweep.confirm_source import ConfirmSource, Task
from tuner.sweep.confirm_view import ConfirmView, open_group
from tuner.sweep.contenders import choose_contenders, config_of, new_seeds
from tuner.sweep.data import prepare
from tuner.sweep.devices import first_visible
from tuner.sweep.disk import check_disk, needs
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepFolder
from tuner.sweep.lock import device_lock, sweep_lock
from tuner.sweep.ray_processes import RayProcesses
from tuner.sweep.run import INTERRUPTED_SENDING_SECONDS, LAST_SENDING_SECONDS
from tuner.sweep.run_bar import RunBar
from tuner.tracking.environment import DataDescription, num_cores
from tuner.tracking.runs import Status
from tuner.tracking.uri import reopen_uri, sqlite_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be confirmed: the best `top` settings with `seeds` new seeds each, beside `baselines`.

    `first_seed` None is the one after the search's. A baseline is a scheduler's name or another sweep.
    """

    top: int = 3
    seeds: int = 5
    first_seed: int | None = None
    baselines: tuple[str, ...] = ()

    def command(self, folder: SweepFolder) -> str:
        """Return the command line that asks for this."""
        first = [] if self.first_seed is None else ["--seed-from", str(self.first_seed)]
        named = [word for baseline in self.baselines for word in ("--baseline", shlex.quote(baseline))]
        words = ["--top", str(self.top), "--seeds", str(self.seeds), *first, *named]
        return " ".join(["fastface-tuner confirm", folder.argument, *words])


def confirm_sweep(
    folder: SweepFolder,
    wanted: Wanted,
    *,
    console: Console,
    ending: Ending,
    tracking_uri: str | None = None,
    wait: bool = False,
    actor: type[Any] | None = None,
) -> Confirmation:
    """Train what the confirmation still lacks, leave the result in the sweep's folder and in MLflow, and return it.

    Runs that have ended are taken as they are: asked again, with more seeds or settings too, only the others are
    trained. Settings share steps under each seed as trials of a sweep do.

    Args:
        folder: the sweep, which no process may be running.
        wanted: what to confirm.
        console: hears of the progress.
        ending: hears Ctrl-C and SIGTERM.
        tracking_uri: where the sweep's MLflow store is now; None: where it was.
        wait: wait for the sweep to end, and for the GPU.
        actor: the Tune trainable that runs a trial; None takes `tuner.sweep.trainable.TrialActor`.

    Raises:
        UserError: something that was asked for cannot be; nothing was trained then.
        SweepStoppedError: too many runs failed in a row, or none of the settings that the search picked ended well.
    """
    tell = partial(console.print, highlight=False, soft_wrap=True)
    description = folder.read()
    uri = reopen_uri(description.tracking_uri, tracking_uri)
    with ExitStack() as locks:
        locks.enter_context(sweep_lock(folder.path, wait=wait, tell=tell))
        ledger = Ledger.open(folder.journal, read_only=True)
        plan = ledger.plan
        contenders, notes = choose_contenders(ledger, folder, top=wanted.top, baselines=wanted.baselines)
        if description.budget.spent(ledger.trials()) < 1:
            trials = description.budget.out_of(ledger.num_finished)
            notes.append(f"the sweep is not finished: {trials} are done; what it finds later may be better")
        for note in notes:
            tell(note)
        seeds = new_seeds(plan, number=wanted.seeds, first=wanted.first_seed)
        runs = ConfirmRuns(folder.path)
        tasks = [_task(ledger, each, seed) for seed in seeds for each in contenders]
        left = [task for task in tasks if (run := runs.get(task.key)) is None or run.ended is None]
        done = f"{len(tasks) - len(left)} of {len(tasks)} runs are done"
        tell(f"{done}: {len(contenders)} settings, new seeds {_listed(seeds)}")
        faces: DataDescription | None = None
        if left:
            store = None if description.store is None else Path(description.store)
            database = sqlite_path(uri)
            check_disk(
                needs(folder=runs.path, store=store, database=database, steps=plan.steps, trials=len(left)), tell=tell
            )
            faces = prepare(planned_workload(plan), console)
            if description.faces not in (None, faces.digest):
                raise UserError(
                    f"a confirmation needs what the sweep had, but {planned_workload(plan).inputs} have changed; "
                    "restore what was there, or begin a new sweep"
                )
            locks.enter_context(device_lock(first_visible(), sweep=folder.path, wait=wait, tell=tell))
        runs.path.mkdir(exist_ok=True)
        view = _view(ledger, folder, runs, uri=uri, faces=faces, tell=tell)
        # Where it is interrupted, Ray goes last: it may take its time over that.
        with RayProcesses(ending) as processes, RunBar(console, runs=len(left), steps=plan.steps) as bar:
            if left:
                processes.begin()
            source = ConfirmSource(
                plan,
                tasks,
                runs=runs,
                view=view,
                progress=bar,
                description=description,
                threads=description.threads or num_cores(),
            )
            closing = _Closing(source, view, bar, left=f"; go on with: {wanted.command(folder)}")
            with ending.closing(closing):
                if left:
                    from tuner.sweep.executor import execute
                    from tuner.sweep.trainable import TrialActor

                    execute(source, actor or TrialActor, ending=ending, processes=processes)
                    processes.end()
                closing.status = "FINISHED" if source.cause is None else "FAILED"
        if source.cause is not None:
            raise SweepStoppedError(f"{source.cause}; then go on with: {wanted.command(folder)}")
        found = _result(ledger, folder, contenders, seeds, runs=runs, notes=notes, lost=source.lost)
        if view is not None and view.complete:
            try:
                view.publish(found)
            except UserError as error:
                tell(f"MLflow: {error}; confirm again to send it")
        if found.findings.winner is None:
            first = next(iter(found.failures), "no run was made")
            raise SweepStoppedError(f"no setting that the search picked trained to its end: {first}")
        patiently(lambda: write_confirmation(folder.path, found), folder.path)
    return found


def _task(ledger: Ledger, contender: Contender, seed: int) -> Task:
    config = config_of(ledger.plan, contender, seed=seed)
    return Task(contender=contender, seed=seed, config=config, key=run_key(config))


def _view(
    ledger: Ledger, folder: SweepFolder, runs: ConfirmRuns, *, uri: str, faces: DataDescription | None, tell: Any
) -> ConfirmView | None:
    """Return the view in MLflow; None, and a line, where the store is away: all is sent by the next confirmation."""
    plan, description = ledger.plan, folder.read()
    params = {
        "sweep": description.name,
        "objective": plan.space.objective.metric,
        "total_steps": plan.steps,
        "search_seed": plan.seed,
    }
    try:
        tracker, group = open_group(folder, uri=uri, params=params, data=faces)
    except UserError as error:
        tell(f"MLflow: {error}; the runs are recorded in {runs.path}, confirm again to send them")
        return None
    return ConfirmView(runs, tracker=tracker, group=group, steps=plan.steps)


class _Closing:
    """Ends the MLflow runs, once, whichever thread comes first; says how to go on after an interruption."""

    def __init__(self, source: ConfirmSource, view: ConfirmView | None, bar: RunBar, *, left: str) -> None:
        self.status: Status = "KILLED"
        self._source, self._view, self._bar, self._left = source, view, bar, left
        self._lock = Lock()
        self._done = False

    def __call__(self) -> None:
        with self._lock:
            if self._done:
                return
            self._done = True
            broken_off = self.status == "KILLED"
            if broken_off:
                self._bar.say(f"interrupted after {self._source.num_done} of {self._source.num_tasks} runs{self._left}")
            self._source.abandon()
            if self._view is not None:
                seconds = INTERRUPTED_SENDING_SECONDS if broken_off else LAST_SENDING_SECONDS
                for line in self._view.close(self.status, timeout=seconds):
                    self._bar.say(line)


def _result(
    ledger: Ledger,
    folder: SweepFolder,
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    *,
    runs: ConfirmRuns,
    notes: Sequence[str],
    lost: Sequence[str],
) -> Confirmation:
    """Collect what the runs gave."""
    objective = ledger.plan.space.objective
    found = [[runs.get(_task(ledger, each, seed).key) for seed in seeds] for each in contenders]
    used = [run for row in found for run in row if run is not None]
    failures = [f"{run.name} failed with seed {run.seed}: {run.reason}" for run in used if run.state == "FAIL"]
    others = sorted(runs.seeds() - set(seeds))
    if others:
        notes = [
            *notes,
            f"runs with the seeds {_listed(others)} are there too, but were not asked for and do not count",
        ]
    group = next((run.group for run in used if run.group is not None), None)
    return Confirmation(
        sweep=folder.read().name,
        metric=objective.metric,
        maximize=objective.maximize,
        steps=ledger.plan.steps,
        search_seed=ledger.plan.seed,
        seeds=tuple(seeds),
        contenders=tuple(contenders),
        values=tuple(tuple(_value(run, objective.metric) for run in row) for row in found),
        cost=Cost(
            runs=len(used),
            steps=sum(run.steps_executed - run.steps_repeated + run.steps_shared for run in used),
            executed=sum(run.steps_executed for run in used),
            repeated=sum(run.steps_repeated for run in used),
            shared=sum(run.steps_shared for run in used),
            seconds=sum(run.seconds for run in used),
        ),
        failures=(*failures, *lost),
        notes=tuple(notes),
        group_run_id=group,
    )


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) if len(seeds) <= 10 else f"{seeds[0]} to {seeds[-1]}"


def _value(run: ConfirmRun | None, metric: str) -> float | None:
    return run.metrics[metric] if run is not None and run.state == "COMPLETE" else None
