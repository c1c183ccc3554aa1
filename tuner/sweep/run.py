"""Run the trials that a sweep still lacks, whether it is new or goes on."""

from typing import Any, Final

from rich.console import Console

from tuner.errors import SweepStoppedError
from tuner.search.ledger import Ledger
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepFolder
from tuner.sweep.progress import ConsoleProgress, describe
from tuner.sweep.source import Sharing, SweepSource
from tuner.sweep.view import RunView
from tuner.tracking.environment import num_cores
from tuner.tracking.runs import Status
from tuner.tracking.store import Tracker

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
    actor: type[Any] | None = None,
) -> None:
    """Run the trials that the sweep still lacks, end its MLflow run as the sweep ended, and say what came out.

    `actor` is the Tune trainable that runs a trial; None takes `tuner.sweep.trainable.TrialActor`.

    Raises:
        SweepStoppedError: too many trials failed in a row.
    """
    budget = folder.read().budget
    objective = ledger.plan.space.objective
    view = RunView(ledger, folder=folder, tracker=tracker)
    view.sweep_runs()
    status: Status = "KILLED"
    patience = INTERRUPTED_SENDING_SECONDS
    try:
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
                threads=num_cores(),
                sharing=sharing,
            )
            try:
                if budget.spent(ledger.trials()) < 1:
                    # Ray and torch take seconds to import, which bad input should not have to wait for.
                    from tuner.sweep.executor import execute
                    from tuner.sweep.trainable import TrialActor

                    execute(source, actor or TrialActor, ending=ending)
            finally:
                source.abandon()
        status = "FINISHED" if ledger.best() is not None and source.cause is None else "FAILED"
        patience = LAST_SENDING_SECONDS
    except (KeyboardInterrupt, SystemExit):
        console.print(
            f"interrupted after {budget.out_of(ledger.num_finished)}; "
            f"go on with: fastface-tuner resume {folder.argument}",
            highlight=False,
            soft_wrap=True,
        )
        raise
    finally:
        for line in view.close(status, timeout=patience):
            console.print(line, highlight=False, soft_wrap=True)
    for line in summary(ledger, folder):
        console.print(line, highlight=False, soft_wrap=True)
    if source.cause is not None:
        raise SweepStoppedError(f"{source.cause}; then go on with: fastface-tuner resume {folder.argument}")


def summary(ledger: Ledger, folder: SweepFolder) -> list[str]:
    """Return what to say at the end: what was best, and which command shows the rest."""
    best = ledger.best()
    if best is None:
        first = next((record.reason for record in ledger.trials() if record.reason), "no trial ran")
        return [f"no trial finished; the first failed because: {first}"]
    metric = ledger.plan.space.objective.metric
    return [
        f"best: trial {best.number} with {metric} {best.value:.4f}: {describe(best.params)}",
        f"all trials: fastface-tuner compare {folder.argument}",
    ]
