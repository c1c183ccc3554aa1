"""Read a curve back from the tracking store."""

from mlflow import MlflowClient

from tuner.curves import CurvePoint
from tuner.names import METRIC_LOSS, METRIC_LR, METRIC_RESPONSE


def read_mirrored_curve(client: MlflowClient, run_id: str) -> list[CurvePoint]:
    """Return the run's curve as the store holds it, by step; a step without an LR has NaN there.

    Where a step of a metric is there more than once, the value that was logged last counts, as in MLflow's own UI.
    """
    loss, lr, response = (
        {metric.step: float(metric.value) for metric in client.get_metric_history(run_id, key)}
        for key in (METRIC_LOSS, METRIC_LR, METRIC_RESPONSE)
    )
    return [CurvePoint(step, loss[step], lr.get(step, float("nan")), response.get(step)) for step in sorted(loss)]
