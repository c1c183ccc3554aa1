"""Bring a sweep's MLflow runs in line with its ledger and its trials' files, where the store was left behind."""

from collections.abc import Callable

from tuner.search.ledger import Ledger
from tuner.sweep.folder import SweepFolder
from tuner.sweep.lock import sweep_lock
from tuner.sweep.view import RunView
from tuner.tracking.runs import Status
from tuner.tracking.store import Tracker

PATIENCE_SECONDS = 15.0
"""So long may the store take nothing before it is given up."""


def bring_in_line(
    folder: SweepFolder, *, tracker: Tracker, hear: Callable[[str], None], patience: float = PATIENCE_SECONDS
) -> str | None:
    """Make missing runs of a sweep that no process runs, complete their curves, metrics, tags and texts, and end them.

    The sweep itself is shown as ended, its unfinished trial as KILLED. Only finished trials that the ledger does not
    mark as sent are looked at.

    Args:
        folder: the sweep's files; what is missing there is told and left out.
        tracker: the store; it need not be there.
        hear: gets a line for each thing that was mended.
        patience: so many seconds the store may take nothing.

    Returns:
        What could not be sent, in one line; None where all was.

    Raises:
        UserError: the sweep is running, or its ledger cannot be used.
    """
    with sweep_lock(folder.path, way_out="a sweep that runs sends its runs itself"):
        ledger = Ledger.open(folder.journal)
        view = RunView(ledger, folder=folder, tracker=tracker)
        view.catch_up()
        records = ledger.trials()
        for record in records:
            if record.ended is None:
                view.trial_is_over(record)
        complete = folder.read().budget.spent(records) >= 1
        status: Status = "KILLED" if not complete else "FINISHED" if ledger.best() is not None else "FAILED"
        view.sweep_is_over(status, mild=not complete)
        return view.drain(stall=patience, hear=hear)
