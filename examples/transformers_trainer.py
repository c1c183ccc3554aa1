"""FastFaceLR in the Trainer of Hugging Face transformers."""

from typing import Any

from clusters import clusters, network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer
from transformers import Trainer, TrainingArguments

from tuner import FastFaceLR


class FastFaceTrainer(Trainer):
    """A Trainer whose LR follows the loss; gradient accumulation and several processes included."""

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> FastFaceLR:
        """Make the scheduler for all optimizer steps of the training."""
        self.lr_scheduler = FastFaceLR(
            optimizer or self.optimizer,
            total_steps=num_training_steps,
            ema_window_fraction=0.05,
            haar_window_fraction=0.1,
            patience_fraction=0.05,
        )
        return self.lr_scheduler

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Train on a part of a step, and note its loss for the step that the Trainer takes next."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        whole = loss * self.current_gradient_accumulation_steps  # the Trainer has divided it
        self.lr_scheduler.add_loss(self.accelerator.reduce(whole, reduction="mean"))
        return loss


class Classifier(nn.Module):
    """The network as the Trainer wants it: from points and labels to the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, points: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss and what it was computed from."""
        logits = self.network(points)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


if __name__ == "__main__":
    model = Classifier()
    trainer = FastFaceTrainer(
        model=model,
        args=TrainingArguments(
            num_train_epochs=5, per_device_train_batch_size=64, save_strategy="no", report_to="none", use_cpu=True
        ),
        train_dataset=[{"points": points, "labels": labels} for points, labels in clusters()],
        optimizers=(SGD(model.parameters(), lr=0.2, momentum=0.9), None),
    )
    trainer.train()
    scheduler = trainer.lr_scheduler
    print(f"{scheduler.last_epoch} steps; the LR fell from {scheduler.base_lrs[0]:g} to {scheduler.get_last_lr()[0]:g}")
