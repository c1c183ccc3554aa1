"""A workload with dropout, batch norm and momentum that can be had with any of the faults that checks look for."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

Fault = Literal[
    "", "seed", "momentum", "iterator", "dropout", "evaluation", "loss", "metrics", "raises", "weights", "array",
    "keys", "nan",
]  # fmt: skip


class Toy:
    metrics: ClassVar = {"error": "minimize", "accuracy": "maximize"}
    base_lr = 0.05

    @dataclass(frozen=True)
    class Settings:
        fault: Fault = ""
        batch_size: int = 4

    def __init__(self, settings: Settings, *, seed: int, device: torch.device) -> None:
        self.fault, self.seed, self.settings = settings.fault, seed, settings
        if self.fault == "raises":
            raise RuntimeError("no such picture")
        if self.fault != "seed":
            torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2)).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.running = torch.Generator().manual_seed(seed)

    def training_step(self, step: int, lr: float) -> Tensor:
        generator = self.running if self.fault == "iterator" else torch.Generator().manual_seed(self.seed + 7919 * step)
        inputs = torch.randn(self.settings.batch_size, 3, generator=generator)
        if self.fault != "dropout":
            torch.manual_seed(self.seed + step)
        loss = nn.functional.cross_entropy(self.model(inputs), (inputs.sum(1) > 0).long())
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        if self.fault == "nan":
            loss = loss * float("nan")
        return loss if self.fault == "loss" else loss.detach()

    def evaluate(self) -> dict[str, float]:
        inputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
        if self.fault != "evaluation":
            self.model.eval()
        with torch.no_grad():
            accuracy = (self.model(inputs).argmax(1) == (inputs.sum(1) > 0)).float().mean().item()
        self.model.train()
        return {"accuracy": accuracy} if self.fault == "metrics" else {"accuracy": accuracy, "error": 1 - accuracy}

    def state_dict(self) -> dict[str, Any]:
        best = {"best": np.float64(0.5)} if self.fault == "array" else {}
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), **best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.fault != "weights":
            self.model.load_state_dict(state["models" if self.fault == "keys" else "model"])
        if self.fault != "momentum":
            self.optimizer.load_state_dict(state["optimizer"])
