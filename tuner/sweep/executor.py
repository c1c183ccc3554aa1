"""Ray Tune as executor: trials run one after another in one actor that is kept from trial to trial.

Tune executes and remembers nothing that matters: what to run next, and what came out, is the caller's, through a
`TrialSource`. Tune's own experiment folder is thrown away.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import ray
from ray import tune
from ray.tune.search import Searcher

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard copies of every result
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the ledger is the record; Tune's snapshots would only cost time
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Assignment:
    """One trial to run: its number in the ledger and the config for the actor."""

    number: int
    config: Mapping[str, Any]


class TrialSource(Protocol):
    """Decides what runs and hears what came out; called in the driver process, one trial at a time."""

    def next_trial(self) -> Assignment | None:
        """Return the next trial, or None when the sweep is done."""
        ...

    def moved(self, number: int, result: Mapping[str, Any]) -> None:
        """Hear a result of the running trial."""
        ...

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        """Hear a trial's last result; None where its process died without one."""
        ...


class _Feed(Searcher):
    """Lets Tune pull trials from a `TrialSource`.

    Tune swallows what a searcher raises, or takes it for the trial's own failure. Here the first error ends the sweep:
    it is kept, no further trial is given out, and `execute` raises it.
    """

    def __init__(self, source: TrialSource) -> None:
        super().__init__()
        self._source = source
        self._numbers: dict[str, int] = {}
        self.error: BaseException | None = None

    def suggest(self, trial_id: str) -> Any:
        assignment = self._ask(self._source.next_trial)
        if assignment is None:
            return Searcher.FINISHED
        self._numbers[trial_id] = assignment.number
        return dict(assignment.config)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._ask(self._source.moved, self._numbers[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._ask(self._source.ended, self._numbers.pop(trial_id), None if error else result)

    def _ask(self, question: Callable[..., Answer], *arguments: Any) -> Answer | None:
        if self.error is not None:
            return None
        try:
            return question(*arguments)
        except Exception as error:  # noqa: BLE001 - raised again by `execute`
            self.error = error
            return None

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the ledger is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Keep nothing: the ledger is the record."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its arguments for a restore that is never made.
        return {}


def execute(source: TrialSource, trainable: type[tune.Trainable]) -> None:
    """Run the source's trials one after another; all of one GPU is given to each where there is one.

    `trainable` is a class `tune.Trainable` with `reset_config`. Whatever `source` raises comes out here.
    """
    os.environ.update({key: value for key, value in _QUIET.items() if key not in os.environ})
    for noisy in ("ray", "ray.tune"):  # a trial's failure is told once, by us
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    feed = _Feed(source)
    with tempfile.TemporaryDirectory(prefix="fastface-tuner-", ignore_cleanup_errors=True) as scratch:
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1, "gpu": 1 if _gpus() else 0}),
            tune_config=tune.TuneConfig(search_alg=feed, num_samples=-1, max_concurrent_trials=1, reuse_actors=True),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
    if feed.error is not None:
        raise feed.error


def _gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
