"""Decides what runs next and files what comes out: the ledger first, then the people's views of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import yaml

from tuner.names import CURVE_FILE
from tuner.search.ledger import Ledger
from tuner.search.record import Suggestion
from tuner.sweep.executor import Assignment
from tuner.sweep.folder import SweepFolder
from tuner.sweep.progress import ProgressView
from tuner.tracking.mirror import CurveMirror
from tuner.tracking.runs import DataDescription, Status, start_trial, trial_name
from tuner.tracking.store import Tracker
from tuner.trials import TrialRecord

LOST_PROCESS = "the trial's process ended without a result: killed from outside, or out of memory"


@dataclass(slots=True)
class _Running:
    """A trial under way."""

    suggestion: Suggestion
    run_id: str
    started: float = field(default_factory=time.monotonic)
    steps: int = 0


class SweepSource:
    """A `TrialSource` over the ledger; each trial's MLflow run follows its curve file.

    A trial whose run would repeat an earlier one, step for step, takes that one's result and trains nothing.

    Args:
        ledger: the sweep's record, open for writing.
        trials: how many trials the sweep has in all.
        folder: where the trials' files go.
        tracker: the store of the MLflow runs; `parent_run_id` is the sweep's own run there.
        mirror: copies curve files into the runs; open, and closed by the caller.
        data: what the trials train on, for MLflow's dataset column.
        progress: hears how the sweep goes on.
        threads: CPU threads of a trial.
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
        self._running: dict[int, _Running] = {}

    def next_trial(self) -> Assignment | None:
        """Return the next trial that has to be trained, or None when the sweep has all its trials."""
        while sum(record.state != "RUNNING" for record in self._ledger.trials()) < self._trials:
            suggestion = self._ledger.ask()
            if suggestion is None:
                return None
            self._begin(suggestion)
            twin = self._ledger.twin(suggestion.number)
            if twin is None:
                return Assignment(suggestion.number, self._config(suggestion))
            self._repeat(suggestion.number, twin)
        return None

    def moved(self, number: int, result: Mapping[str, Any]) -> None:
        """Hear how far the running trial is."""
        if "failed" in result:
            return
        running = self._running[number]
        running.steps = result["steps"]
        self._progress.trial_moved(steps=running.steps, loss=result["loss"], lr=result["lr"])
        if result["metrics"]:
            self._mirror.log_metrics(running.run_id, step=running.steps - 1, metrics=dict(result["metrics"]))

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        """File a trial's outcome; a trial that failed costs the sweep nothing but its own time."""
        running = self._running[number]
        steps = running.steps if result is None else result.get("steps", running.steps)
        tell = partial(self._ledger.tell, number, steps_executed=steps, seconds=time.monotonic() - running.started)
        if result is None:
            self._file(tell(reason=LOST_PROCESS))
        elif "failed" in result:
            texts = {"traceback.txt": result["traceback"]} if result["traceback"] else {}
            self._file(tell(reason=result["failed"]), texts=texts)
        else:
            metrics = dict(result["metrics"])
            self._file(tell(value=metrics[self._ledger.plan.space.objective.metric], metrics=metrics))

    def _begin(self, suggestion: Suggestion) -> None:
        self._progress.trial_started(suggestion.number, suggestion.params)
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
        self._running[suggestion.number] = _Running(suggestion, run_id)

    def _config(self, suggestion: Suggestion) -> dict[str, Any]:
        folder = self._folder.trial(suggestion.number)
        folder.mkdir(parents=True, exist_ok=True)
        run = suggestion.config.to_dict()
        resolved = {**run, "resolved_scheduler": repr(suggestion.config.schedule().params)}
        self._mirror.follow(
            self._running[suggestion.number].run_id,
            folder / CURVE_FILE,
            texts={"config.yaml": yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)},
        )
        return {"run": run, "folder": str(folder), "threads": self._threads}

    def _repeat(self, number: int, twin: TrialRecord) -> None:
        """Give a trial the outcome of the one that it repeats; its MLflow run gets the same curve."""
        self._mirror.follow(self._running[number].run_id, self._folder.trial(twin.number) / CURVE_FILE)
        self._file(
            self._ledger.tell(
                number, value=twin.value, reason=twin.reason, metrics=twin.metrics, duplicate_of=twin.number
            )
        )

    def _file(self, record: TrialRecord, *, texts: Mapping[str, str] | None = None) -> None:
        """Bring the views in line with the ledger's new record."""
        run_id = self._running.pop(record.number).run_id
        tags = {"reason": record.reason} if record.reason else {}
        if record.duplicate_of is not None:
            tags["duplicate_of"] = str(record.duplicate_of)
        metrics = {**record.metrics, "steps_executed": record.steps_executed, "seconds": record.seconds}
        status: Status = "FINISHED" if record.state == "COMPLETE" else "FAILED"
        self._mirror.finish(run_id, status, metrics=metrics, tags=tags, texts=texts)
        best = self._ledger.best()
        if best is not None and best.value is not None:
            name = f"best_{self._ledger.plan.space.objective.metric}"
            self._mirror.log_metrics(self._parent_run_id, step=record.number, metrics={name: best.value})
        self._progress.trial_ended(record)
