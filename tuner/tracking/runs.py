"""Runs of a sweep in the tracking store: one parent for the sweep, one child per trial, and what describes them."""

import getpass
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from tuner.names import SYNTHETIC, TAG_FOLDER, TAG_KIND, TAG_TRIAL, Setting
from tuner.tracking.store import Tracker

Status = Literal["FINISHED", "FAILED", "KILLED"]
_KEY_LIMIT: Final = 250
_PARAM_LIMIT: Final = 6000
_TAG_LIMIT: Final = 8000
_NAME_LIMIT: Final = 250
_DATASET_NAME_LIMIT: Final = 500
_DIGEST_LIMIT: Final = 36
_ODD: Final = re.compile(r"[^\w.\-:/ ]")  # what MLflow does not take in a key


@dataclass(frozen=True, slots=True)
class DataDescription:
    """The data of a run, for MLflow's dataset column: its digest tells whether two runs saw the same pictures.

    `source` is a folder or "synthetic"; `counts` says how much there is, e.g. {"identities": 40, "images": 400}.
    """

    name: str
    digest: str
    source: str
    counts: Mapping[str, int]


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
    with tracker.asked_to("record the sweep"):
        run_id = _create(tracker, name=name, params=params, tags={TAG_KIND: "sweep", **(tags or {})})
    try:
        with tracker.asked_to("take the sweep's data and artifacts"):
            if data is not None:
                tracker.client.log_inputs(run_id, [_dataset_input(data)])
            for file_name, text in (texts or {}).items():
                tracker.client.log_text(run_id, text, file_name)
    except BaseException:
        with suppress(Exception):  # the first error is the one to tell
            tracker.client.set_terminated(run_id, "FAILED")
        raise
    return run_id


def start_trial(
    tracker: Tracker,
    *,
    parent: str,
    number: int,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
    data: DataDescription | None = None,
) -> str:
    """Create the child run of trial `number` under the run `parent` and return its id; `trial_name` makes a `name`."""
    own = {TAG_KIND: "trial", TAG_TRIAL: str(number), "mlflow.parentRunId": parent}
    with tracker.asked_to(f"record trial {number}"):
        run_id = _create(tracker, name=name, params=params, tags={**own, **(tags or {})})
        if data is not None:
            tracker.client.log_inputs(run_id, [_dataset_input(data)])
    return run_id


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


def reopen_sweep(tracker: Tracker, run_id: str) -> None:
    """Show a sweep's parent run as running again; UserError where the store has no such run."""
    with tracker.asked_to("go on with the sweep's run"):
        tracker.client.update_run(run_id, "RUNNING")


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


def _create(tracker: Tracker, *, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    about = {"mlflow.user": _user(), "mlflow.source.name": "fastface-tuner", "mlflow.source.type": "LOCAL"}
    run = tracker.client.create_run(
        tracker.experiment_id, tags=clipped_tags({**about, **tags}), run_name=_clip(name, _NAME_LIMIT)
    )
    entities = [Param(clean_key(key), _clip(_written(value), _PARAM_LIMIT)) for key, value in params.items()]
    tracker.client.log_batch(run.info.run_id, params=entities, synchronous=True)
    return str(run.info.run_id)


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
