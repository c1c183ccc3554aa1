"""Bring a sweep's MLflow runs in line with its ledger and its trials' files, where the store was left behind."""

from collections.abc import Callable

from tuner.search.ledger import Ledger
from tuner.sweep.folder import SweepFolder
from tuner.sweep.runs_lock import RunsLock
from tuner.sweep.view import RunView
from tuner.tracking.runs import Status
from tuner.tracking.store import Tracker

PATIENCE_SECONDS = 15.0
"""So long may the store take nothing before it is given up."""


def bring_in_line(
    ledger: Ledger,
    *,
    folder: SweepFolder,
    tracker: Tracker,
    hear: Callable[[str], None],
    patience: float = PATIENCE_SECONDS,
) -> str | None:
    """Make missing runs of finished trials, complete their curves, metrics, tags and texts, and end them as they ended.

    For a sweep that is resumed: the unfinished trial and the sweep's own run are left to `RunView`. Only trials that
    the ledger does not mark as sent are looked at; where there is none, the store is not even asked.

    Args:
        ledger: the sweep's record, open for writing.
        folder: the sweep's files; what is missing there is told and left out.
        tracker: the store; it need not be there.
        hear: gets a line for each thing that was mended.
        patience: so many seconds the store may take nothing.

    Returns:
        What could not be sent, in one line; None where all was.

    Raises:
        UserError: another process writes the runs.
    """
    if all(record.ended is None or record.mirrored for record in ledger.trials()):
        return None
    view = RunView(ledger, folder=folder, tracker=tracker)
    view.catch_up()
    return view.drain(stall=patience, hear=hear)


def bring_sweep_in_line(
    folder: SweepFolder, *, tracker: Tracker, hear: Callable[[str], None], patience: float = PATIENCE_SECONDS
) -> str | None:
    """Do the same for a sweep that no process runs, and show it as ended, its unfinished trial as KILLED.

    Raises:
        UserError: the sweep is running, or its ledger cannot be used.
    """
    lock = RunsLock(folder)
    try:
        ledger = Ledger.open(folder.journal)
        view = RunView(ledger, folder=folder, tracker=tracker, lock=lock)
    except BaseException:
        lock.release()
        raise
    view.catch_up()
    records = ledger.trials()
    for record in records:
        if record.ended is None:
            view.trial_is_over(record)
    complete = folder.read().budget.spent(records) >= 1
    status: Status = "KILLED" if not complete else "FINISHED" if ledger.best() is not None else "FAILED"
    view.sweep_is_over(status, mild=not complete)
    return view.drain(stall=patience, hear=hear)
