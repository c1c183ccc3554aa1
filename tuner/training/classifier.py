"""The classification workload: a torchvision classifier, cross-entropy and SGD, judged on pictures it never saw."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import v2

from tuner.data.batches import Batches, to_tensor
from tuner.data.pictures import load_pictures, split_pictures
from tuner.data.prefetch import prefetched
from tuner.errors import UserError
from tuner.training.classification import PictureSettings
from tuner.training.precision import check_precision, lower_precision

_STREAM: Final = 6
"""Of the random numbers of dropout and of the policy, beside those of the batches."""
_POLICIES: Final = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment}


class Classifier:
    """Train a classifier from the start; a `Workload`.

    State: weights and BN statistics, momentum. Batches, augmentation and dropout are functions of (seed, step).

    Args:
        settings: see there.
        seed: of the initial weights and the batches.
        device: where to train.

    Raises:
        UserError: there are no such pictures, the model does not take their size, or the device lacks the precision.
    """

    def __init__(self, settings: PictureSettings, *, seed: int, device: torch.device) -> None:
        check_precision(settings.precision, device)
        self._settings, self._seed, self._device = settings, seed, device
        pictures = load_pictures(settings.data, image_size=settings.image_size)
        train, self._validation = split_pictures(pictures, held_out=settings.held_out, seed=settings.split_seed)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model: nn.Module = models.get_model(settings.model, weights=None, num_classes=len(pictures.names))
        self._model = model.to(device).to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.SGD(
            self._model.parameters(),
            lr=1.0,  # each step sets its own
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        batches = Batches(
            train, batch_size=settings.batch_size, seed=seed, flip=settings.flip, crop=settings.crop, device=device
        )
        self._batches = prefetched(batches, device=device)
        policy = _POLICIES.get(settings.policy)
        self._policy = None if policy is None else policy()
        self._smoothing = settings.label_smoothing

    def training_step(self, step: int, lr: float) -> Tensor:
        """Train on the batch of `step` at learning rate `lr`; return the loss before the update, detached, shape ()."""
        images, labels = self._batches(step)
        with self._random_numbers(step):
            if self._policy is not None:  # one draw for each picture; it takes them from 0 to 1
                images = torch.stack([self._policy(image) for image in images.add(1).div(2)]).mul(2).sub(1)
            loss = nn.functional.cross_entropy(self._scores(images), labels, label_smoothing=self._smoothing)
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        return loss.detach()

    def evaluate(self) -> Mapping[str, float]:
        """Return the top-1 and the top-5 accuracy on the pictures held out; with five classes or fewer, top5 is 1."""
        images, labels = self._validation.images, torch.from_numpy(self._validation.labels)
        first, among_five, size = 0, 0, self._settings.evaluation_batch
        self._model.eval()
        try:
            with torch.no_grad():
                for start in range(0, len(labels), size):
                    some = to_tensor(np.asarray(images[start : start + size])).to(self._device)
                    scores = self._model(some)
                    best = scores.topk(min(5, scores.shape[1])).indices.cpu()
                    right = best == labels[start : start + size, None]
                    first, among_five = first + int(right[:, 0].sum()), among_five + int(right.sum())
        finally:
            self._model.train()
        return {"accuracy": first / len(labels), "top5": among_five / len(labels)}

    def state_dict(self) -> dict[str, Any]:
        """Return weights and momentum."""
        return {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _scores(self, images: Tensor) -> Tensor:
        try:
            with lower_precision(self._settings.precision, self._device):
                scores: Tensor = self._model(images.contiguous(memory_format=torch.channels_last))
        except (RuntimeError, ValueError, AssertionError) as error:
            if isinstance(error, torch.OutOfMemoryError) or "size" not in str(error):
                raise
            name, side = self._settings.model, self._settings.image_size
            raise UserError(f"{name} must take pictures of {side} x {side}, but does not ({error}); use 224") from error
        return scores.float()

    @contextmanager
    def _random_numbers(self, step: int) -> Iterator[None]:
        """Make what is drawn inside a function of (seed, step)."""
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            state = np.random.SeedSequence([self._seed, _STREAM, step]).generate_state(1, np.uint64)
            torch.manual_seed(int(state[0]))
            yield
