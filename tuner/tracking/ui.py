"""MLflow's UI: how it is started on a store, and where in it a sweep is found."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode, urlsplit

if TYPE_CHECKING:
    from tuner.tracking.store import Tracker  # brings MLflow, for which its own server need not wait

_STORE: Final = "MLFLOW_BACKEND_STORE_URI"
_QUIET: Final[Mapping[str, str]] = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # workers that only evaluate language models
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

_MODEL_TRAINING: Final = {"workflowType": "machine_learning"}
"""Which of its two faces the UI is to show; the other one is for language models."""


def server_command(uri: str, *, host: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Return the command that serves a store, and what its environment needs: the address, which may hold a password.

    The list of processes shows a command to everybody, an environment only to its owner.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    return command, {**_QUIET, _STORE: uri}


def server_address(uri: str) -> str | None:
    """Return where people find the UI of a tracking server, without credentials; None for a database."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return None
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def sweep_pages(tracker: "Tracker", run_id: str, *, address: str, metric: str, maximize: bool) -> tuple[str, str]:
    """Return the addresses of a sweep's run in the UI at `address`, and of its trials side by side as charts.

    The trials stand best first. In that order the UI lists them one by one; in its own one, by time, it folds them
    under the sweep's run, and charts that run alone.

    Raises:
        UserError: the store does not answer.
    """
    from tuner.tracking.runs import clean_key

    with tracker.asked_to("find the sweep's run"):
        experiment = tracker.client.get_run(run_id).info.experiment_id
    runs = f"{address}/#/experiments/{experiment}/runs"
    trials = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{run_id}'",
        "orderByKey": f"metrics.`{clean_key(metric)}`",
        "orderByAsc": "false" if maximize else "true",
        "compareRunsMode": "CHART",
        **_MODEL_TRAINING,
    }
    return f"{runs}/{run_id}?{urlencode(_MODEL_TRAINING)}", f"{runs}?{urlencode(trials, quote_via=quote)}"
