"""Ray's own processes: started while the driver does other things, and ended with the sweep."""

import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from tuner.errors import UserError
from tuner.sweep.ending import Ending
from tuner.sweep.guard import Guard
from tuner.sweep.lanes import ONE_LANE, Lanes

_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard copies of every result
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the ledger is the record; Tune's snapshots would only cost time
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C comes out of `execute` as KeyboardInterrupt
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # a trial is the machine's main job: at Ray's 15 any other process would starve it
    "RAY_prestart_worker_first_driver": "0",  # the actor of Tune, which has settings of its own, could not use it
}
PROCESS_SETTINGS: Final = {
    "GOMP_SPINCOUNT": "1000",  # threads that wait sleep soon, so that a busy machine slows a trial down, not to a halt
}
"""What the process of the trials needs; it has them from here, or on another machine from its trials' config."""


class RayProcesses:
    """Ray on this machine, from `begin` to the end of the block; where it runs already, it is its starter's to end."""

    def __init__(self, ending: Ending, lanes: Lanes = ONE_LANE) -> None:
        self._ending = ending
        self._lanes = lanes
        self._started: Future[None] | None = None
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def begin(self) -> None:
        """Start Ray, which takes seconds, in a thread."""
        apply_settings()
        import ray

        if not ray.is_initialized():
            self._ends.enter_context(Guard())
            thread = self._ends.enter_context(ThreadPoolExecutor(1))
            self._ends.callback(ray.shutdown)
            self._started = thread.submit(self._start)

    def wait(self) -> None:
        """Wait until Ray runs.

        Raises:
            UserError: it does not start, as on a machine that is too busy.
        """
        if self._started is not None:
            try:
                self._started.result()
            except Exception as error:
                text = " ".join(str(error).split())[:300].rstrip(".")
                raise UserError(
                    f"Ray's processes must start on this machine, but did not: {text}; resume when it is less busy"
                ) from error
            self._ending.listen()  # Ray's compiled code has taken the signals
            self._ending.check()

    def end(self) -> None:
        """End all of Ray's processes."""
        if self._started is not None:
            self._started.exception()
        self._started = None
        self._ends.close()

    def _start(self) -> None:
        import ray

        with self._ending.kept():
            ray.init(
                address="local",
                num_cpus=self._lanes.number * self._lanes.cpus,  # Ray would start an idle process for every further one
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )


def apply_settings() -> None:
    """Make Ray's settings; those that it reads when it starts must stand before."""
    for key, value in {**_SETTINGS, **PROCESS_SETTINGS}.items():
        os.environ.setdefault(key, value)
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # relative paths mean the same in the actor as here
    for noisy in ("ray", "ray.tune"):  # a trial's failure is told once, by us
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
