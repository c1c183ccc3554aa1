"""Models in MLflow's registry: a state dict and its configuration, as files, with how they were evaluated.

MLflow's own PyTorch flavour would pickle the module together with the code that it was made by, and run that code where
the model is loaded. Weights and configuration as files can be read by any program, and by newer versions of this one.
"""

from collections.abc import Mapping
from pathlib import Path

from mlflow.exceptions import MlflowException

from tuner.tracking.runs import clean_key, clipped_tags
from tuner.tracking.store import Tracker

_THERE = "RESOURCE_ALREADY_EXISTS"
MODEL_TYPE = "fastface-tuner"


def register_model(
    tracker: Tracker,
    run_id: str,
    *,
    name: str,
    folder: Path,
    params: Mapping[str, object],
    metrics: Mapping[str, float],
    description: str,
) -> int:
    """Register what is in `folder` as the next version of the model `name`, made by a run; return the version.

    The metrics belong to the model, and stand as tags at its version too, where the registry's table shows them.

    Raises:
        UserError: the store or its artifact store does not take it.
    """
    with tracker.asked_to(f"register the model {name!r}"):
        client = tracker.client
        run = client.get_run(run_id)
        model = client.create_logged_model(
            run.info.experiment_id,
            name=name,
            source_run_id=run_id,
            model_type=MODEL_TYPE,
            params={clean_key(key): str(value) for key, value in params.items()},
        )
        client.log_model_artifacts(model.model_id, str(folder))
        last = {entry.key: (entry.step, entry.timestamp) for entry in run.data.to_proto().metrics}
        for key, value in metrics.items():
            step, time_ms = last.get(clean_key(key), (0, run.info.end_time))
            client.log_metric(run_id, clean_key(key), value, time_ms, step, model_id=model.model_id)
        client.finalize_logged_model(model.model_id, "READY")
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != _THERE:
                raise
        version = client.create_model_version(
            name,
            model.artifact_location,
            run_id=run_id,
            tags=clipped_tags({key: f"{value:.6g}" for key, value in metrics.items()}),
            description=description,
            model_id=model.model_id,
        )
    return int(version.version)
