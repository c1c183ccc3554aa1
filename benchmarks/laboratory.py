"""What the benchmarks of the stage tree have in common: runs trained once for all of them, and honest accounts.

A benchmark of many searches would train the same steps again and again. So all runs are trained on one stage store and
their curves kept (`Laboratory`), and what each search *would have* executed with a store of its own is counted by
sending its trials through the very runner on a store of their own, with the recorded losses in place of training
(`Account`): known, repeated and executed steps, checkpoints and their grid are the real ones.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tuner.config.run import RunConfig
from tuner.curves import CurvePoint, read_curve
from tuner.names import CURVE_FILE
from tuner.search.plan import run_key
from tuner.stages.runner import SharedRun
from tuner.stages.shelf import StepCounts
from tuner.stages.store import StageStore
from tuner.stages.tree import Tree
from tuner.stages.trial import plan_of, run_trial

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Run:
    """A finished run: its metrics, and its curve on demand."""

    folder: Path
    metrics: Mapping[str, float]

    @cached_property
    def curve(self) -> list[CurvePoint]:
        """All steps of the run."""
        return read_curve(self.folder / CURVE_FILE)


class Laboratory:
    """Trains each distinct run once, on one store in `folder`; what was trained by an earlier call is there again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = StageStore(folder / "stages")
        self.configs: list[RunConfig] = []

    def run(self, config: RunConfig) -> Run:
        """Return the finished run of a configuration."""
        if config not in self.configs:
            self.configs.append(config)
        folder = self._folder / "runs" / run_key(config)[:24]
        result = folder / "metrics.json"
        if not result.exists():
            draft = self._folder / f"draft{os.getpid()}"  # another process may train the same run
            *_, last = run_trial(config, draft, device=CPU, store=self._store, label=folder.name)
            (draft / result.name).write_text(json.dumps(dict(last.metrics)))
            folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # it was faster
                draft.rename(folder)
        return Run(folder, json.loads(result.read_text()))


class _Recorded:
    """A workload whose losses are read from a finished run."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def training_step(self, step: int, lr: float) -> Tensor:
        point = self._run.curve[step]
        assert point.lr == lr, f"step {step} was trained with LR {point.lr}, not {lr}"  # noqa: S101
        return torch.tensor(point.loss, dtype=torch.float64)

    def evaluate(self) -> Mapping[str, float]:
        return self._run.metrics

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load: the run knows all of its steps."""

    def fingerprint(self) -> Mapping[str, Any]:
        return {}


class Account:
    """The steps that one search executes and shares with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self._store = StageStore(folder)
        self._key = ""

    def book(self, config: RunConfig, run: Run, *, label: str) -> StepCounts:
        """Enter a trial and return what it executes and shares."""
        shelf = self._store.shelf({"base_lr": config.workload.optimizer.base_lr})
        self._key = shelf.key
        shared = SharedRun(
            plan_of(config),
            build=lambda: _Recorded(run),
            shelf=shelf,
            evaluate_at=config.evaluation_steps(),
            label=label,
        )
        for _ in shared.events():
            pass
        return shared.counts

    @property
    def tree(self) -> Tree:
        """What is known so far."""
        return self._store.tree(self._key) if self._key else Tree()
