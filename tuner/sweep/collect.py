"""Find a sweep by its name, in its folder or in a tracking store, and collect what it holds."""

from tuner.analysis.collected import CollectedSweep
from tuner.analysis.recorded_files import RecordedFiles
from tuner.errors import UserError
from tuner.names import Setting
from tuner.search.ledger import Ledger
from tuner.sweep.folder import SweepFolder, find_sweep
from tuner.tracking.uri import redact, resolve_uri, sqlite_path


def collect(folder: SweepFolder) -> CollectedSweep:
    """Return the sweep of a folder, which may be running.

    Raises:
        UserError: a file of the sweep is damaged.
    """
    name = folder.read().name
    ledger = Ledger.open(folder.journal, read_only=True)
    plan = ledger.plan
    about: dict[str, Setting] = {
        "data": plan.data or plan.space.workload.source,
        "steps": plan.steps,
        "sampler": plan.sampler,
        "seed": plan.seed,
    }
    return CollectedSweep(
        name=name,
        metric=plan.space.objective.metric,
        maximize=plan.space.objective.maximize,
        trials=tuple(ledger.trials()),
        recorded=RecordedFiles(folder.trial),
        about=about,
    )


def find_collected(sweep: str, *, tracking_uri: str | None = None, metric: str | None = None) -> CollectedSweep:
    """Return the sweep of a folder, or else the one that a tracking store has under this name.

    Args:
        sweep: a sweep's folder, the name of one below `sweeps/`, or the name or id of a run or an experiment.
        tracking_uri: the store; None takes MLFLOW_TRACKING_URI, else the one in the working folder.
        metric: what judges the runs of a store that do not say it themselves; see `read_sweep`.

    Raises:
        UserError: there is no such sweep, it is damaged, or the store cannot be used.
    """
    try:
        folder = find_sweep(sweep)
    except UserError as absent:
        found = _find_tracked(sweep, tracking_uri, metric, absent)
        if found is None:
            uri = redact(resolve_uri(tracking_uri))
            raise UserError(f"{absent}; nor has the tracking store {uri} a run or an experiment of that name") from None
        return found
    return collect(folder)


def _find_tracked(sweep: str, uri: str | None, metric: str | None, absent: UserError) -> CollectedSweep | None:
    address = resolve_uri(uri)
    database = sqlite_path(address)
    if database is not None and not database.exists():
        if uri is not None:
            raise UserError(f"the tracking store {database} is not there; name another one with --tracking-uri")
        raise absent
    from tuner.tracking.store import open_store  # MLflow takes a second, which folders do not need

    try:
        tracker = open_store(address)
    except UserError as error:
        if uri is None:  # perhaps only the name is misspelt, and nobody thought of a store
            raise UserError(f"{absent}; nor could it be looked for elsewhere: {error}") from None
        raise
    from tuner.analysis.recorded_runs import read_sweep

    with tracker.asked_to(f"look for {sweep!r}"):
        return read_sweep(tracker.client, sweep, metric=metric)
