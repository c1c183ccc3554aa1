"""Made-up data and a small network, the same in all examples: points around ten centres, and which centre it was."""

import torch
from torch import nn
from torch.utils.data import TensorDataset


def clusters() -> TensorDataset:
    """Return 2,048 points in 16 dimensions with their labels, in mixed order."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (2048,), generator=random)
    centres = torch.randn(10, 16, generator=random)
    return TensorDataset(centres[labels] + torch.randn(2048, 16, generator=random), labels)


def network() -> nn.Module:
    """Return the network with its starting weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 10))
