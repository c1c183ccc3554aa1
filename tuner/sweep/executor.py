"""Ray Tune as executor: trials run one after another in one actor that is kept from trial to trial.

Tune executes and remembers nothing that matters: what to run next, and what came out, is the caller's, through a
`TrialSource`. Tune's own experiment folder is thrown away.
"""

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any, Self, TypeVar

import ray
from ray import tune
from ray.tune.search import Searcher

from tuner.sweep.jobs import TrialSource

_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard copies of every result
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the ledger is the record; Tune's snapshots would only cost time
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C comes out of `execute` as KeyboardInterrupt
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # a trial is the machine's main job: at Ray's 15 any other process would starve it
    "GOMP_SPINCOUNT": "1000",  # threads that wait sleep soon, so that a busy machine slows a trial down, not to a halt
}


Answer = TypeVar("Answer")


class Ending:
    """Ctrl-C and SIGTERM while the block runs: raised at once as KeyboardInterrupt or SystemExit, and remembered.

    An exception that is raised while Ray's compiled code runs can get lost there, or lose its status; Ray's own handler
    for SIGTERM, which `ray.init` installs, ends in an abort. So what was received is raised again at every `check`.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._receive) for each in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self.check()

    def check(self) -> None:
        """Raise what was received, if anything was."""
        if self._received == signal.SIGINT:
            raise KeyboardInterrupt
        if self._received is not None:
            sys.exit(128 + self._received)

    def _receive(self, number: int, _: object) -> None:
        self._received = number
        self.check()


class _Feed(Searcher):
    """Lets Tune pull trials from a `TrialSource`.

    Tune swallows what a searcher raises, or takes it for the trial's own failure. Here the first error ends the sweep:
    it is kept, no further trial is given out, and `execute` raises it.
    """

    def __init__(self, source: TrialSource, ending: Ending) -> None:
        super().__init__()
        self._source = source
        self._ending = ending
        self._numbers: dict[str, int] = {}
        self.error: BaseException | None = None

    def suggest(self, trial_id: str) -> Any:
        self._ending.check()
        assignment = self._ask(self._source.next_trial)
        if assignment is None:
            return Searcher.FINISHED
        self._numbers[trial_id] = assignment.number
        return dict(assignment.config)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._ending.check()
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

    `trainable` is a class `tune.Trainable` with `reset_config`. Whatever `source` raises comes out here, Ctrl-C as
    KeyboardInterrupt, SIGTERM as SystemExit with the status 143.
    """
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # relative paths mean the same in the actor as here
    for noisy in ("ray", "ray.tune"):  # a trial's failure is told once, by us
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    if not ray.is_initialized():
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    with (
        tempfile.TemporaryDirectory(prefix="fastface-tuner-", ignore_cleanup_errors=True) as scratch,
        Ending() as ending,
    ):
        feed = _Feed(source, ending)
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
