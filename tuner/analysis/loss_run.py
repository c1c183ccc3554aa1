"""Read a recorded loss curve from an MLflow run."""

import math

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tuner.analysis.loss_log import LossLog, lr_column, make_log
from tuner.errors import UserError
from tuner.names import METRIC_LOSS, METRIC_LR

_INFINITE = 1.7e308
"""MLflow stores an infinity as the largest float."""


def read_loss_run(client: MlflowClient, address: str) -> LossLog:
    """Return the curve of a run: `address` is its id, or `id/metric` where the loss has another name than `loss`.

    LRs are taken from the metric `lr`, if it stands at every step of the loss. Where a step has several values, the one
    that was logged last counts.

    Raises:
        UserError: no such run, no such metric, or a loss that is not finite; the message has the step.
    """
    run_id, _, name = address.strip("/").partition("/")
    metric, source = name or METRIC_LOSS, f"runs:/{address}"
    try:
        known = sorted(client.get_run(run_id).data.metrics)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise UserError(f"{source}: the tracking store has no run '{run_id}'; check id and store") from None
        raise
    if metric not in known:
        shown = ", ".join(known)[:120] or "none"
        raise UserError(
            f"{source}: the run has no metric '{metric}'; name one as runs:/{run_id}/METRIC, it has: {shown}"
        )
    losses = _history(client, run_id, metric)
    for step, loss in losses.items():
        if step < 0 or not math.isfinite(loss) or abs(loss) > _INFINITE:
            raise UserError(
                f"{source}, step {step}: `{metric}` must be finite, but got {loss}; replay a run that did not diverge"
            )
    lrs = _history(client, run_id, METRIC_LR) if METRIC_LR in known else {}
    column = lr_column(repr(lrs[step]) for step in losses) if losses.keys() <= lrs.keys() else None
    return make_log(source, steps=list(losses), losses=list(losses.values()), lr=column)


def _history(client: MlflowClient, run_id: str, metric: str) -> dict[int, float]:
    points = sorted(client.get_metric_history(run_id, metric), key=lambda point: (point.step, point.timestamp))
    return {int(point.step): float(point.value) for point in points}
