"""Partial FC: a margin head that in each step scores a sample of the classes only."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from tuner.models.heads import CombinedMarginHead

_SAMPLE: Final = 3
"""Stream of random numbers, beside those of the batches."""


class PartialFC(nn.Module):
    """A margin head over a sample of C classes: all of the batch, and others drawn anew in each step.

    The head that an optimizer sees has the K sampled centres only: its gradient, its logits and the optimizer's work
    are of K classes. Before a step their rows come from `weight` [C, D], and their momentum from `momentum` [C, D];
    after it they go back. A class that is not sampled keeps both as they are: neither momentum nor weight decay moves
    it, as in An et al., "Partial FC", arXiv 2010.05222 and 2203.15565, and their published code.

    Memory is 2 C D numbers of 4 bytes, and what a head of K classes needs: 3.4 GB for 617,970 identities of which a
    tenth is sampled, D = 512.

    1. K is `rate * C`, rounded, and no less than the batch, so that every true class is in.
    2. Which others are drawn is a function of (seed, step), on one kind of device.
    3. Of K = C classes every one is sampled, in order: the losses are those of the head alone.

    The state is `weight` and `momentum`; `head.weight` is a copy of the rows sampled last.

    Args:
        head: over all C classes; it is taken over, and scores K of them from then on.
        rate: K / C, in (0, 1].
        batch_size: largest number of labels in a step.
        seed: of the samples.
    """

    weight: Tensor
    momentum: Tensor

    def __init__(self, head: CombinedMarginHead, *, rate: float, batch_size: int, seed: int) -> None:
        super().__init__()
        self.register_buffer("weight", head.weight.detach())
        self.register_buffer("momentum", torch.zeros_like(self.weight))
        num_classes = len(self.weight)
        self._num_sampled = max(round(rate * num_classes), min(batch_size, num_classes))
        self._seed = seed
        head.weight = nn.Parameter(self.weight[: self._num_sampled].clone())
        self.head = head

    def sample(self, labels: Tensor, *, step: int) -> Tensor:
        """Return the classes of a step, ascending, [K]; `labels` [B] among them."""
        seed = np.random.SeedSequence([self._seed, _SAMPLE, step]).generate_state(1, np.uint64)[0]
        device = labels.device
        generator = torch.Generator(device=device).manual_seed(int(seed))
        # All different, so that no two classes contend for the last place.
        order = torch.randperm(len(self.weight), generator=generator, device=device)
        order.index_fill_(0, labels, len(self.weight))
        return order.topk(self._num_sampled, sorted=False).indices.sort().values

    @contextmanager
    def sampled(self, labels: Tensor, *, step: int, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
        """Bring the sampled rows to head and optimizer, give the labels as places among them, and take the rows back.

        Forward pass, backward pass and the optimizer's step belong inside.

        Args:
            labels: int64 [B], in 0 .. C - 1; with accumulated gradients, those of all the step's batches.
            step: from 0.
            optimizer: that of `head.weight`; its "momentum_buffer", where it has one, goes along.
        """
        classes = self.sample(labels, step=step)
        active = self.head.weight
        with torch.no_grad():
            torch.index_select(self.weight, 0, classes, out=active.data)
            # Before its first step an optimizer has no momentum, which is the same as one of 0.
            if (buffer := optimizer.state[active].get("momentum_buffer")) is not None:
                torch.index_select(self.momentum, 0, classes, out=buffer)
        yield torch.searchsorted(classes, labels)
        with torch.no_grad():
            self.weight.index_copy_(0, classes, active)
            if (buffer := optimizer.state[active].get("momentum_buffer")) is not None:
                self.momentum.index_copy_(0, classes, buffer)

    def forward(self, embeddings: Tensor, places: Tensor) -> Tensor:
        """Return the mean loss, shape (), of embeddings [B, D] whose labels are at `places` [B] of the sample."""
        loss: Tensor = self.head(embeddings, places)
        return loss
