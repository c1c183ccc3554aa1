"""One run in this process, without Ray: the device made ready, each step heard, the weights left in a file."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tuner.config.run import FaceConfig, RunConfig, WorkloadConfig
from tuner.errors import NoRoomError
from tuner.models.weights import save_weights
from tuner.names import STATE_FILE, WEIGHTS_FILE
from tuner.room import patiently
from tuner.stages.store import StageStore
from tuner.stages.trial import TrialProgress, run_trial
from tuner.sweep.failures import Failure, failure
from tuner.tracking.environment import num_cores
from tuner.training.process import training_device

Outcome = Failure | Literal["finished", "stopped"]


def train_in_process(
    config: RunConfig,
    folder: Path,
    *,
    store: Path | None,
    label: str,
    hear: Callable[[TrialProgress], None],
    stopped: Callable[[], bool],
) -> Outcome:
    """Train one run as a trial of a sweep is trained, to its end or until it is `stopped`; say which, or how it failed.

    Stopped, it leaves a checkpoint, and goes on from there the next time. At its end, the backbone's weights, or the
    whole state of a workload of one's own, are in `folder`, beside curve and evaluations.

    Args:
        config: the run.
        folder: where its files go.
        store: the stage store; None for a workload that cannot go on from a checkpoint.
        label: of the run in that store.
        hear: gets the progress of each step.
        stopped: asked after each step.

    Raises:
        NoRoomError: the disk stayed full.
    """
    device = training_device(threads=num_cores(), deterministic=config.workload.deterministic)
    steps = run_trial(
        config,
        folder,
        device=device,
        store=None if store is None else StageStore(store),
        label=label,
        at_end=partial(_save, config.workload, folder),
    )
    try:
        for progress in steps:
            hear(progress)
            if stopped():
                with suppress(Exception):  # whatever keeps it from leaving a checkpoint, its steps are recorded
                    steps.close()
                return "stopped"
    except NoRoomError:
        raise
    except Exception as error:  # noqa: BLE001 - told by the caller
        return failure(error)
    return "finished"


def _save(workload: WorkloadConfig, folder: Path, state: dict[str, Any]) -> None:
    faces = isinstance(workload, FaceConfig)
    kept, path = (state["backbone"], folder / WEIGHTS_FILE) if faces else (state, folder / STATE_FILE)
    patiently(lambda: save_weights(kept, path), path)
