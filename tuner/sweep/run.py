"""Run the trials that a sweep still lacks, whether it is new or goes on."""

from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from tuner.analysis.words import fixed, setting_line
from tuner.errors import SweepStoppedError, UserError
from tuner.search.ledger import Ledger
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepFolder
from tuner.sweep.lanes import Lanes
from tuner.sweep.progress import ConsoleProgress
from tuner.sweep.ray_processes import RayProcesses
from tuner.sweep.source import Sharing, SweepSource
from tuner.tracking.environment import num_cores
from tuner.tracking.store import Tracker

if TYPE_CHECKING:
    from tuner.sweep.view import RunView
    from tuner.tracking.runs import Status

LAST_SENDING_SECONDS: Final = 60.0
"""At its end, a sweep waits at most so long for the tracking store to take what is left."""
INTERRUPTED_SENDING_SECONDS: Final = 2.5
"""The same where a person waits for the prompt."""


def run_trials(
    ledger: Ledger,
    *,
    folder: SweepFolder,
    tracker: Tracker,
    sharing: Sharing,
    console: Console,
    ending: Ending,
    lanes: Lanes | None = None,
    actor: type[Any] | None = None,
) -> None:
    """Run the trials that the sweep still lacks, end its MLflow run as the sweep ended, and say what came out.

    `lanes` None runs one trial after another on this machine. `actor` is the Tune trainable that runs a trial; None
    takes `tuner.sweep.trainable.TrialActor`.

    Raises:
        SweepStoppedError: too many trials failed in a row.
    """
    budget = folder.read().budget
    objective = ledger.plan.space.objective
    lanes = lanes or Lanes(threads=num_cores())
    # Where the sweep is interrupted, Ray goes last: it may take its time over that.
    with RayProcesses(ending, lanes) as processes:
        trials_left = budget.spent(ledger.trials()) < 1
        if trials_left:
            processes.begin()
        # MLflow and Tune take seconds to import, which bad input should not have to wait for; Ray starts meanwhile.
        from tuner.sweep.view import RunView

        view = RunView(ledger, folder=folder, tracker=tracker)
        view.sweep_runs()
        with ConsoleProgress(
            console,
            budget=budget,
            steps=ledger.plan.steps,
            maximize=objective.maximize,
            metric=objective.metric,
            ended=[record for record in ledger.trials() if record.state != "RUNNING"],
        ) as progress:
            source = SweepSource(
                ledger,
                budget=budget,
                folder=folder,
                view=view,
                progress=progress,
                threads=lanes.threads,
                sharing=sharing,
                retries=lanes.retries,
            )
            closing = _Closing(source, view, ledger=ledger, folder=folder, progress=progress)
            with ending.closing(closing):
                if trials_left:
                    from tuner.sweep.executor import execute
                    from tuner.sweep.trainable import TrialActor

                    execute(source, actor or TrialActor, ending=ending, processes=processes, lanes=lanes)
                    processes.end()  # and gives the GPU back before MLflow takes what is left
                closing.status = "FINISHED" if ledger.best() is not None and source.cause is None else "FAILED"
    for line in summary(ledger, folder):
        console.print(line, highlight=False, soft_wrap=True)
    if source.cause is not None:
        raise SweepStoppedError(f"{source.cause}; then go on with: fastface-tuner resume {folder.argument}")


class _Closing:
    """Ends the MLflow runs of a sweep, once, whichever thread comes first; says how to go on after an interruption."""

    def __init__(
        self,
        source: SweepSource,
        view: "RunView",
        *,
        ledger: Ledger,
        folder: SweepFolder,
        progress: ConsoleProgress,
    ) -> None:
        self.status: Status = "KILLED"
        self._source, self._view = source, view
        self._ledger, self._folder, self._progress = ledger, folder, progress
        self._lock = Lock()
        self._done = False

    def __call__(self) -> None:
        with self._lock:
            if not self._done:
                self._done = True
                try:
                    self._close()
                except UserError:  # a ledger that is away; that has ended the sweep, and is told
                    command = f"fastface-tuner resume {self._folder.argument}"
                    self._progress.message(f"when the ledger is back, go on with: {command}")

    def _close(self) -> None:
        broken_off = self.status == "KILLED"
        if broken_off:
            done = self._folder.read().budget.out_of(self._ledger.num_finished)
            self._progress.message(
                f"interrupted after {done}; go on with: fastface-tuner resume {self._folder.argument}"
            )
        self._source.abandon()
        seconds = INTERRUPTED_SENDING_SECONDS if broken_off else LAST_SENDING_SECONDS
        for line in self._view.close(self.status, timeout=seconds):
            self._progress.message(line)


def summary(ledger: Ledger, folder: SweepFolder) -> list[str]:
    """Return what to say at the end: what was best, and which command shows the rest."""
    best = ledger.best()
    if best is None or best.value is None:
        first = next((record.reason for record in ledger.trials() if record.reason), "no trial ran")
        return [f"no trial finished; the first failed because: {first}"]
    metric = ledger.plan.space.objective.metric
    return [
        f"best: trial {best.number} with {metric} {fixed(best.value)}: {setting_line(best.params)}",
        f"all trials: fastface-tuner compare {folder.argument}",
    ]
