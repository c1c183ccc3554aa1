"""Train some trials of a sweep again, from scratch and without the stage store, and compare: `--verify-sharing`."""

import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tuner.analysis.sharing import Difference, TrialCheck, Verification, compare_runs, write_verification
from tuner.errors import NoRoomError, UserError
from tuner.names import TAG_VERIFIED, VERIFY_DIR
from tuner.search.ledger import Ledger
from tuner.search.plan import Assignment, run_config
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepFolder
from tuner.sweep.jobs import FAILED, NO_ROOM, Job
from tuner.sweep.lanes import Lanes
from tuner.sweep.ray_processes import RayProcesses
from tuner.sweep.run_bar import RunBar
from tuner.tracking.environment import num_cores
from tuner.tracking.runs import clipped_tags
from tuner.tracking.store import Tracker
from tuner.trials import TrialRecord


def verify_sharing(
    ledger: Ledger,
    *,
    folder: SweepFolder,
    num: int,
    tracker: Tracker | None,
    console: Console,
    ending: Ending,
    lanes: Lanes | None = None,
    actor: type[Any] | None = None,
) -> Verification:
    """Retrain `num` finished trials of a sweep alone, compare them with their records, and say what was found.

    Curves and metrics must be equal, bit for bit. The result is printed, left in the sweep's folder (`verify.json`; the
    retrained trials in `verify/NNNN/`), and becomes a tag of the sweep's MLflow run. The sweep must not be running.

    Args:
        ledger: the sweep's record.
        folder: its files.
        num: how many trials; all that there are where there are fewer.
        tracker: the store of its MLflow runs; None for none.
        console: hears of the progress.
        ending: hears Ctrl-C and SIGTERM.
        lanes: how the trials ran; here it is one after another.
        actor: the Tune trainable that runs a trial; None takes `tuner.sweep.trainable.TrialActor`.
    """
    from tuner.sweep.executor import execute
    from tuner.sweep.trainable import TrialActor

    lanes = (lanes or Lanes(threads=num_cores())).alone()
    chosen = choose(ledger.trials(), num=num, seed=ledger.plan.seed)
    with RunBar(console, runs=len(chosen), steps=ledger.plan.steps) as progress:
        source = _Retraining(ledger, chosen, folder=folder, progress=progress, threads=lanes.threads)
        if chosen:
            with RayProcesses(ending, lanes) as processes:
                processes.begin()
                execute(source, actor or TrialActor, ending=ending, processes=processes, lanes=lanes)
    found = Verification(trials=tuple(source.checks), deterministic=source.deterministic)
    write_verification(folder.path, found)
    console.print(f"sharing verified: {found.conclusion}", highlight=False, soft_wrap=True)
    if tracker is not None:
        try:
            with tracker.asked_to("tag the sweep as verified"):
                for key, value in clipped_tags({TAG_VERIFIED: found.conclusion}).items():
                    tracker.client.set_tag(folder.read().parent_run_id, key, value)
        except UserError as error:
            console.print(str(error), highlight=False, soft_wrap=True)
    return found


def choose(records: Sequence[TrialRecord], *, num: int, seed: int) -> list[TrialRecord]:
    """Return `num` finished trials to train again, drawn by `seed`, by number.

    Those come first that took over steps and went on from there, then those that took over all, which are often alike.
    A trial that took another's result as its own says nothing about sharing, and is left out.
    """
    finished = [record for record in records if record.state == "COMPLETE" and record.duplicate_of is None]
    random.Random(seed).shuffle(finished)  # noqa: S311 - no secret
    finished.sort(key=lambda record: (record.steps_shared == 0, record.steps_executed == 0))
    return sorted(finished[:num], key=lambda record: record.number)


class _Retraining:
    """A `TrialSource` of trials that have run, each to be trained from its first step to its last."""

    def __init__(
        self, ledger: Ledger, records: Sequence[TrialRecord], *, folder: SweepFolder, progress: RunBar, threads: int
    ) -> None:
        self.checks: list[TrialCheck] = []
        self.deterministic = True
        self._ledger = ledger
        self._records = {record.number: record for record in records}
        self._waiting = list(records)
        self._folder = folder
        self._progress = progress
        self._threads = threads

    def next_trial(self) -> Job | None:
        if not self._waiting:
            return None
        record = self._waiting.pop(0)
        self._progress.started(f"training trial {record.number} again, alone")
        alone = self._alone(record.number)
        shutil.rmtree(alone, ignore_errors=True)
        alone.mkdir(parents=True)
        run = run_config(self._ledger.plan, Assignment(record.scheduler, record.settings, record.base_lr))
        return Job(
            record.number,
            {
                "run": run.to_dict(),
                "folder": str(alone),
                "threads": self._threads,
                "label": "",
                "store": None,
                "checkpoint_budget": 0,
            },
        )

    def moved(self, number: int, result: Mapping[str, Any]) -> None:  # noqa: ARG002 - the protocol's
        if FAILED not in result:
            for text in result["messages"]:
                self._progress.say(text)
            self._progress.moved(result["steps"])

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        if result is not None and NO_ROOM in result:
            raise NoRoomError(result[NO_ROOM])
        record = self._records[number]
        for text in (result or {}).get("messages", ()):
            self._progress.say(text)
        if result is None or FAILED in result:
            reason = "its process ended" if result is None else result[FAILED]
            difference: Difference | None = Difference(step=None, text=f"failed when trained alone: {reason}")
        else:
            self.deterministic = result["deterministic"]
            difference = compare_runs(
                self._folder.trial(number),
                self._alone(number),
                metrics=record.metrics,
                metrics_alone=dict(result["metrics"]),
            )
        check = TrialCheck(
            trial=number, steps=self._ledger.plan.steps, steps_shared=record.steps_shared, difference=difference
        )
        self.checks.append(check)
        self._progress.ended(str(check))

    def _alone(self, number: int) -> Path:
        return self._folder.path / VERIFY_DIR / f"{number:04d}"
