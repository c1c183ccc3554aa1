"""Put the model of a sweep's best trial into MLflow's registry: its weights are found, or trained again."""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from tuner.analysis.snippet import torch_code
from tuner.config.run import FaceConfig, RunConfig
from tuner.errors import UserError
from tuner.models.weights import save_weights
from tuner.names import CONFIG_FILE, WEIGHTS_FILE
from tuner.stages.store import StageStore
from tuner.stages.trial import run_trial
from tuner.sweep.best import Best, run_yaml
from tuner.sweep.devices import first_visible
from tuner.sweep.folder import SweepDescription, SweepFolder
from tuner.sweep.lock import device_lock
from tuner.tracking.environment import num_cores
from tuner.tracking.registry import register_model
from tuner.tracking.store import Tracker
from tuner.training.process import training_device

_CODE_FILE: Final = "schedule.py"


def register_best(
    folder: SweepFolder, best: Best, *, name: str, tracker: Tracker, progress: Callable[[float], None]
) -> int:
    """Register the backbone of the best trial with its configuration and evaluation; return the model's version.

    The weights are those of the trial's folder, if it has them. Otherwise its run is taken up in the stage store, where
    all of its steps are known: the state at its end is restored from the nearest checkpoint, which takes no training,
    or little. Without the store it is trained again.

    Args:
        folder: the sweep.
        best: its best trial.
        name: of the model in the registry.
        tracker: the store of the sweep's runs.
        progress: hears the share that is done, 0 to 1.

    Raises:
        UserError: the trial is not in MLflow, its faces are not there, or the store does not take the model.
    """
    trial = best.trial
    if not isinstance(best.config.workload, FaceConfig):
        raise UserError("a backbone of faces can be registered, but this sweep trained another workload; use train")
    if trial.run_id is None:
        raise UserError(
            f"a model is registered with its run, but MLflow has none of trial {trial.number} yet; "
            f"send it with: fastface-tuner sync {folder.argument}"
        )
    with tempfile.TemporaryDirectory(prefix="fastface-tuner-") as made, ExitStack() as locks:
        model = Path(made) / "model"
        model.mkdir()
        kept = folder.trial(trial.number) / WEIGHTS_FILE
        if kept.exists():
            shutil.copyfile(kept, model / WEIGHTS_FILE)
        else:
            locks.enter_context(device_lock(first_visible(), sweep=folder.path))
            label = f"{folder.read().parent_run_id}/{trial.number}"  # as the sweep's: its steps are this trial's own
            _train(best.config, folder.read(), label, made=Path(made), weights=model / WEIGHTS_FILE, progress=progress)
        text = run_yaml(best.config, about=best.sentence, file=CONFIG_FILE)
        (model / CONFIG_FILE).write_text(text, "utf-8")
        (model / _CODE_FILE).write_text(torch_code(best.config, about=best.sentence), "utf-8")
        return register_model(
            tracker,
            trial.run_id,
            name=name,
            folder=model,
            params={"scheduler": trial.scheduler, **trial.settings, "total_steps": best.config.total_steps},
            metrics=trial.metrics,
            description=f"{best.sentence}\n\n`{WEIGHTS_FILE}` is the backbone's state dict, `{CONFIG_FILE}` its run.",
        )


def _train(
    config: RunConfig,
    sweep: SweepDescription,
    label: str,
    *,
    made: Path,
    weights: Path,
    progress: Callable[[float], None],
) -> None:
    """Bring the run to its end, on known ground as far as that goes, and leave the backbone's weights."""
    device = training_device(threads=sweep.threads or num_cores())
    store = None if sweep.store is None else StageStore(Path(sweep.store), checkpoint_budget=sweep.checkpoint_budget)

    def keep(state: dict[str, Any]) -> None:
        save_weights(state["backbone"], weights)

    for step in run_trial(config, made / "trial", device=device, store=store, label=label, at_end=keep):
        progress(step.steps / config.total_steps)
