"""Hands the runs of a confirmation to the executor, one after another, and files what comes out."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from tuner.analysis.confirmed import Contender
from tuner.analysis.confirmed_text import in_words
from tuner.analysis.words import fixed
from tuner.config.run import RunConfig
from tuner.errors import NoRoomError
from tuner.names import STAGES_DIR, TRACEBACK_FILE
from tuner.room import wait_for_room
from tuner.search.plan import Plan
from tuner.sweep.confirm_runs import ConfirmRun, ConfirmRuns
from tuner.sweep.confirm_view import ConfirmView
from tuner.sweep.folder import SweepDescription
from tuner.sweep.jobs import FAILED, NO_ROOM, Job
from tuner.sweep.run_bar import RunBar
from tuner.sweep.source import FAILURES_IN_A_ROW, LOST_PROCESS


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run to make: a setting under a seed; `key` is that of its configuration."""

    contender: Contender
    seed: int
    config: RunConfig
    key: str


class ConfirmSource:
    """A `TrialSource` over the tasks of a confirmation.

    Those that have ended before are only sent to MLflow, where it lacks them. A run whose process was killed from
    outside stays as it is, for the next time, and `lost` has a line for it. When too many fail in a row there is no
    next run, and `cause` says why.

    Args:
        plan: the sweep's.
        tasks: all runs that are wanted, in order; seed by seed, so that what there is can be compared at any time.
        runs: the records.
        view: the runs in MLflow; None where the store is away.
        progress: hears how it goes on.
        description: the sweep's, which says where steps are shared.
        threads: CPU threads of a run.
    """

    def __init__(
        self,
        plan: Plan,
        tasks: Sequence[Task],
        *,
        runs: ConfirmRuns,
        view: ConfirmView | None,
        progress: RunBar,
        description: SweepDescription,
        threads: int,
    ) -> None:
        self.cause: str | None = None
        self.lost: list[str] = []
        self.num_tasks = len(tasks)
        self._metric = plan.space.objective.metric
        self._runs, self._view, self._progress = runs, view, progress
        self._description, self._threads = description, threads
        self._waiting: list[Task] = []
        self._running: dict[int, tuple[ConfirmRun, float]] = {}
        self._failures = 0
        for task in tasks:
            run = runs.get(task.key)
            if run is None or run.ended is None:
                self._waiting.append(task)
            elif view is not None:
                view.send(run, task.config, label=self._label(run.number))
        self.num_done = self.num_tasks - len(self._waiting)

    def next_trial(self) -> Job | None:
        """Return the next run that has to be trained."""
        if self.cause is not None or not self._waiting:
            return None
        task = self._waiting.pop(0)
        wait_for_room(self._runs.path)
        run = self._begin(task)
        self._progress.started(f"{run.name}, seed {run.seed}")
        if self._view is not None:
            self._view.begun(run, task.config, label=self._label(run.number))
        self._running[run.number] = run, time.monotonic()
        folder = self._runs.folder(run.number)
        return Job(
            run.number,
            {
                "run": task.config.to_dict(),
                "folder": str(folder),
                "threads": self._threads,
                "label": self._label(run.number),
                "store": self._description.store_of(folder),
                "checkpoint_budget": self._description.checkpoint_budget,
            },
        )

    def moved(self, number: int, result: Mapping[str, Any]) -> None:
        """Hear how far the running one is."""
        for text in (*result["messages"], *self._news()):
            self._progress.say(text)
        self._progress.moved(result["steps"])
        run, since = self._running[number]
        self._running[number] = _counted(run, result), since

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        """File a run's outcome; one that failed costs nothing but its own pairs."""
        if result is not None and NO_ROOM in result:
            raise NoRoomError(result[NO_ROOM])  # the run stays as it is, to be gone on with
        run, since = self._running.pop(number)
        if result is not None and "steps" in result:
            run = _counted(run, result)
            for text in result["messages"]:
                self._progress.say(text)
        if result is None:
            self._lose(run)
            return
        run = replace(run, ended=time.time(), seconds=run.seconds + time.monotonic() - since)
        metrics = {} if FAILED in result else dict(result["metrics"])
        value = metrics.get(self._metric, math.nan)
        if FAILED in result:
            with suppress(OSError):  # a full disk: the reason is what counts
                self._runs.folder(number).joinpath(TRACEBACK_FILE).write_text(result["traceback"], "utf-8")
            run = replace(run, state="FAIL", reason=result[FAILED])
        elif not math.isfinite(value):
            run = replace(run, state="FAIL", reason=f"the value must be finite, but is {value}")
        else:
            run = replace(run, state="COMPLETE", metrics=metrics)
        self._runs.write(run)
        shutil.rmtree(self._runs.folder(number) / STAGES_DIR, ignore_errors=True)
        if self._view is not None:
            self._view.filed(run, label=self._label(number))
        self.num_done += 1
        self._progress.ended(_line(run, self._metric))
        self._count_failure(run.reason)

    def abandon(self) -> None:
        """Show runs under way as stopped; their records keep them as running."""
        for number in self._running:
            if self._view is not None:
                self._view.broken_off(self._label(number))
        self._running.clear()

    def _begin(self, task: Task) -> ConfirmRun:
        known, contender = self._runs.get(task.key), task.contender
        if known is not None:
            return known
        return self._runs.write(
            ConfirmRun(
                number=self._runs.free_number(),
                key=task.key,
                name=in_words(contender),
                seed=task.seed,
                scheduler=contender.scheduler,
                settings=contender.settings,
                base_lr=contender.base_lr,
                state="RUNNING",
                begun=time.time(),
            )
        )

    def _lose(self, run: ConfirmRun) -> None:
        self.lost.append(f"{run.name} was lost with seed {run.seed}, confirm again to repeat it: {LOST_PROCESS}")
        if self._view is not None:
            self._view.broken_off(self._label(run.number))
        self._progress.ended(self.lost[-1])
        self._count_failure(LOST_PROCESS)

    def _count_failure(self, reason: str | None) -> None:
        self._failures = 0 if reason is None else self._failures + 1
        if self._failures == FAILURES_IN_A_ROW:
            self.cause = f"{FAILURES_IN_A_ROW} runs in a row failed, the last one because: {reason}"

    def _label(self, number: int) -> str:
        """Return what a run is called in the stage store: unlike any other, and known without the server."""
        return f"{self._description.parent_run_id}/confirm/{number}"

    def _news(self) -> list[str]:
        return [] if self._view is None else self._view.news()


def _counted(run: ConfirmRun, result: Mapping[str, Any]) -> ConfirmRun:
    return replace(
        run,
        steps_executed=result["steps_executed"],
        steps_repeated=result["steps_repeated"],
        steps_shared=result["steps_shared"],
        shared_with=dict(result["shared_with"]),
    )


def _line(run: ConfirmRun, metric: str) -> str:
    if run.state == "FAIL":
        return f"{run.name}, seed {run.seed}: failed: {run.reason}"
    cost = f"{run.steps_executed} steps trained, {run.steps_shared} shared, {run.seconds:.0f} s"
    return f"{run.name}, seed {run.seed}: {metric} {fixed(run.metrics[metric])}  {cost}"
