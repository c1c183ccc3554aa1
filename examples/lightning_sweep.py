"""A LightningModule whose LR schedule a sweep tunes: fastface-tuner sweep lightning_sweep.yaml."""

from dataclasses import dataclass
from typing import Any

from clusters import clusters, network
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, Subset

from tuner.lightning import LightningWorkload


class Classifier(LightningModule):
    """The network, and how it is trained and validated."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = network()

    def configure_optimizers(self) -> Optimizer:
        """Return the optimizer; the sweep sets its LR."""
        return SGD(self.parameters(), lr=0.2, momentum=self.hparams["momentum"])

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        """Return the loss of a batch."""
        points, labels = batch
        return cross_entropy(self.network(points), labels)

    def validation_step(self, batch: list[Tensor], batch_index: int) -> None:
        """Log what trials are judged by."""
        points, labels = batch
        self.log("accuracy", (self.network(points).argmax(1) == labels).float().mean())


@dataclass(frozen=True)
class Settings:
    """What a space can set."""

    batch_size: int = 64
    momentum: float = 0.9


def loaders(settings: Settings) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return the loaders to train and to validate on."""
    points = clusters()
    train, validation = Subset(points, range(1536)), Subset(points, range(1536, 2048))
    return DataLoader(train, batch_size=settings.batch_size, shuffle=True), DataLoader(validation, batch_size=512)


sweep = LightningWorkload(
    module=lambda settings: Classifier(settings.momentum),
    loaders=loaders,
    metrics={"accuracy": "maximize"},
    base_lr=0.2,
    Settings=Settings,
)
