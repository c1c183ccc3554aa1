"""The actor that Ray Tune keeps alive from trial to trial: it turns a trial's generator into Tune results."""

import logging
import time
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from ray import tune

from tuner.config.run import RunConfig
from tuner.errors import DivergedError, NoRoomError, UserError
from tuner.stages.store import StageStore
from tuner.stages.trial import TrialProgress, run_trial
from tuner.training.determinism import is_deterministic, set_deterministic

REPORT_SECONDS = 0.5
"""How often a trial reports: often enough for a person to watch, too seldom to cost anything."""


class TrialActor(tune.Trainable):
    """Runs one trial after another in one process.

    The config of a trial is `{"run": RunConfig as a dict, "folder": its folder, "threads": CPU threads, "label": its
    name in the stage store, "store": the store's folder or None, "checkpoint_budget": bytes}`. A trial that fails
    reports `failed` with the reason as its last result, so that the process and its warm imports live on.
    """

    _progress: Generator[TrialProgress] | None = None
    _messages: "Messages"
    _deterministic: bool
    _stores: dict[str, StageStore] | None = None

    def setup(self, config: dict[str, Any]) -> None:
        """Start with the first trial's config."""
        self._messages = Messages()
        logging.getLogger("tuner").addHandler(self._messages)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave the trial before, release its memory, and make the next one ready."""
        self.cleanup()
        torch.set_num_threads(new_config["threads"])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        set_deterministic(device)
        self._deterministic = is_deterministic(device)
        self._progress = run_trial(
            RunConfig.model_validate(new_config["run"]),
            Path(new_config["folder"]),
            device=device,
            store=self._store(new_config),
            label=new_config["label"],
        )
        return True

    def step(self) -> dict[str, Any]:
        """Train for about half a second, or to the next evaluation, and report."""
        assert self._progress is not None  # noqa: S101 - Tune calls setup first
        deadline = time.monotonic() + REPORT_SECONDS
        try:
            for progress in self._progress:
                if progress.metrics or time.monotonic() >= deadline:
                    break
        except NoRoomError as error:
            return {"no_room": str(error), "done": True}
        except (DivergedError, UserError) as error:
            return _failure(str(error))
        except Exception as error:  # noqa: BLE001 - one trial's failure is one trial's
            return _failure(f"{type(error).__name__}: {error}", traceback.format_exc())
        return {
            "steps": progress.steps,
            "loss": progress.loss,
            "lr": progress.lr,
            "metrics": list(progress.metrics.items()),  # pairs, since Tune takes nested dicts apart
            "steps_executed": progress.counts.executed,
            "steps_shared": progress.counts.shared,
            "shared_with": list(progress.shared_with.items()),
            "messages": self._messages.take(),
            "deterministic": self._deterministic,
            "done": progress.finished,
        }

    def cleanup(self) -> None:
        """Close the trial's files and give its memory back."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _store(self, config: dict[str, Any]) -> StageStore | None:
        """Return the stage store, the same object for all trials of this process: it knows what it has read."""
        if config["store"] is None:
            return None
        self._stores = self._stores or {}
        if config["store"] not in self._stores:
            self._stores[config["store"]] = StageStore(
                Path(config["store"]), checkpoint_budget=config["checkpoint_budget"]
            )
        return self._stores[config["store"]]


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


def _failure(reason: str, trace: str = "") -> dict[str, Any]:
    return {"failed": reason, "traceback": trace, "done": True}
