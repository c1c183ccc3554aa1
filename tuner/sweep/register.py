"""Put the model of a sweep's best trial into MLflow's registry: its weights are found, or trained again."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from tuner.analysis.snippet import torch_code
from tuner.config.own_code import find_class
from tuner.config.run import FaceConfig, RunConfig, WorkloadConfig
from tuner.errors import UserError
from tuner.models.weights import save_weights
from tuner.names import CONFIG_FILE, NETWORK_FILE, WEIGHTS_FILE
from tuner.stages.store import StageStore
from tuner.stages.trial import run_trial
from tuner.sweep.best import Best, run_yaml
from tuner.sweep.devices import first_visible
from tuner.sweep.folder import SweepDescription, SweepFolder
from tuner.sweep.lock import device_lock
from tuner.tracking.environment import num_cores
from tuner.tracking.registry import register_model
from tuner.tracking.store import Tracker
from tuner.training.opened import open_workload
from tuner.training.process import training_device

_CODE_FILE: Final = "schedule.py"


def register_best(
    folder: SweepFolder, best: Best, *, name: str, tracker: Tracker, progress: Callable[[float], None]
) -> int:
    """Register the network of the best trial with its configuration and evaluation; return the model's version.

    That is the backbone of faces, or what the class of a workload of one's own finds in its state.

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
        UserError: the trial is not in MLflow, its data is not there or has changed, the class does not say what its
            network is, or the store does not take the model.
    """
    trial, description = best.trial, folder.read()
    file, weights_of = _network(best.config.workload)
    if trial.run_id is None:
        raise UserError(
            f"a model is registered with its run, but MLflow has none of trial {trial.number} yet; "
            f"send it with: fastface-tuner sync {folder.argument}"
        )
    with tempfile.TemporaryDirectory(prefix="fastface-tuner-") as made, ExitStack() as locks:
        model = Path(made) / "model"
        model.mkdir()
        kept = folder.trial(trial.number) / file
        if kept.exists():
            shutil.copyfile(kept, model / file)
        else:
            _check_repeatable(best.config.workload, description)
            locks.enter_context(device_lock(first_visible(), sweep=folder.path))

            def keep(state: dict[str, Any]) -> None:
                save_weights(weights_of(state), model / file)

            label = f"{description.parent_run_id}/{trial.number}"  # as the sweep's: its steps are this trial's own
            _train(best.config, description, label, made=Path(made), keep=keep, progress=progress)
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
            description=f"{best.sentence}\n\n`{file}` is the network's state dict, `{CONFIG_FILE}` its run.",
        )


def _network(workload: WorkloadConfig) -> tuple[str, Callable[[dict[str, Any]], Mapping[str, Any]]]:
    """Return the file for a workload's network, and what finds its weights in a state."""
    if isinstance(workload, FaceConfig):
        return WEIGHTS_FILE, itemgetter("backbone")
    say: Callable[[dict[str, Any]], Mapping[str, Any]] | None = getattr(find_class(workload.name), "weights", None)
    if say is None:
        raise UserError(
            f"workload {workload.name}: to register its network its class must have a static method `weights(state)`, "
            "which finds it in a state, but has none; write one, or keep the state that `fastface-tuner train` leaves"
        )
    return NETWORK_FILE, say


def _check_repeatable(workload: WorkloadConfig, sweep: SweepDescription) -> None:
    """Raise UserError where training again would give another network than the trial's."""
    if sweep.unfit is not None:
        raise UserError(f"a model that is trained again must be the same, but the workload is not fit: {sweep.unfit}")
    if sweep.faces not in (None, open_workload(workload).data.digest):
        raise UserError(
            f"a model is registered with the evaluation of its trial, but {workload.inputs} have changed; restore what "
            "was there"
        )


def _train(
    config: RunConfig,
    sweep: SweepDescription,
    label: str,
    *,
    made: Path,
    keep: Callable[[dict[str, Any]], None],
    progress: Callable[[float], None],
) -> None:
    """Bring the run to its end, on known ground as far as that goes, and keep its state."""
    device = training_device(threads=sweep.threads or num_cores())
    store = None if sweep.store is None else StageStore(Path(sweep.store), checkpoint_budget=sweep.checkpoint_budget)
    for step in run_trial(config, made / "trial", device=device, store=store, label=label, at_end=keep):
        progress(step.steps / config.total_steps)
