"""What the process of the trials does: it runs one trial after another and turns each into results to report."""

import logging
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tuner.config.run import RunConfig
from tuner.errors import NoRoomError
from tuner.stages.store import StageStore
from tuner.stages.trial import TrialProgress, run_trial
from tuner.sweep.failures import Failure, failure
from tuner.sweep.jobs import FAILED, NO_ROOM, STOP_FILE, STOPPED
from tuner.training.determinism import is_deterministic
from tuner.training.process import training_device

REPORT_SECONDS = 0.5
"""How often a trial reports: often enough for a person to watch, too seldom to cost anything."""


class TrialProcess:
    """Runs one trial after another, each from `begin` to its last `step`.

    A trial that fails in a known way reports so as its last result, and the process and its warm imports live on. Where
    memory was full, it may be held by what is left of the trial, and after any other exception the state of the process
    is anyone's guess: the next trial gets a fresh one.
    """

    _progress: Generator[TrialProgress] | None = None
    _last: TrialProgress | None = None
    _store: tuple[str, StageStore] | None = None
    _failure: Failure | None = None
    _stop_file: Path
    _deterministic: bool

    def __init__(self) -> None:
        self._messages = Messages()
        logging.getLogger("tuner").addHandler(self._messages)

    def begin(self, config: dict[str, Any]) -> None:
        """Leave the trial before, release its memory, and make the next one ready.

        The config of a trial is `{"run": RunConfig as a dict, "folder": its folder, "threads": CPU threads, "label":
        its name in the stage store, "store": that store's folder or None, "checkpoint_budget": bytes}` and the
        executor's stop file.
        """
        self.close()
        run = RunConfig.model_validate(config["run"])
        device = training_device(threads=config["threads"], deterministic=run.workload.deterministic)
        self._deterministic = is_deterministic(device)
        self._stop_file = Path(config[STOP_FILE])
        self._progress = run_trial(
            run,
            Path(config["folder"]),
            device=device,
            store=self._open_store(config),
            label=config["label"],
        )

    def step(self) -> dict[str, Any]:
        """Train for about half a second, or to the next evaluation, and report."""
        if self._failure is not None:
            raise RuntimeError(self._failure.reason)  # it was reported before; this makes Tune end the process
        try:
            stopped = self._train()
        except NoRoomError as error:
            return {NO_ROOM: str(error), "done": True}
        except Exception as error:  # noqa: BLE001 - one trial's failure is one trial's
            found = failure(error)
        else:
            return {STOPPED: True, "done": True} if stopped or self._last is None else self._report(self._last)
        # Out of reach of the exception, whose traceback holds on to all that the trial had.
        self._failure = None if found.known else found
        counts = {} if self._last is None else self._report(self._last)
        self.close()
        return {**counts, FAILED: found.reason, "traceback": found.traceback, "done": found.known}

    def close(self) -> None:
        """Close the trial's files, after a checkpoint where it was broken off, and give its memory back."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None
        self._last = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _train(self) -> bool:
        """Return whether the trial was asked to stop, and did."""
        assert self._progress is not None  # noqa: S101 - Tune calls setup first
        deadline = time.monotonic() + REPORT_SECONDS
        while not self._stop_file.exists():
            self._last = last = next(self._progress)
            if last.finished or last.metrics or time.monotonic() >= deadline:
                return False
        with suppress(Exception):  # whatever keeps it from leaving a checkpoint, its steps are recorded
            self.close()
        return True

    def _report(self, last: TrialProgress) -> dict[str, Any]:
        return {
            "steps": last.steps,
            "loss": last.loss,
            "lr": last.lr,
            "metrics": list(last.metrics.items()),  # pairs, since Tune takes nested dicts apart
            # What was trained before an interruption is this trial's too.
            "steps_executed": last.counts.executed + last.counts.resumed,
            "steps_repeated": last.counts.repeated,
            "steps_shared": last.counts.shared,
            "shared_with": list(last.shared_with.items()),
            "shelf": last.shelf,
            "messages": self._messages.take(),
            "deterministic": self._deterministic,
            "done": last.finished,
        }

    def _open_store(self, config: dict[str, Any]) -> StageStore | None:
        """Return the stage store, the same object for all trials that use it: it knows what it has read."""
        if config["store"] is None:
            return None
        if self._store is None or self._store[0] != config["store"]:
            budget = config["checkpoint_budget"]
            self._store = config["store"], StageStore(Path(config["store"]), checkpoint_budget=budget)
        return self._store[1]


class Messages(logging.Handler):
    """Keeps what the actor's process has to say until the next result takes it to the person who watches."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self._texts.append(record.getMessage())

    def take(self) -> list[str]:
        """Return the messages since the last call."""
        taken, self._texts = self._texts, []
        return taken
