"""What a test needs to send runs to the tracking store, and to read them back."""

import time
from collections.abc import Callable

from mlflow import MlflowClient
from mlflow.entities import Run

from tuner.curves import CurvePoint
from tuner.names import EXPERIMENT, METRIC_LOSS, METRIC_LR, METRIC_RESPONSE, TAG_TRIAL
from tuner.tracking.runs import TrialRun


def trial_run(parent: str, number: int = 0, **params: object) -> TrialRun:
    """Return what the mirror has to know of a trial."""
    return TrialRun(
        parent=parent, number=number, name=f"trial {number}", params=params, start_ms=time.time_ns() // 1_000_000
    )


def trial_runs(client: MlflowClient, parent: str) -> list[Run]:
    """Return the trials' runs below a sweep's, by trial number; asks for each number to be there once."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    runs.sort(key=lambda run: int(run.data.tags[TAG_TRIAL]))
    assert [int(run.data.tags[TAG_TRIAL]) for run in runs] == sorted({int(run.data.tags[TAG_TRIAL]) for run in runs})
    return runs


def wait_until(holds: Callable[[], object], *, seconds: float = 20) -> None:
    """Wait for something that another thread or process is going to do."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def histories(client: MlflowClient, run_id: str, *keys: str) -> dict[str, list[tuple[int, float]]]:
    """Return each metric's history as (step, value), in the order in which the store returns it."""
    return {key: [(entry.step, entry.value) for entry in client.get_metric_history(run_id, key)] for key in keys}


def read_mirrored_curve(client: MlflowClient, run_id: str) -> list[CurvePoint]:
    """Return the run's curve as the store holds it, by step; a step without an LR has NaN there.

    Where a step of a metric is there more than once, the value that was logged last counts, as in MLflow's own UI.
    """
    loss, lr, response = (
        {metric.step: float(metric.value) for metric in client.get_metric_history(run_id, key)}
        for key in (METRIC_LOSS, METRIC_LR, METRIC_RESPONSE)
    )
    return [CurvePoint(step, loss[step], lr.get(step, float("nan")), response.get(step)) for step in sorted(loss)]
