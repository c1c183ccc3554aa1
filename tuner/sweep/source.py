"""Decides what runs next and files what comes out: the ledger first, then the people's views of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tuner.errors import NoRoomError
from tuner.names import TRACEBACK_FILE
from tuner.room import wait_for_room
from tuner.search.ledger import Ledger
from tuner.search.record import Suggestion
from tuner.sweep.folder import SweepFolder
from tuner.sweep.jobs import Job
from tuner.sweep.progress import ProgressView
from tuner.sweep.view import RunView
from tuner.trials import TrialRecord

LOST_PROCESS = "the trial's process ended without a result: killed from outside, or out of memory"


@dataclass(frozen=True, slots=True)
class Sharing:
    """Whether and where trials share the steps that they have in common: the stage store, None for no sharing.

    `checkpoint_budget` is the most that its checkpoints may take, in bytes.
    """

    store: Path | None
    checkpoint_budget: int


@dataclass(slots=True)
class _Running:
    """A trial under way."""

    started: float = field(default_factory=time.monotonic)
    executed: int = 0
    shared: int = 0
    shared_with: Mapping[str, int] = field(default_factory=dict)


class SweepSource:
    """A `TrialSource` over the ledger.

    A trial whose run would repeat an earlier one, step for step, takes that one's result and trains nothing.

    Args:
        ledger: the sweep's record, open for writing.
        trials: how many trials the sweep has in all.
        folder: where the trials' files go.
        view: the sweep's MLflow runs; closed by the caller.
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
        view: RunView,
        progress: ProgressView,
        threads: int,
        sharing: Sharing,
    ) -> None:
        self._ledger = ledger
        self._trials = trials
        self._folder = folder
        self._view = view
        self._progress = progress
        self._threads = threads
        self._sharing = sharing
        self._running: dict[int, _Running] = {}

    def next_trial(self) -> Job | None:
        """Return the next trial that has to be trained, or None when the sweep has all its trials."""
        while sum(record.state != "RUNNING" for record in self._ledger.trials()) < self._trials:
            wait_for_room(self._folder.path)
            suggestion = self._ledger.ask()
            if suggestion is None:
                return None
            twin = self._ledger.twin(suggestion.number)
            self._begin(suggestion, twin)
            if twin is None:
                return Job(suggestion.number, self._config(suggestion))
            self._repeat(suggestion.number, twin)
        return None

    def moved(self, number: int, result: Mapping[str, Any]) -> None:
        """Hear how far the running trial is."""
        if "failed" in result:
            return
        running = self._running[number]
        self._count(running, result)
        for text in (*result["messages"], *self._view.news()):
            self._progress.message(text)
        self._progress.trial_moved(steps=result["steps"], shared=running.shared, loss=result["loss"], lr=result["lr"])

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        """File a trial's outcome; a trial that failed costs the sweep nothing but its own time."""
        if result is not None and "no_room" in result:
            raise NoRoomError(result["no_room"])  # the trial stays as it is, to be resumed
        running = self._running[number]
        if result is not None and "failed" not in result:
            self._count(running, result)
        tell = partial(
            self._ledger.tell,
            number,
            steps_executed=running.executed,
            steps_shared=running.shared,
            shared_with=running.shared_with,
            seconds=time.monotonic() - running.started,
        )
        if result is None:
            self._file(tell(reason=LOST_PROCESS))
        elif "failed" in result:
            texts = {TRACEBACK_FILE: result["traceback"]} if result["traceback"] else {}
            self._file(tell(reason=result["failed"]), texts=texts)
        else:
            metrics = dict(result["metrics"])
            self._file(tell(value=metrics[self._ledger.plan.space.objective.metric], metrics=metrics))

    def _begin(self, suggestion: Suggestion, twin: TrialRecord | None) -> None:
        self._progress.trial_started(suggestion.params)
        self._view.begun(suggestion.number, twin=None if twin is None else twin.number)
        self._running[suggestion.number] = _Running()

    def _config(self, suggestion: Suggestion) -> dict[str, Any]:
        folder = self._folder.trial(suggestion.number)
        folder.mkdir(parents=True, exist_ok=True)
        return {
            "run": suggestion.config.to_dict(),
            "folder": str(folder),
            "threads": self._threads,
            "label": self._view.label(suggestion.number),
            "store": None if self._sharing.store is None else str(self._sharing.store),
            "checkpoint_budget": self._sharing.checkpoint_budget,
        }

    def _repeat(self, number: int, twin: TrialRecord) -> None:
        """Give a trial the outcome of the one that it repeats."""
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
        """Show trials under way as stopped; the ledger keeps them as running."""
        for number in self._running:
            self._view.abandoned(number)
        self._running.clear()

    def _file(self, record: TrialRecord, *, texts: Mapping[str, str] | None = None) -> None:
        """Bring the views in line with the ledger's new record."""
        del self._running[record.number]
        self._view.filed(record, texts=texts)
        self._progress.trial_ended(record)
        for text in self._view.news():
            self._progress.message(text)

    @staticmethod
    def _count(running: _Running, result: Mapping[str, Any]) -> None:
        running.executed, running.shared = result["steps_executed"], result["steps_shared"]
        running.shared_with = dict(result["shared_with"])
