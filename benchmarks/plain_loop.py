"""The training loop that a person would write first: ImageFolder, transforms, DataLoader, SGD, `loss.item()`."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler
from torchvision import datasets, transforms

from tuner.config.run import FaceConfig
from tuner.models.backbones import build_backbone
from tuner.models.heads import CombinedMarginHead


class PlainLoop:
    """Trains the backbone and the head of `config` on `folder` with its batch size, augmentation and clipping."""

    def __init__(self, config: FaceConfig, folder: Path, *, workers: int) -> None:
        size, optimizer = config.data.image_size, config.optimizer
        steps = [
            transforms.Resize((size, size)),
            transforms.RandomHorizontalFlip(config.augmentation.flip),
            transforms.RandomCrop(size, padding=round(config.augmentation.crop * size)),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
        images = datasets.ImageFolder(str(folder), transforms.Compose(steps))
        # One endless epoch: a small set would start the workers' queue anew every few batches, a real one does not.
        order = RandomSampler(images, num_samples=10**6 * optimizer.batch_size)
        loader = DataLoader(images, batch_size=optimizer.batch_size, sampler=order, num_workers=workers)
        self._batches: Iterator[list[Tensor]] = iter(loader)
        embedding_size = config.model.embedding_size
        self._backbone = build_backbone(config.model.backbone, image_size=size, embedding_size=embedding_size)
        self._head = CombinedMarginHead(len(images.classes), embedding_size=embedding_size, m2=config.head.m2)
        self._parameters = [*self._backbone.parameters(), *self._head.parameters()]
        self._optimizer = torch.optim.SGD(
            self._parameters,
            lr=optimizer.base_lr,
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
        )
        self._clip_norm = optimizer.clip_norm

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return the next images and labels."""
        images, labels = next(self._batches)
        return images, labels

    def train(self, images: Tensor, labels: Tensor) -> float:
        """Train on a batch; return its loss."""
        loss = self._head(self._backbone(images), labels)
        self._optimizer.zero_grad()
        loss.backward()
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._optimizer.step()
        return float(loss.item())
