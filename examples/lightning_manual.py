"""FastFaceLR in Lightning with manual optimisation."""

from clusters import clusters, network
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.utils.data import DataLoader

from tuner import FastFaceLR


class Classifier(LightningModule):
    """The network, and how it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()
        self.automatic_optimization = False

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the scheduler for all optimizer steps of the fit; Lightning puts its state into checkpoints."""
        optimizer = SGD(self.parameters(), lr=0.2, momentum=0.9)
        self.scheduler = FastFaceLR(
            optimizer,
            total_steps=int(self.trainer.estimated_stepping_batches),
            ema_window_fraction=0.05,
            haar_window_fraction=0.1,
            patience_fraction=0.05,
        )
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler}

    def training_step(self, batch: list[Tensor], batch_index: int) -> None:
        """Train on a batch."""
        points, labels = batch
        loss = cross_entropy(self.network(points), labels)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.scheduler.step(loss)


if __name__ == "__main__":
    classifier = Classifier()
    trainer = Trainer(max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(classifier, DataLoader(clusters(), batch_size=64))
    scheduler = classifier.scheduler
    print(f"{scheduler.last_epoch} steps; the LR fell from {scheduler.base_lrs[0]:g} to {scheduler.get_last_lr()[0]:g}")
