"""The actor that Ray Tune keeps alive from trial to trial: it turns a trial's generator into Tune results."""

import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ray import tune

from tuner.config.run import RunConfig
from tuner.errors import DivergedError, UserError
from tuner.training.trial import TrialProgress, run_trial

REPORT_SECONDS = 0.5
"""How often a trial reports: often enough for a person to watch, too seldom to cost anything."""


class TrialActor(tune.Trainable):
    """Runs one trial after another in one process.

    The config of a trial is `{"run": RunConfig as a dict, "folder": its folder, "threads": CPU threads}`. A trial that
    fails reports `failed` with the reason as its last result, so that the process and its warm imports live on.
    """

    _progress: Iterator[TrialProgress] | None = None

    def setup(self, config: dict[str, Any]) -> None:
        """Start with the first trial's config."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave the trial before, release its memory, and make the next one ready."""
        self.cleanup()
        torch.set_num_threads(new_config["threads"])
        self._progress = run_trial(
            RunConfig.model_validate(new_config["run"]), Path(new_config["folder"]), device=_device()
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
        except (DivergedError, UserError) as error:
            return _failure(str(error))
        except Exception as error:  # noqa: BLE001 - one trial's failure is one trial's
            return _failure(f"{type(error).__name__}: {error}", traceback.format_exc())
        return {
            "steps": progress.steps,
            "loss": progress.loss,
            "lr": progress.lr,
            "metrics": list(progress.metrics.items()),  # pairs, since Tune takes nested dicts apart
            "seconds": progress.seconds,
            "done": progress.finished,
        }

    def cleanup(self) -> None:
        """Close the trial's files and give its memory back."""
        if self._progress is not None:
            self._progress.close()  # type: ignore[attr-defined]
            self._progress = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _failure(reason: str, trace: str = "") -> dict[str, Any]:
    return {"failed": reason, "traceback": trace, "done": True}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
