"""FastFaceLR in a plain PyTorch loop."""

from clusters import clusters, network
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.utils.data import DataLoader

from tuner import FastFaceLR

EPOCHS = 5


def train() -> FastFaceLR:
    """Train, and return the scheduler."""
    model = network()
    loader = DataLoader(clusters(), batch_size=64)
    optimizer = SGD(model.parameters(), lr=0.2, momentum=0.9)
    scheduler = FastFaceLR(
        optimizer,
        total_steps=EPOCHS * len(loader),
        ema_window_fraction=0.05,
        haar_window_fraction=0.1,
        patience_fraction=0.05,
    )
    for _ in range(EPOCHS):
        for points, labels in loader:
            loss = cross_entropy(model(points), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step(loss)
    return scheduler


if __name__ == "__main__":
    scheduler = train()
    print(f"{scheduler.last_epoch} steps; the LR fell from {scheduler.base_lrs[0]:g} to {scheduler.get_last_lr()[0]:g}")
