"""A quick deterministic workload for the tests of the stage tree, random trials for it, and what they give unshared."""

import math
import os
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from tuner.names import Setting
from tuner.schedulers.registry import resolve
from tuner.stages.events import Evaluation
from tuner.stages.runner import SharedRun
from tuner.stages.shelf import Shelf, StepCounts
from tuner.stages.tree import Plan
from tuner.training.loop import StepReport, TrainingRun, train

BASE_LR = 0.05
FINGERPRINT = {"workload": "toy", "seed": 0}

Result = tuple[list[StepReport], dict[int, Mapping[str, float]]]
"""Reports of all steps, and metrics by number of steps."""


class Toy:
    """Momentum descent on a noisy parabola whose loss also depends on each bit of each LR that it has seen.

    It insists on seeing every step once and in order, so that a restored state that is not the one of its step is
    found at once.
    """

    def __init__(self) -> None:
        self.weight = torch.tensor([3.0, -1.0], dtype=torch.float64)
        self.velocity = torch.zeros(2, dtype=torch.float64)
        self.mix, self.seen = 1, 0

    def training_step(self, step: int, lr: float) -> Tensor:
        assert step == self.seen, f"the state before step {self.seen} was taken for that before step {step}"
        noise = math.sin(12.9898 * (step + 1)) * 0.3
        difference = self.weight - noise
        loss = difference.square().sum() + self.mix / 2**32
        self.velocity = 0.8 * self.velocity + 2 * difference
        self.weight = self.weight - lr * self.velocity
        self.mix, self.seen = zlib.crc32(struct.pack("<d", lr), self.mix), step + 1
        return loss

    def evaluate(self) -> Mapping[str, float]:
        return {"accuracy": float(self.weight.sum()) + self.mix / 2**32, "seen": float(self.seen)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "weight": self.weight,
            "optimizer": {"state": {0: {"velocity": self.velocity}}, "groups": [{"nesterov": None}]},
            "mix": self.mix,
            "seen": self.seen,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weight, self.velocity = state["weight"], state["optimizer"]["state"][0]["velocity"]
        self.mix, self.seen = state["mix"], state["seen"]

    def fingerprint(self) -> Mapping[str, Any]:
        return FINGERPRINT


@pytest.fixture(scope="module", autouse=True)
def quick_disk() -> Iterator[None]:
    """Do not wait for the disk: tests need no files that outlive a power cut. Import it to use it in a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def plan(
    name: str = "fastface", settings: Mapping[str, Setting] | None = None, *, total_steps: int = 60, delay: int = 1
) -> Plan:
    schedule = resolve(name, settings or {}, total_steps=total_steps)
    return Plan(schedule=schedule, base_lr=BASE_LR, total_steps=total_steps, loss_delay=delay)


def decaying(patience: int = 3, *, factor: float = 2.0, total_steps: int = 60, delay: int = 1) -> Plan:
    """Return a FastFace trial that decays its LR some times, the earlier the smaller `patience`."""
    settings = {
        "ema_window": 3.0, "haar_window": 4.0, "threshold": 0.05, "patience": patience, "decay_factor": factor
    }  # fmt: skip
    return plan("fastface", settings, total_steps=total_steps, delay=delay)


_FASTFACE = st.builds(
    lambda **settings: ("fastface", settings),
    ema_window=st.sampled_from([2.0, 5.0]),
    haar_window=st.sampled_from([3.0, 8.0]),
    threshold=st.sampled_from([-0.1, 0.0, 0.05, 0.2]),
    patience=st.integers(0, 12),
    decay_factor=st.sampled_from([2.0, 3.0]),
    warmup=st.sampled_from([0, 0, 4]),
)
_HAAR = st.builds(
    lambda **settings: ("haar", settings),
    haar_window=st.integers(2, 6),
    threshold=st.sampled_from([-0.2, 0.0, 0.3]),
    patience=st.integers(0, 6),
)
_FIXED = st.sampled_from(
    [
        ("constant", {}),
        ("cosine", {}),
        ("multi_step", {"milestones": "20,35"}),
        ("multi_step", {"milestones": "20,30"}),
        ("polynomial", {}),
    ]
)
plans = st.builds(
    lambda scheduler, total_steps, delay: plan(*scheduler, total_steps=total_steps, delay=delay),
    st.one_of(_FASTFACE, _FASTFACE, _HAAR, _FIXED),
    total_steps=st.sampled_from([40, 60, 61]),
    delay=st.sampled_from([0, 1]),
)
"""Trials that often have a beginning in common."""


def alone(plan: Plan, evaluate_at: Collection[int] = ()) -> Result:
    """Return what a trial gives that shares nothing: the loop itself, from the first step to the last."""
    toy = Toy()
    run = TrainingRun(
        workload=toy,
        schedule=plan.schedule,
        base_lr=plan.base_lr,
        total_steps=plan.total_steps,
        loss_delay=plan.loss_delay,
    )
    reports: list[StepReport] = []
    metrics: dict[int, Mapping[str, float]] = {}
    for stop in sorted({*evaluate_at, plan.total_steps}):
        reports += train(run, stop=stop)
        if stop in evaluate_at:
            metrics[stop] = toy.evaluate()
    return reports, metrics


def shared(
    plan: Plan, shelf: Shelf | None, evaluate_at: Collection[int] = (), **settings: Any
) -> tuple[Result, StepCounts]:
    """Run a trial on a shelf to its end; return what it gives and what it cost."""
    run = SharedRun(plan, build=settings.pop("build", Toy), shelf=shelf, evaluate_at=evaluate_at, **settings)
    reports: list[StepReport] = []
    metrics: dict[int, Mapping[str, float]] = {}
    for event in run.events():
        if isinstance(event, StepReport):
            reports.append(event)
        elif isinstance(event, Evaluation):
            assert event.steps == len(reports)
            metrics[event.steps] = event.metrics
    return (reports, metrics), run.counts


def lrs(result: Result) -> list[float]:
    return [report.lr for report in result[0]]


def common(left: list[float], right: list[float]) -> int:
    """Return the length of the beginning that two LR histories have in common."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
