# ruff: noqa: ARG002 - the hooks are Lightning's
"""LightningModules of several kinds as workloads, on tiny data that takes an epoch of five batches."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchmetrics import MeanMetric

from tuner.lightning import LightningWorkload

Kind = Literal[
    "automatic", "manual", "two", "accumulated", "datamodule", "bf16", "workers", "groups",
    "varies", "nothing", "skips", "stops", "option", "stream",
]  # fmt: skip


@dataclass(frozen=True)
class Settings:
    kind: Kind = "automatic"


def points() -> TensorDataset:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 3, generator=random)
    return TensorDataset(inputs, (inputs.sum(1) > 0).long())


class Jittered(Dataset[Any]):
    """Points that are augmented by the global generator."""

    def __init__(self) -> None:
        self.points = points()

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> Any:
        inputs, label = self.points[index]
        return inputs + 0.1 * torch.randn(3), label


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(points())


class Module(LightningModule):
    """Dropout, batch norm, momentum, a scheduler of its own, and something that depends on epoch and step."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.kind = settings.kind
        self.automatic_optimization = self.kind not in ("manual", "two")
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))
        self.head = nn.Linear(8, 2)
        self.accuracy = MeanMetric()
        self.seen: list[tuple[int, int, int]] = []

    def configure_optimizers(self) -> Any:
        if self.kind == "two":
            return SGD(self.body.parameters(), lr=0.05, momentum=0.9), Adam(self.head.parameters(), lr=0.01)
        groups = [{"params": self.body.parameters(), "lr": 0.1}, {"params": self.head.parameters(), "lr": 0.02}]
        optimizer: Optimizer = SGD(groups if self.kind == "groups" else self.parameters(), lr=0.1, momentum=0.9)
        return optimizer if self.kind == "manual" else ([optimizer], [ExponentialLR(optimizer, 0.5)])

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor | None:
        inputs, labels = batch
        self.seen.append((self.current_epoch, batch_index, self.global_step))
        loss = nn.functional.cross_entropy(self.head(self.body(inputs)), labels)
        loss = loss + 0.01 * self.current_epoch + 0.001 * self.global_step
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        if not self.automatic_optimization:
            optimizers: Any = self.optimizers()
            optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
            for each in optimizers:
                each.zero_grad()
            self.manual_backward(loss)
            for each in optimizers:
                each.step()
        return None if self.kind == "nothing" else loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        if self.kind == "stops":
            self.trainer.should_stop = True
        return -1 if self.kind == "skips" and batch_idx == 1 else None

    def validation_step(self, batch: list[Tensor], batch_index: int) -> None:
        inputs, labels = batch
        self.accuracy(self.head(self.body(inputs)).argmax(1) == labels)
        self.log("accuracy", self.accuracy)

    def train_dataloader(self) -> DataLoader[Any]:
        if self.kind == "stream":
            return DataLoader(Stream(), batch_size=8)
        return DataLoader(
            Jittered(),
            batch_size=8,
            shuffle=True,
            num_workers=2 if self.kind == "workers" else 0,
            multiprocessing_context="fork" if self.kind == "workers" else None,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(points(), batch_size=20)


class Points(LightningDataModule):
    def setup(self, stage: str) -> None:
        self.points = points()

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.points, batch_size=8, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.points, batch_size=20)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        inputs, labels = batch
        return inputs + (0.1 * torch.randn_like(inputs) if self.trainer.training else 0), labels  # type: ignore[union-attr]


def options(settings: Settings) -> dict[str, Any]:
    return {
        "accumulated": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5},
        "bf16": {"precision": "bf16-mixed"},
        "option": {"max_epochs": 3},
        "varies": {"callbacks": GradientAccumulationScheduler({0: 1, 1: 2})},
    }.get(settings.kind, {})


own = LightningWorkload(
    module=Module, trainer=options, metrics={"accuracy": "maximize"}, base_lr=0.1, Settings=Settings
)
with_data = LightningWorkload(
    module=Module, loaders=lambda _: Points(), metrics={"accuracy": "maximize"}, base_lr=0.1, Settings=Settings
)
