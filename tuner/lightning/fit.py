"""Lightning's `Trainer.fit`, standing still before each step until it is told at which LR to go on.

The Trainer calls its user, and a sweep calls its workload. So `fit` has a thread of its own, which waits where it asks
for its next batch; only one of the two threads runs at any time.
"""

import logging
import math
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Final

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from tuner.errors import UserError
from tuner.lightning.batches import BUILDING, Batches, numbered, seed_all

_STATE: Final = "the state of the workload"
"""Stands for the file of a checkpoint that stays in memory."""

_HYPERPARAMETERS: Final = {
    name
    for kind in (LightningModule, LightningDataModule)
    for name in (kind.CHECKPOINT_HYPER_PARAMS_KEY, kind.CHECKPOINT_HYPER_PARAMS_NAME, kind.CHECKPOINT_HYPER_PARAMS_TYPE)
}
"""Parts of a checkpoint that may be any object, and that no training goes on from."""

_QUIET: Final = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "num_sanity_val_steps": 0,
}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A module, its data (None: the module's own) and options of a Trainer, not yet used."""

    module: LightningModule
    loaders: LightningDataModule | tuple[Any, Any] | None
    options: Mapping[str, Any]


class Fit:
    """A Trainer that has been started and stands before the step numbered `next_step`.

    Args:
        parts: what is trained.
        seed: of the batches and all random numbers.
        step: the first step, from 0.
        state: what `state_dict` returned before that step; None before the first.

    Raises:
        UserError: it cannot be trained step by step. What module, data and Trainer raise comes out too.
    """

    def __init__(self, parts: Parts, *, seed: int, step: int, state: dict[str, Any] | None) -> None:
        self.next_step = step
        self._turns = turns = _Turns()
        at_end = ExitStack()
        self._memory = _Memory(state)
        module, options = parts.module, dict(parts.options)
        options |= {"callbacks": [*_listed(options.get("callbacks")), self._turns], "limit_val_batches": 0}
        self._trainer = _trainer(options, self._memory, max_epochs=-1)
        in_step = self._trainer.accumulate_grad_batches

        def in_turns(found: object) -> Batches:
            loader = numbered(found)
            epoch, done = divmod(step, math.ceil(len(loader) / in_step))
            first = epoch * len(loader) + done * in_step
            batches = Batches(loader, seed=seed, first=first, before=turns.before_batch)
            at_end.callback(batches.close)
            return batches

        if isinstance(parts.loaders, tuple):
            data: dict[str, Any] = {"train_dataloaders": in_turns(parts.loaders[0])}
        else:
            owner = module if parts.loaders is None else parts.loaders
            make = owner.train_dataloader
            owner.train_dataloader = lambda: in_turns(make())  # type: ignore[method-assign]
            data = {"datamodule": parts.loaders}
        path = None if state is None else _STATE
        fit = partial(self._trainer.fit, module, **data, ckpt_path=path, weights_only=True)
        self._thread = threading.Thread(target=_run, args=(fit, turns, at_end), name="lightning", daemon=True)
        self._thread.start()
        turns.wait()
        self._memory.state = {}  # it is restored

    def step(self, lr: float) -> Tensor:
        """Train the next step at learning rate `lr`; return the mean loss of its batches, detached, shape ()."""
        self._turns.asked.put(lr)
        loss = self._turns.wait()
        assert loss is not None  # noqa: S101 - a step was taken
        self.next_step += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return Lightning's checkpoint without hyperparameters."""
        self._trainer.save_checkpoint(_STATE, weights_only=False)
        return {name: value for name, value in self._memory.state.items() if name not in _HYPERPARAMETERS}

    def close(self) -> None:
        """End the Trainer, which gives back the device's memory."""
        self._turns.asked.put(None)
        self._thread.join()


def validated(parts: Parts, state: dict[str, Any], *, seed: int) -> dict[str, float]:
    """Return what a module logs in validation with the weights and callbacks of a state."""
    options = dict(parts.options)
    options["callbacks"] = _listed(options.get("callbacks"))
    trainer = _trainer(options, _Memory(state))
    data: dict[str, Any] = {"datamodule": parts.loaders}
    if isinstance(parts.loaders, tuple):
        data = {"dataloaders": parts.loaders[1]}
    seed_all(seed, BUILDING)
    found = trainer.validate(parts.module, **data, ckpt_path=_STATE, verbose=False, weights_only=True)
    return {name: float(value) for each in found for name, value in each.items()}


class _Ended(BaseException):
    """Ends a Trainer that is not needed any longer."""


class _Turns(Callback):
    """Lets the Trainer's thread and the sweep's take turns; sets the LR and collects the loss."""

    def __init__(self) -> None:
        self.asked: SimpleQueue[float | None] = SimpleQueue()
        self._answers: SimpleQueue[Tensor | BaseException | None] = SimpleQueue()
        self._trainer: Trainer | None = None
        self._ratios: list[list[float]] = []
        self._losses: list[Tensor] = []
        self._begun = False
        self._lr = 0.0
        self._steps_done = 0
        self._in_step = 1

    def wait(self) -> Tensor | None:
        """Wait until the Trainer stands before a step; return the loss of the one before."""
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            self._answers.put(answer)  # for whoever asks again: the Trainer has ended
            raise answer
        return answer

    def failed(self, error: BaseException) -> None:
        """Let the one who waits have an error."""
        self._answers.put(error)

    def before_batch(self) -> None:
        """Between two steps, report and wait; between the batches of a step, go on. In the Trainer's thread."""
        trainer = self._trainer
        assert trainer is not None  # noqa: S101 - a batch is asked for after the start
        if self._losses:
            if trainer.lightning_module.automatic_optimization and trainer.global_step == self._steps_done:
                return
            loss = torch.stack(self._losses).mean()
            self._losses.clear()
            self._answers.put(loss)
        elif self._begun:
            raise UserError("each batch must be trained on, but the rest of an epoch was skipped by a hook; remove it")
        else:
            self._begun = True
            self._answers.put(None)
        self._steps_done = trainer.global_step
        asked = self.asked.get()
        if asked is None:
            raise _Ended
        self._lr = asked

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the LRs that were configured: a checkpoint brings back those that were set."""
        self._trainer, self._in_step = trainer, trainer.accumulate_grad_batches
        lrs = [[group.get("initial_lr", group["lr"]) for group in each.param_groups] for each in trainer.optimizers]
        if not lrs or not lrs[0][0] > 0:
            raise UserError(
                "`configure_optimizers` must return an optimizer with an LR above 0, to which those of others are "
                f"related, but got {lrs[0][0] if lrs else 'none'}; return one"
            )
        self._ratios = [[float(lr / lrs[0][0]) for lr in group] for group in lrs]
        if pl_module.automatic_optimization:
            trainer.lr_scheduler_configs.clear()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the LRs."""
        for optimizer, ratios in zip(trainer.optimizers, self._ratios, strict=True):
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                group["lr"] = self._lr * ratio

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise UserError(
                "`training_step` must return the loss, in manual optimisation too, or a dict with it as `loss`, but "
                f"returned {'none' if loss is None else repr(loss)}; return it, for it decides the LR"
            )
        if trainer.accumulate_grad_batches != self._in_step:
            raise UserError(
                "`accumulate_grad_batches` must stay the same: the batches of a step are found by its number, but it "
                f"went from {self._in_step} to {trainer.accumulate_grad_batches}; leave out what changes it"
            )
        self._losses.append(loss.detach().reshape(()) * trainer.accumulate_grad_batches)  # the Trainer has divided it


class _Memory(TorchCheckpointIO):
    """Checkpoints as files, but for the one that is the state of a workload."""

    def __init__(self, state: dict[str, Any] | None) -> None:
        self.state = {} if state is None else state

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Keep the checkpoint."""
        if path == _STATE:
            self.state = checkpoint
        else:
            super().save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Return the checkpoint; the Trainer takes from it what it has restored."""
        if path == _STATE:
            return dict(self.state)
        return super().load_checkpoint(path, map_location, weights_only)


def _run(fit: Callable[[], object], turns: _Turns, at_end: ExitStack) -> None:
    """Fit, in a thread of its own, and let whoever waits know how it ended."""
    try:
        with at_end:
            fit()
    except _Ended:
        return
    except BaseException as error:  # noqa: BLE001 - raised again by the one who waits
        turns.failed(error)
    else:
        turns.failed(
            UserError("the Trainer must go on for as long as the sweep does, but was stopped; let no hook do so")
        )


def _trainer(options: Mapping[str, Any], memory: _Memory, **more: Any) -> Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # each Trainer would tell what machine this is
    warnings.filterwarnings("ignore", category=PossibleUserWarning)  # advice on loaders
    warnings.filterwarnings("ignore", module=r"lightning\.pytorch\.utilities\._pytree")  # what it asks of a newer torch
    plugins = [*_listed(options.get("plugins")), LightningEnvironment(), memory]
    return Trainer(**{**_QUIET, **options, "plugins": plugins, **more})


def _listed(found: Any) -> list[Any]:
    """Return what a Trainer takes alone or in a list as a list."""
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [found]
