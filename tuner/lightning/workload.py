"""What a sweep needs to know of a LightningModule, and its training as a workload."""

import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import lightning
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from tuner.errors import UserError
from tuner.lightning.batches import BUILDING, seed_all
from tuner.lightning.fit import Fit, Parts, validated
from tuner.workload import Data, Direction

Loaders = LightningDataModule | tuple[DataLoader[Any], Any]
"""A data module, or a loader to train on and what `Trainer.validate` takes."""

_OPTIONS: Final = (
    "accumulate_grad_batches", "callbacks", "detect_anomaly", "gradient_clip_algorithm", "gradient_clip_val",
    "inference_mode", "limit_val_batches", "plugins", "precision",
)  # fmt: skip
"""Options of a Trainer that say how a step is trained or a module validated; the rest is the sweep's."""


@dataclass(frozen=True, kw_only=True)
class LightningWorkload:
    """A LightningModule as a workload: what `package.module:name` means in a space is an object of this class.

        digits = LightningWorkload(
            module=lambda settings: Classifier(hidden=settings.hidden),
            loaders=lambda settings: DigitsData(settings.batch_size),
            metrics={"val_accuracy": "maximize"},
            base_lr=0.2,
            Settings=Settings,
        )

    Lightning's Trainer trains the module, with automatic or manual optimisation, and validates it; what the module logs
    in validation are the metrics. A step is an optimizer step, or a call of `training_step` in manual optimisation.

    1. The sweep sets the LR. Of several optimizers or parameter groups, the first of all gets the LR of the step, and
       the others keep their ratio to it. LR schedulers of the module are not stepped, but by itself where it is manual.
    2. The batches of an epoch are the train loader's with all its randomness drawn from the seed and the epoch, and the
       random numbers within a batch are drawn from the seed and the number of the batch, whichever workers load it.
    3. Epochs are counted and their hooks called. The length of the training is not known to the Trainer, and it is
       validated apart, as another module of the same weights and callbacks.

    Args:
        module: from settings to the module before training.
        metrics: what it logs in validation, the first one the usual judge of trials.
        base_lr: the usual LR.
        loaders: from settings to the data: a LightningDataModule, or a train and a validation loader; None takes those
            of the module. Called again for validation.
        trainer: from settings to options of the Trainer, such as `precision` and `accumulate_grad_batches`.
        Settings: a dataclass or pydantic model of what can be set.
        data: what it reads, see `tuner.workload`.
    """

    CODE: ClassVar[str] = f"1 of lightning {lightning.__version__}"
    """To be raised when a change of the code changes losses or metrics."""

    module: Callable[[Any], LightningModule]
    metrics: dict[str, Direction]
    base_lr: float
    loaders: Callable[[Any], Loaders] | None = None
    trainer: Callable[[Any], Mapping[str, Any]] | None = None
    Settings: type | None = None
    data: Callable[[Any], Data] | None = None

    def __call__(self, settings: Any, *, seed: int, device: torch.device) -> "LightningTraining":
        """Build the workload as it is before step 0."""
        return LightningTraining(self, settings, seed=seed, device=device)

    @staticmethod
    def weights(state: dict[str, Any]) -> dict[str, Any]:
        """Return the state dict of the module."""
        module: dict[str, Any] = state["state_dict"]
        return module

    def parts(self, settings: Any, *, device: torch.device) -> Parts:
        """Return module, data and options of a Trainer, all made anew.

        Raises:
            UserError: an option of the Trainer that a sweep cannot leave to it, or data of another kind.
        """
        options = {} if self.trainer is None else dict(self.trainer(settings))
        for name in options:
            if name not in _OPTIONS:
                known = ", ".join(_OPTIONS)
                raise UserError(
                    f"options of the Trainer in a sweep must be among {known}, but got {name}; leave it out"
                )
        loaders = None if self.loaders is None else self.loaders(settings)
        if not (loaders is None or isinstance(loaders, LightningDataModule | tuple)):
            raise UserError(
                "`loaders` must return a LightningDataModule or (train loader, validation loader), but returned a "
                f"{type(loaders).__name__}; return one of these"
            )
        devices = 1 if device.type == "cpu" else [device.index or 0]
        return Parts(
            module=self.module(settings),
            loaders=loaders,
            options={**options, "accelerator": device.type, "devices": devices},
        )


class LightningTraining:
    """Train a LightningModule in a Trainer that goes one step at a time; a `Workload`.

    State: a checkpoint of Lightning, but for hyperparameters. The Trainer is started at the first step.
    """

    def __init__(self, workload: LightningWorkload, settings: Any, *, seed: int, device: torch.device) -> None:
        self._workload, self._settings, self._seed, self._device = workload, settings, seed, device
        self._fit: Fit | None = None
        self._loaded: dict[str, Any] | None = None
        self._judged: Parts | None = None
        self._close: Callable[[], object] = lambda: None

    def training_step(self, step: int, lr: float) -> Tensor:
        """Train on the batches of `step` at learning rate `lr`; return their mean loss, detached, shape ()."""
        return self._at(step).step(lr)

    def evaluate(self) -> Mapping[str, float]:
        """Return what the module logs in validation; it is validated as another module with the state of this one."""
        if self._judged is None:
            self._judged = self._parts()
        with ThreadPoolExecutor(1) as thread:  # the Trainer leaves signals alone where it is not in the main thread
            return thread.submit(validated, self._judged, self.state_dict(), seed=self._seed).result()

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimizers, and all that Lightning keeps in a checkpoint."""
        if self._fit is None and self._loaded is not None:
            return self._loaded
        return self._at(None).state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._close()
        self._fit, self._loaded = None, state

    def _at(self, step: int | None) -> Fit:
        if self._fit is None:
            self._fit = Fit(self._parts(), seed=self._seed, step=step or 0, state=self._loaded)
            self._loaded = None
            self._close = weakref.finalize(self, self._fit.close)
        elif step is not None and step != self._fit.next_step:
            raise ValueError(f"steps must follow each other, but got {step} where {self._fit.next_step} is next")
        return self._fit

    def _parts(self) -> Parts:
        seed_all(self._seed, BUILDING)
        return self._workload.parts(self._settings, device=self._device)
