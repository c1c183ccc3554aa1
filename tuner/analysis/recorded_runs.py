"""Sweeps that anybody made in an MLflow store: a run with runs below it, or an experiment."""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tuner.analysis.collected import CollectedSweep, Columns
from tuner.analysis.target import larger_is_better
from tuner.config.space_model import METRICS
from tuner.errors import UserError
from tuner.names import METRIC_LOSS, METRIC_LR, METRIC_RESPONSE, TAG_KIND, TAG_SHARING, TAG_TRIAL, Setting
from tuner.trials import RecordState, TrialRecord

Found = TypeVar("Found")
_PARENT: Final = "mlflow.parentRunId"
_STATES: Final[Mapping[str, RecordState]] = {"FINISHED": "COMPLETE", "FAILED": "FAIL", "KILLED": "FAIL"}
_TRIAL: Final = "trial"
_COSTS: Final = ("steps_executed", "steps_repeated", "steps_shared", "seconds")
_MADE_ALIKE: Final = ("scheduler", "base_lr", "total_steps", "seed")
"""Parameters of a trial's run that are no settings of its scheduler."""
_CURVE: Final = (METRIC_LOSS, METRIC_LR, METRIC_RESPONSE)
_INFINITE: Final = 1.7e308
"""MLflow stores an infinity as the largest float."""


def read_sweep(client: MlflowClient, name: str, *, metric: str | None = None) -> CollectedSweep | None:
    """Return what a store holds under this name or id of a run or an experiment; None where that is nothing.

    Of a run the runs below it are the trials, of an experiment its runs that have none below; a run without any is a
    sweep of its own. `metric` judges them; None takes the one that a sweep of this tool says, or that the runs have.

    Raises:
        UserError: several runs have that name, or it is not plain what they are judged by.
    """
    found = _find_run(client, name)
    if found is not None:
        below = _search(client, [found.info.experiment_id], f"tags.`{_PARENT}` = '{found.info.run_id}'")
        trials = [run for run in below if run.data.tags.get(TAG_KIND, _TRIAL) == _TRIAL]
        return _collect(client, name, found, trials or [found], metric=metric)
    experiment = client.get_experiment_by_name(name)
    if experiment is None and name.isdecimal():
        experiment = _absent_is_none(lambda: client.get_experiment(name))
    if experiment is None:
        return None
    runs = _search(client, [experiment.experiment_id])
    parents = {run.data.tags.get(_PARENT) for run in runs}
    return _collect(
        client,
        experiment.name,
        None,
        [run for run in runs if run.info.run_id not in parents and run.data.tags.get(TAG_KIND) != "sweep"],
        metric=metric,
    )


class RecordedRuns:
    """A `Recorded` of the metric histories of runs: one question to the store for each column."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def curve(self, trial: TrialRecord, names: Sequence[str]) -> Columns:
        """Return columns of a curve at the steps that have a loss; see `Recorded`."""
        import numpy as np

        histories = {name: self._history(trial, name) for name in {METRIC_LOSS, *names} - {"step"}}
        steps = sorted(histories[METRIC_LOSS])
        histories["step"] = {step: step for step in steps}
        return {name: np.array([histories[name].get(step, math.nan) for step in steps]) for name in names}

    def evaluations(
        self, trial: TrialRecord, names: Collection[str] | None = None
    ) -> Mapping[int, Mapping[str, float]]:
        """Return the metrics by number of steps: a metric at step 99 was measured after 100; see `Recorded`."""
        found: dict[int, dict[str, float]] = {}
        for name in trial.metrics if names is None else names:
            for step, value in self._history(trial, name).items():
                found.setdefault(step + 1, {})[name] = value
        return dict(sorted(found.items()))

    def _history(self, trial: TrialRecord, name: str) -> dict[int, float]:
        points = self._client.get_metric_history(trial.run_id or "", name)
        points.sort(key=lambda point: (point.step, point.timestamp))  # of several at one step the last one counts
        return {int(point.step): float(point.value) for point in points}


def _find_run(client: MlflowClient, name: str) -> Run | None:
    if re.fullmatch("[0-9a-f]{32}", name):
        run = _absent_is_none(lambda: client.get_run(name))
        if run is not None:
            return run
    if "'" in name and '"' in name:
        return None
    quote = '"' if "'" in name else "'"
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = _search(client, experiments, f"attributes.run_name = {quote}{name}{quote}") if experiments else []
    if len(runs) > 1:
        ids = ", ".join(run.info.run_id for run in runs[:4])
        raise UserError(f"{len(runs)} runs are called {name!r}; give the id of one: {ids}")
    return runs[0] if runs else None


def _search(client: MlflowClient, experiments: Sequence[str], condition: str = "") -> list[Run]:
    """Return all runs, the earliest first."""
    runs, token = list[Run](), None
    while True:
        page = client.search_runs(list(experiments), condition, max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            return sorted(runs, key=lambda run: (run.info.start_time or 0, run.info.run_id))


def _absent_is_none(ask: Callable[[], Found]) -> Found | None:
    try:
        return ask()
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _collect(
    client: MlflowClient, name: str, parent: Run | None, runs: Sequence[Run], *, metric: str | None
) -> CollectedSweep:
    params = {} if parent is None or parent in runs else parent.data.params
    judge = metric or params.get("objective") or _judge(name, runs)
    direction = params.get("direction") if judge == params.get("objective") else None
    about: dict[str, Setting] = {key: params[key] for key in ("data", "sampler", "seed") if key in params}
    lengths = {run.data.params.get("total_steps") for run in runs}
    if len(lengths) == 1 and (length := next(iter(lengths))) is not None and length.isdecimal():
        about["steps"] = int(length)
    return CollectedSweep(
        name=name if parent is None else str(parent.info.run_name or name),
        metric=judge,
        maximize=larger_is_better(judge) if direction is None else direction == "maximize",
        trials=tuple(_trial(run, place, judge) for place, run in enumerate(runs)),
        recorded=RecordedRuns(client),
        about=about,
    )


def _judge(name: str, runs: Sequence[Run]) -> str:
    """Return the metric that all finished runs have, a known one if there is one."""
    finished = [run for run in runs if run.info.status == "FINISHED"]
    common = set.intersection(*(set(run.data.metrics) for run in finished)) if finished else set()
    known = [metric for metric in (*METRICS, METRIC_LOSS) if metric in common]
    if known or not common:
        return known[0] if known else METRIC_LOSS
    if len(common) == 1:
        return next(iter(common))
    shown = ", ".join(sorted(common))[:200]
    raise UserError(f"{name}: say with --metric what its runs are judged by; they have: {shown}")


def _trial(run: Run, place: int, metric: str) -> TrialRecord:
    ours = run.data.tags.get(TAG_KIND) == _TRIAL
    params = {key: _parsed(value) for key, value in run.data.params.items()}
    metrics = {key: float(value) for key, value in run.data.metrics.items() if abs(value) < _INFINITE}  # nor NaN
    state = _STATES.get(run.info.status, "RUNNING")
    costs = {name: metrics.pop(name) for name in _COSTS if name in metrics}
    begun, ended = (run.info.start_time or 0) / 1000, run.info.end_time and run.info.end_time / 1000
    steps = max((entry.step + 1 for entry in run.data.to_proto().metrics), default=0)
    number = run.data.tags.get(TAG_TRIAL, "")
    base_lr = params.get("base_lr", math.nan)
    return TrialRecord(
        number=int(number) if number.isdecimal() else place,
        state=state,
        value=metrics.get(metric) if state == "COMPLETE" else None,
        params={key: value for key, value in params.items() if not ours or key not in _MADE_ALIKE},
        scheduler=str(params.get("scheduler", "")) if ours else "",
        settings={},
        base_lr=math.nan if isinstance(base_lr, str) or not ours else float(base_lr),
        reference=False,
        key=str(run.info.run_id),
        # Those of a trial of this tool that did not finish are of some step on its way.
        metrics={k: v for k, v in metrics.items() if not ours or (state == "COMPLETE" and k not in _CURVE)},
        steps_executed=int(costs.get("steps_executed", steps)),
        steps_repeated=int(costs.get("steps_repeated", 0)),
        steps_shared=int(costs.get("steps_shared", 0)),
        deterministic=TAG_SHARING not in run.data.tags,
        seconds=costs.get("seconds", max(0.0, ended - begun) if ended else 0.0),
        begun=begun,
        ended=ended,
        run_id=str(run.info.run_id),
        duplicate_of=_parsed_number(run.data.tags.get("duplicate_of")),
        reason=run.data.tags.get("reason") or (f"the run is {run.info.status}" if state == "FAIL" else None),
    )


def _parsed(text: str) -> Setting:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _parsed_number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
