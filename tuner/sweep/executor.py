"""Ray Tune as executor: trials run one after another in one actor that is kept from trial to trial, or in several.

Tune executes and remembers nothing that matters: what to run next, and what came out, is the caller's, through a
`TrialSource`. Tune's own experiment folder is thrown away.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import tune
from ray.tune.search import Searcher

from tuner.errors import UserError
from tuner.sweep.ending import Ending
from tuner.sweep.guard import scratch_prefix
from tuner.sweep.jobs import FAILED, STOP_FILE, STOPPED, Job, TrialSource
from tuner.sweep.lanes import ONE_LANE, Lanes
from tuner.sweep.ray_processes import RayProcesses, apply_settings

_SIGNAL_SECONDS = 0.5
"""A signal for all processes of a job or a machine may reach the trial's process so much before this one."""

Answer = TypeVar("Answer")


class _Feed(Searcher):
    """Lets Tune pull trials from a `TrialSource`.

    Tune swallows what a searcher raises, or takes it for the trial's own failure. Here the first error ends the sweep:
    it is kept, no further trial is given out, those that run stop as at an interruption, and `execute` raises it.
    """

    def __init__(self, source: TrialSource, ending: Ending, stop_file: Path, elsewhere: Mapping[str, Any]) -> None:
        super().__init__()
        self._source = source
        self._ending = ending
        self._stop_file = stop_file
        self._elsewhere = elsewhere
        self._numbers: dict[str, int] = {}
        self._failures: dict[str, dict[str, Any]] = {}
        self._ahead: list[Job | None] = []
        self._is_dry = False
        self.error: BaseException | None = None

    def look_ahead(self) -> None:
        """Ask for the first trial before Tune does."""
        self._ahead.append(self._ask(self._source.next_trial))

    def suggest(self, trial_id: str) -> Any:
        job = None
        if not self._ending.received and not self._is_dry:
            job = self._ahead.pop() if self._ahead else self._ask(self._source.next_trial)
        if self._ending.received or self.error is not None or (job is None and not self._numbers):
            return Searcher.FINISHED
        if job is None:
            self._is_dry = True  # until one that runs has ended, or was lost and is to run again
            return None
        self._numbers[trial_id] = job.number
        return {**job.config, **self._elsewhere, STOP_FILE: str(self._stop_file)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if FAILED in result:
            self._failures[trial_id] = result
        else:
            self._ask(self._source.moved, self._numbers[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number, failure = self._numbers.pop(trial_id), self._failures.pop(trial_id, None)
        self._is_dry = False
        if error and failure is None:
            time.sleep(_SIGNAL_SECONDS)
            if self._ending.received:  # what ended the trial's process was not the trial
                return
            if self.error is None and not any(node["Alive"] for node in ray.nodes()):  # type: ignore[no-untyped-call]
                self.error = UserError("Ray's processes on this machine ended: killed from outside; resume the sweep")
                return
        if error or result is None or STOPPED not in result:
            self._ask(self._source.ended, number, failure if error else result)

    def _ask(self, question: Callable[..., Answer], *arguments: Any) -> Answer | None:
        if self.error is not None:
            return None
        try:
            return question(*arguments)
        except Exception as error:  # noqa: BLE001 - raised again by `execute`
            self.error = error
            with suppress(OSError):
                self._stop_file.touch()
            return None

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the ledger is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Keep nothing: the ledger is the record."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its arguments for a restore that is never made.
        return {}


def execute(
    source: TrialSource,
    trainable: type[tune.Trainable],
    *,
    ending: Ending,
    processes: RayProcesses | None = None,
    lanes: Lanes = ONE_LANE,
) -> None:
    """Run the source's trials, as many side by side as there are `lanes`; each has a GPU of its own where there is one.

    Ray must run, or be about to: while `processes` start, the source is asked for the first trial.

    `trainable` is a class `tune.Trainable` with `reset_config`, as `tuner.sweep.jobs` describes. Whatever `source`
    raises comes out here. What `ending` receives comes out too, once the running trials have left a checkpoint; the
    source hears nothing more of them.
    """
    apply_settings()
    with tempfile.TemporaryDirectory(
        prefix=scratch_prefix(os.getpid()), dir=lanes.shared, ignore_cleanup_errors=True
    ) as scratch:
        stop_file = Path(scratch) / STOP_FILE
        feed = _Feed(source, ending, stop_file, lanes.elsewhere)
        with ending.gentle(stop_file.touch):
            feed.look_ahead()
            if processes is not None:
                processes.wait()
            tune.Tuner(
                tune.with_resources(trainable, {"cpu": lanes.cpus, "gpu": 1 if _gpus() else 0}),
                tune_config=tune.TuneConfig(
                    search_alg=feed, num_samples=-1, max_concurrent_trials=lanes.number, reuse_actors=True
                ),
                run_config=tune.RunConfig(
                    name="sweep",
                    storage_path=scratch,
                    verbose=0,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()
    ending.check()
    if feed.error is not None:
        raise feed.error


def _gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
