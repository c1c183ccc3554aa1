"""Decides what runs next and files what comes out: the ledger first, then the people's views of it."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml

from tuner.names import CURVE_FILE, STAGES_DIR
from tuner.search.ledger import Ledger
from tuner.search.record import Suggestion
from tuner.sweep.folder import SweepFolder
from tuner.sweep.jobs import FAILED, Job
from tuner.sweep.progress import ProgressView
from tuner.tracking.mirror import CurveMirror
from tuner.tracking.runs import DataDescription, Status, start_trial, trial_name
from tuner.tracking.store import Tracker
from tuner.trials import TrialRecord

LOST_PROCESS: Final = (
    "the trial's process ended without a result: killed from outside, or the host out of memory; "
    "for the latter, lower workload.optimizer.batch_size in the space"
)
FAILURES_IN_A_ROW: Final = 5
"""So many trials that ran and failed one after another stop the sweep; a repetition of a failed one does not count."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Whether and where trials share the steps that they have in common: the stage store, None for no sharing.

    Without one, each trial has a store of its own as long as it runs, so that it can be interrupted. The
    `checkpoint_budget` is the most that the checkpoints of a store may take, in bytes.
    """

    store: Path | None
    checkpoint_budget: int


@dataclass(slots=True)
class _Running:
    """A trial under way."""

    run_id: str
    resumed: bool = False
    seconds_before: float = 0.0
    started: float = field(default_factory=time.monotonic)
    executed: int = 0
    repeated: int = 0
    shared: int = 0
    shared_with: Mapping[str, int] = field(default_factory=dict)


class SweepSource:
    """A `TrialSource` over the ledger; each trial's MLflow run follows its curve file.

    A trial whose run would repeat an earlier one, step for step, takes that one's result and trains nothing. A trial
    that an earlier process left unfinished comes first, under its own run. When too many fail in a row there is no next
    trial, and `cause` says why.

    Args:
        ledger: the sweep's record, open for writing.
        trials: how many trials the sweep has in all.
        folder: where the trials' files go.
        tracker: the store of the MLflow runs; `parent_run_id` is the sweep's own run there.
        mirror: copies curve files into the runs; open, and closed by the caller.
        data: what the trials train on, for MLflow's dataset column.
        progress: hears how the sweep goes on.
        threads: CPU threads of a trial.
        sharing: where trials find steps that others have trained.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        trials: int,
        folder: SweepFolder,
        tracker: Tracker,
        parent_run_id: str,
        mirror: CurveMirror,
        data: DataDescription | None,
        progress: ProgressView,
        threads: int,
        sharing: Sharing,
    ) -> None:
        self._ledger = ledger
        self._trials = trials
        self._folder = folder
        self._tracker = tracker
        self._parent_run_id = parent_run_id
        self._mirror = mirror
        self._data = data
        self._progress = progress
        self._threads = threads
        self._sharing = sharing
        self._running: dict[int, _Running] = {}
        self._problem: str | None = None
        self._failures = 0
        self.cause: str | None = None

    def next_trial(self) -> Job | None:
        """Return the next trial that has to be trained, or None when the sweep has all its trials."""
        while self.cause is None and self._ledger.num_finished < self._trials:
            suggestion = self._ledger.ask()
            if suggestion is None:
                return None
            self._begin(suggestion)
            twin = self._ledger.twin(suggestion.number)
            if twin is None:
                return Job(suggestion.number, self._config(suggestion))
            self._repeat(suggestion.number, twin)
        return None

    def moved(self, number: int, result: Mapping[str, Any]) -> None:
        """Hear how far the running trial is."""
        running = self._running[number]
        self._count(running, result)
        for text in result["messages"]:
            self._progress.message(text)
        if self._mirror.problem not in (None, self._problem):
            self._problem = self._mirror.problem
            self._progress.message(f"MLflow: {self._problem}")
        self._progress.trial_moved(steps=result["steps"], shared=running.shared, loss=result["loss"], lr=result["lr"])
        if result["metrics"]:
            self._mirror.log_metrics(running.run_id, step=result["steps"] - 1, metrics=dict(result["metrics"]))

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        """File a trial's outcome; a trial that failed costs the sweep nothing but its own time."""
        running = self._running[number]
        if result is not None and "steps" in result:
            self._count(running, result)
        tell = partial(
            self._ledger.tell,
            number,
            steps_executed=running.executed,
            steps_repeated=running.repeated,
            steps_shared=running.shared,
            seconds=running.seconds_before + time.monotonic() - running.started,
        )
        if result is None:
            record = self._file(tell(reason=LOST_PROCESS))
        elif FAILED in result:
            record = self._file(tell(reason=result[FAILED]), texts={"traceback.txt": result["traceback"]})
        else:
            metrics = dict(result["metrics"])
            record = self._file(tell(value=metrics[self._ledger.plan.space.objective.metric], metrics=metrics))
        self._failures = 0 if record.state == "COMPLETE" else self._failures + 1
        if self._failures == FAILURES_IN_A_ROW:
            self.cause = f"{FAILURES_IN_A_ROW} trials in a row failed, the last one because: {record.reason}"

    def _begin(self, suggestion: Suggestion) -> None:
        self._progress.trial_started(suggestion.params)
        if suggestion.run_id is not None:
            curve = self._folder.trial(suggestion.number) / CURVE_FILE
            last_seen = curve.stat().st_mtime if curve.exists() else 0.0
            seconds = self._ledger.take_up(suggestion.number, last_seen=last_seen)
            self._running[suggestion.number] = _Running(suggestion.run_id, resumed=True, seconds_before=seconds)
            return
        run_id = start_trial(
            self._tracker,
            parent=self._parent_run_id,
            number=suggestion.number,
            name=trial_name(suggestion.number, suggestion.scheduler, suggestion.params),
            params={
                "scheduler": suggestion.scheduler,
                **suggestion.settings,
                "base_lr": suggestion.base_lr,
                "total_steps": suggestion.config.total_steps,
                "seed": suggestion.config.seed,
            },
            data=self._data,
        )
        self._ledger.annotate(suggestion.number, run_id=run_id)
        self._running[suggestion.number] = _Running(run_id)

    def _config(self, suggestion: Suggestion) -> dict[str, Any]:
        folder = self._folder.trial(suggestion.number)
        folder.mkdir(parents=True, exist_ok=True)
        run = suggestion.config.to_dict()
        resolved = {**run, "resolved_scheduler": repr(suggestion.config.schedule().params)}
        running = self._running[suggestion.number]
        self._mirror.follow(
            running.run_id,
            folder / CURVE_FILE,
            resumed=running.resumed,
            texts={"config.yaml": yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)},
        )
        return {
            "run": run,
            "folder": str(folder),
            "threads": self._threads,
            "label": running.run_id,
            "store": str(self._sharing.store or folder / STAGES_DIR),
            "checkpoint_budget": self._sharing.checkpoint_budget,
        }

    def _repeat(self, number: int, twin: TrialRecord) -> None:
        """Give a trial the outcome of the one that it repeats; its MLflow run gets the same curve."""
        running, curve = self._running[number], self._folder.trial(twin.number) / CURVE_FILE
        self._mirror.follow(running.run_id, curve, resumed=running.resumed)
        self._file(
            self._ledger.tell(
                number,
                value=twin.value,
                reason=twin.reason,
                metrics=twin.metrics,
                steps_shared=self._ledger.plan.steps if twin.state == "COMPLETE" else 0,
                duplicate_of=twin.number,
            )
        )

    def abandon(self) -> None:
        """End the MLflow runs of trials under way as KILLED; the ledger keeps those trials as running."""
        for running in self._running.values():
            self._mirror.finish(running.run_id, "KILLED")
        self._running.clear()

    def _file(self, record: TrialRecord, *, texts: Mapping[str, str] | None = None) -> TrialRecord:
        """Bring the views in line with the ledger's new record; return it."""
        shutil.rmtree(self._folder.trial(record.number) / STAGES_DIR, ignore_errors=True)
        running = self._running.pop(record.number)
        tags = {"reason": record.reason} if record.reason else {}
        if running.shared_with:
            tags["shared_with"] = ", ".join(f"{run} ({steps} steps)" for run, steps in running.shared_with.items())
        if record.duplicate_of is not None:
            tags["duplicate_of"] = str(record.duplicate_of)
        costs = {
            "steps_executed": record.steps_executed,
            "steps_repeated": record.steps_repeated,
            "steps_shared": record.steps_shared,
        }
        status: Status = "FINISHED" if record.state == "COMPLETE" else "FAILED"
        metrics = {**record.metrics, **costs, "seconds": record.seconds}
        self._mirror.finish(running.run_id, status, metrics=metrics, tags=tags, texts=texts)
        self._mirror.log_metrics(self._parent_run_id, step=record.number, metrics=self._totals())
        self._progress.trial_ended(record)
        return record

    def _totals(self) -> dict[str, float]:
        """Return the sweep's own metrics: the best so far, and what all trials cost and were spared."""
        records, best = self._ledger.trials(), self._ledger.best()
        totals: dict[str, float] = {
            "steps_executed": sum(record.steps_executed for record in records),
            "steps_shared": sum(record.steps_shared for record in records),
        }
        if best is not None and best.value is not None:
            totals[f"best_{self._ledger.plan.space.objective.metric}"] = best.value
        return totals

    @staticmethod
    def _count(running: _Running, result: Mapping[str, Any]) -> None:
        running.executed, running.shared = result["steps_executed"], result["steps_shared"]
        running.repeated = result["steps_repeated"]
        running.shared_with = dict(result["shared_with"])
