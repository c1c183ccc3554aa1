"""A sweep for a notebook: `tuner.load_sweep`."""

from os import PathLike, fspath

from tuner.analysis.frames import LoadedSweep
from tuner.sweep.collect import find_collected


def load_sweep(
    sweep: str | PathLike[str], *, tracking_uri: str | None = None, metric: str | None = None
) -> LoadedSweep:
    """Return a sweep, finished or not, as pandas tables: `trials`, `curve(number)`, `curves`, `evaluations`.

    Args:
        sweep: its folder, its name below `sweeps/`, or the name or id of a run or an experiment in an MLflow store.
        tracking_uri: that store; None takes MLFLOW_TRACKING_URI, else `mlflow.db` in the working folder.
        metric: the final metric that judges the runs of others; None takes the one that they have.

    Raises:
        UserError: there is no such sweep, it is damaged, or the store cannot be used.
    """
    return LoadedSweep(find_collected(fspath(sweep), tracking_uri=tracking_uri, metric=metric))
