"""Runs of a sweep in the tracking store: one parent for the sweep, one child per trial, and what describes them."""

import getpass
import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag

from tuner.names import SYNTHETIC, TAG_FOLDER, TAG_KIND, TAG_TRIAL, Setting
from tuner.tracking.environment import DataDescription
from tuner.tracking.store import Tracker

Status = Literal["FINISHED", "FAILED", "KILLED"]
_KEY_LIMIT: Final = 250
_PARAM_LIMIT: Final = 6000
_TAG_LIMIT: Final = 8000
_NAME_LIMIT: Final = 250
_DATASET_NAME_LIMIT: Final = 500
_DIGEST_LIMIT: Final = 36
_ODD: Final = re.compile(r"[^\w.\-:/ ]")  # what MLflow does not take in a key


def start_sweep(
    tracker: Tracker,
    *,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
    data: DataDescription | None = None,
) -> str:
    """Create the sweep's parent run and return its id.

    `texts` (file name: content) become artifacts, such as `config.yaml` and `environment.json`. Raises UserError if
    the store or its artifact store does not take them: better now than after the first trial.
    """
    return _start(tracker, "sweep", name=name, params=params, tags=tags or {}, texts=texts or {}, data=data)


def start_run(
    tracker: Tracker,
    *,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
    data: DataDescription | None = None,
) -> str:
    """Create a run that belongs to no sweep and return its id; all else is as for `start_sweep`."""
    return _start(tracker, "run", name=name, params=params, tags=tags or {}, texts=texts or {}, data=data)


def _start(
    tracker: Tracker,
    kind: Literal["sweep", "run"],
    *,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    texts: Mapping[str, str],
    data: DataDescription | None,
) -> str:
    with tracker.asked_to(f"record the {kind}"):
        created = _create(tracker.client, tracker.experiment_id, name=name, tags={TAG_KIND: kind, **tags})
    run_id = str(created.info.run_id)
    try:
        with tracker.asked_to(f"take the {kind}'s settings, data and artifacts"):
            tracker.client.log_batch(run_id, params=_params(params), synchronous=True)
            if data is not None:
                tracker.client.log_inputs(run_id, [_dataset_input(data)])
            for file_name, text in texts.items():
                tracker.client.log_text(run_id, text, file_name)
    except BaseException:
        with suppress(Exception):  # the first error is the one to tell
            tracker.client.set_terminated(run_id, "FAILED")
        raise
    return run_id


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRun:
    """The run of trial `number` below the run `parent`: what it is called, and since when it is under way."""

    parent: str
    number: int
    name: str
    params: Mapping[str, Any]
    start_ms: int


def find_trial(client: MlflowClient, trial: TrialRun, *, experiment_id: str) -> Run | None:
    """Return the trial's run as the store has it, one with a curve where there are more; None where there is none."""
    return max(_search(client, trial, experiment_id), key=lambda run: bool(run.data.metrics), default=None)


def create_trial(client: MlflowClient, trial: TrialRun, *, experiment_id: str) -> Run:
    """Make the trial's run; its settings and data follow with `describe_trial`, which can be repeated."""
    tags = {TAG_KIND: "trial", TAG_TRIAL: str(trial.number), "mlflow.parentRunId": trial.parent}
    return _create(client, experiment_id, name=trial.name, tags=tags, start_ms=trial.start_ms)


def describe_trial(client: MlflowClient, trial: TrialRun, run: Run, *, data: Sequence[DatasetInput]) -> None:
    """Add the settings and the data that the run does not have yet."""
    params = [entry for entry in _params(trial.params) if entry.key not in run.data.params]
    if params:
        client.log_batch(run.info.run_id, params=params, synchronous=True)
    if data and not (run.inputs and run.inputs.dataset_inputs):
        client.log_inputs(run.info.run_id, list(data))


def delete_doubles(client: MlflowClient, trial: TrialRun, run_id: str, *, experiment_id: str) -> None:
    """Delete other runs of the trial without a curve: a server that hung can have made one that it was not heard of."""
    for other in _search(client, trial, experiment_id):
        if other.info.run_id != run_id and not other.data.metrics:
            client.delete_run(other.info.run_id)


def finish(
    tracker: Tracker,
    run_id: str,
    status: Status,
    *,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """End a run at once; runs with a curve are ended by `CurveMirror.finish`, after the curve's last point."""
    with tracker.asked_to(f"end the run {run_id}"):
        now_ms = time.time_ns() // 1_000_000
        tracker.client.log_batch(
            run_id,
            metrics=[Metric(clean_key(key), float(value), now_ms, 0) for key, value in (metrics or {}).items()],
            tags=[RunTag(key, value) for key, value in clipped_tags(tags or {}).items()],
            synchronous=True,
        )
        tracker.client.set_terminated(run_id, status, now_ms)


def attach_file(tracker: Tracker, run_id: str, path: Path) -> None:
    """Make a file an artifact of a run, in place of one of that name; UserError where the store does not take it."""
    with tracker.asked_to(f"take {path.name}"):
        tracker.client.log_artifact(run_id, str(path))


def end_abandoned(tracker: Tracker, *, folder: str) -> None:
    """End the parent runs of a sweep folder that still count as running; the caller knows that no process runs them."""
    quote = '"' if "'" in folder else "'"
    with tracker.asked_to("look for runs that were abandoned"):
        for run in tracker.client.search_runs(
            [tracker.experiment_id],
            f"tags.`{TAG_FOLDER}` = {quote}{folder}{quote} and attributes.status = 'RUNNING'",
        ):
            tracker.client.set_terminated(run.info.run_id, "KILLED")


def trial_name(number: int, scheduler: str, settings: Mapping[str, Setting]) -> str:
    """Return a run name that says the setting: "trial 3 · fastface · haar window 0.02 · patience 0.05"."""
    values = [f"{key.removesuffix('_fraction').replace('_', ' ')} {_short(value)}" for key, value in settings.items()]
    return " · ".join([f"trial {number}", scheduler, *values])


def clipped_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags with keys and values in the length and characters that MLflow takes."""
    return {clean_key(key): _clip(str(value), _TAG_LIMIT) for key, value in tags.items()}


def clean_key(key: str) -> str:
    """Return the name of a parameter, metric or tag with the characters and the length that MLflow takes."""
    return _ODD.sub("_", key)[:_KEY_LIMIT]


def _create(
    client: MlflowClient, experiment_id: str, *, name: str, tags: Mapping[str, str], start_ms: int | None = None
) -> Run:
    about = {"mlflow.user": _user(), "mlflow.source.name": "fastface-tuner", "mlflow.source.type": "LOCAL"}
    return client.create_run(
        experiment_id, start_time=start_ms, tags=clipped_tags({**about, **tags}), run_name=_clip(name, _NAME_LIMIT)
    )


def _params(params: Mapping[str, Any]) -> list[Param]:
    return [Param(clean_key(key), _clip(_written(value), _PARAM_LIMIT)) for key, value in params.items()]


def _search(client: MlflowClient, trial: TrialRun, experiment_id: str) -> list[Run]:
    mine = f"tags.`mlflow.parentRunId` = '{trial.parent}' AND tags.`{TAG_TRIAL}` = '{trial.number}'"
    return list(client.search_runs([experiment_id], mine, order_by=["attributes.start_time ASC"], max_results=10))


def _dataset_input(data: DataDescription) -> DatasetInput:
    rendered = data.source == SYNTHETIC  # MLflow's "code" source: there is nothing to load it from
    source: dict[str, object] = {"tags": {"generator": SYNTHETIC}} if rendered else {"uri": data.source}
    dataset = Dataset(
        name=_clip(data.name, _DATASET_NAME_LIMIT),
        digest=data.digest[:_DIGEST_LIMIT],
        source_type="code" if rendered else "local",
        source=json.dumps(source),
        profile=json.dumps(dict(data.counts)),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _short(value: Setting) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without an entry for the user
        return "unknown"
