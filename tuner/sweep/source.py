"""Decides what runs next and files what comes out: the ledger first, then the people's views of it."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tuner.config.run import RunConfig
from tuner.config.run_file import run_text
from tuner.errors import NoRoomError
from tuner.names import CONFIG_FILE, CURVE_FILE, STAGES_DIR, TRACEBACK_FILE
from tuner.room import wait_for_room
from tuner.search.cost_aware import Prospect
from tuner.search.ledger import Ledger
from tuner.search.record import Suggestion
from tuner.sweep.asked import Budget
from tuner.sweep.folder import SweepFolder
from tuner.sweep.jobs import FAILED, NO_ROOM, Job
from tuner.sweep.progress import ProgressView
from tuner.trials import TrialRecord

if TYPE_CHECKING:
    from tuner.sweep.known_ground import KnownGround
    from tuner.sweep.view import RunView

LOST_PROCESS: Final = (
    "the trial's process ended without a result: killed from outside, or the host out of memory; "
    "for the latter, set workload.compute.accumulate or lower workload.optimizer.batch_size in the space"
)
FAILURES_IN_A_ROW: Final = 5
"""So many trials that ran and failed one after another stop the sweep; a repetition of a failed one does not count."""
IDLE_TRIALS: Final = 100
"""So many trials one after another that found all their steps trained end a sweep: it would go on for ever."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Whether and where trials share the steps that they have in common: the stage store, None for no sharing.

    Without one, each trial has a store of its own as long as it runs, so that it can be interrupted; none at all where
    the workload is `unfit` for that, and a trial that was broken off begins again. The `checkpoint_budget` is the most
    that the checkpoints of a store may take, in bytes.
    """

    store: Path | None
    checkpoint_budget: int
    unfit: bool = False

    def store_of(self, trial: Path) -> str | None:
        """Return the store that the trial with this folder trains with."""
        return None if self.unfit else str(self.store or trial / STAGES_DIR)


@dataclass(slots=True)
class _Running:
    """A trial under way."""

    seconds_before: float = 0.0
    started: float = field(default_factory=time.monotonic)
    steps: int = 0
    executed: int = 0
    repeated: int = 0
    shared: int = 0
    shared_with: Mapping[str, int] = field(default_factory=dict)
    shelf: str | None = None
    deterministic: bool = True


@dataclass(frozen=True, slots=True)
class _Loss:
    """How often in a row a trial's process was lost, and the most steps that any of them had reached."""

    times: int = 0
    steps: int = -1


class SweepSource:
    """A `TrialSource` over the ledger.

    A trial whose run would repeat an earlier one, step for step, takes that one's result and trains nothing. A trial
    that an earlier process left unfinished comes first, under its own run. When too many fail in a row there is no next
    trial, and `cause` says why. Any number of trials may run at once; one that would repeat another that still runs is
    trained as any other.

    Args:
        ledger: the sweep's record, open for writing.
        budget: how much the sweep may do in all.
        folder: where the trials' files go.
        view: the sweep's MLflow runs; closed by the caller.
        progress: hears how the sweep goes on.
        threads: CPU threads of a trial.
        sharing: where trials find steps that others have trained.
        retries: so often in a row a trial whose process was lost is taken up again from its last recorded step, as it
            is where a machine may go; on one machine it is the trial that did it, most likely, and it fails.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        budget: Budget,
        folder: SweepFolder,
        view: "RunView",
        progress: ProgressView,
        threads: int,
        sharing: Sharing,
        retries: int = 0,
    ) -> None:
        self._ledger = ledger
        self._budget = budget
        self._folder = folder
        self._view = view
        self._progress = progress
        self._threads = threads
        self._sharing = sharing
        self._retries = retries
        self._running: dict[int, _Running] = {}
        self._losses: dict[int, _Loss] = {}
        self._ground: KnownGround | None = None
        self._failures = 0
        self.cause: str | None = None

    def next_trial(self) -> Job | None:
        """Return the next trial that has to be trained, or None when the sweep has all its trials, or they run."""
        while self.cause is None:
            records = self._ledger.trials()
            spent = self._budget.spent(records)
            ended = sum(record.state != "RUNNING" for record in records)
            if spent >= 1 or (self._budget.trials is not None and ended + len(self._running) >= self._budget.trials):
                return None
            if _only_repeats(records):
                self._progress.message(f"the last {IDLE_TRIALS} trials trained nothing new: the space is used up")
                return None
            wait_for_room(self._folder.path)
            suggestion = self._ledger.ask(forecast=self._forecast(), spent=spent, busy=self._running)
            if suggestion is None:
                return None
            twin = None if suggestion.number in self._losses else self._ledger.twin(suggestion.number)
            self._begin(suggestion, twin)
            if twin is None:
                return Job(suggestion.number, self._config(suggestion))
            self._repeat(suggestion.number, twin)
        return None

    def moved(self, number: int, result: Mapping[str, Any]) -> None:
        """Hear how far a running trial is."""
        running = self._running[number]
        running.steps = result["steps"]
        self._count(running, result)
        self._tell((*result["messages"], *self._view.news()))
        self._progress.trial_moved(
            number, steps=result["steps"], shared=running.shared, loss=result["loss"], lr=result["lr"]
        )

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        """File a trial's outcome; a trial that failed costs the sweep nothing but its own time."""
        if result is not None and NO_ROOM in result:
            raise NoRoomError(result[NO_ROOM])  # the trial stays as it is, to be resumed
        if result is None and self._takes_up_again(number):
            return
        running = self._running[number]
        if result is not None and "steps" in result:
            self._count(running, result)
            self._tell(result["messages"])
        tell = partial(
            self._ledger.tell,
            number,
            steps_executed=running.executed,
            steps_repeated=running.repeated,
            steps_shared=running.shared,
            shared_with=running.shared_with,
            shelf=running.shelf,
            deterministic=running.deterministic,
            seconds=running.seconds_before + time.monotonic() - running.started,
        )
        if result is None:
            record = self._file(tell(reason=LOST_PROCESS))
        elif FAILED in result:
            record = self._file(tell(reason=result[FAILED]), texts={TRACEBACK_FILE: result["traceback"]})
        else:
            metrics = dict(result["metrics"])
            record = self._file(tell(value=metrics[self._ledger.plan.space.objective.metric], metrics=metrics))
        self._failures = 0 if record.state == "COMPLETE" else self._failures + 1
        if self._failures == FAILURES_IN_A_ROW:
            self.cause = f"{FAILURES_IN_A_ROW} trials in a row failed, the last one because: {record.reason}"

    def _takes_up_again(self, number: int) -> bool:
        """Return whether a trial whose process was lost is to go on; then it is the next one, as after a kill."""
        running, before = self._running[number], self._losses.get(number, _Loss())
        times = before.times + 1 if running.steps <= before.steps else 1
        if times > self._retries:
            return False
        self._losses[number] = _Loss(times, max(before.steps, running.steps))
        del self._running[number]
        how = "begins again" if self._sharing.unfit else "goes on from its last recorded step"
        self._progress.message(
            f"trial {number}: its process was lost at step {running.steps}; it {how} (loss {times} in a row, of "
            f"{self._retries} at most)"
        )
        return True

    def _forecast(self) -> Callable[[RunConfig], Prospect] | None:
        """Return what looks runs up in the stage store, where the search is cost-aware."""
        if not self._ledger.plan.cost_aware or self._sharing.store is None:
            return None
        if self._ground is None:
            from tuner.sweep.known_ground import KnownGround  # brings torch

            self._ground = KnownGround(self._sharing.store, self._ledger)
        self._ground.refresh()
        return self._ground.prospect

    def _begin(self, suggestion: Suggestion, twin: TrialRecord | None) -> None:
        self._progress.trial_started(suggestion.number, suggestion.params)
        if suggestion.number not in self._losses:  # its run is open, and its curve is followed
            self._view.begun(suggestion.number, twin=None if twin is None else twin.number)
        self._running[suggestion.number] = running = _Running()
        if suggestion.resumed:
            curve = self._folder.trial(suggestion.number) / CURVE_FILE
            last_seen = curve.stat().st_mtime if curve.exists() else 0.0
            running.seconds_before = self._ledger.take_up(suggestion.number, last_seen=last_seen)

    def _config(self, suggestion: Suggestion) -> dict[str, Any]:
        folder = self._folder.trial(suggestion.number)
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # a full disk: MLflow has it too
            (folder / CONFIG_FILE).write_text(run_text(suggestion.config), "utf-8")
        return {
            "run": suggestion.config.to_dict(),
            "folder": str(folder),
            "threads": self._threads,
            "label": self._view.label(suggestion.number),
            "store": self._sharing.store_of(folder),
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
                deterministic=twin.deterministic,
            )
        )

    def abandon(self) -> None:
        """Show trials under way as stopped; the ledger keeps them as running."""
        for number in {*self._running, *self._losses}:
            self._view.abandoned(number)
        self._running.clear()

    def _file(self, record: TrialRecord, *, texts: Mapping[str, str] | None = None) -> TrialRecord:
        """Bring the views in line with the ledger's new record; return it."""
        shutil.rmtree(self._folder.trial(record.number) / STAGES_DIR, ignore_errors=True)
        del self._running[record.number]
        self._losses.pop(record.number, None)
        self._view.filed(record, texts=texts)
        self._progress.trial_ended(record)
        self._tell(self._view.news())
        return record

    def _tell(self, messages: Sequence[str]) -> None:
        for text in messages:
            self._progress.message(text)

    @staticmethod
    def _count(running: _Running, result: Mapping[str, Any]) -> None:
        running.executed, running.shared = result["steps_executed"], result["steps_shared"]
        running.repeated = result["steps_repeated"]
        running.shared_with = dict(result["shared_with"])
        running.shelf, running.deterministic = result["shelf"], result["deterministic"]


def _only_repeats(records: Sequence[TrialRecord]) -> bool:
    last = records[-IDLE_TRIALS:]
    return len(last) == IDLE_TRIALS and all(record.state != "RUNNING" and record.steps_executed == 0 for record in last)
