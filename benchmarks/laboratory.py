"""What the benchmarks of the stage tree have in common: runs trained once for all of them, and honest accounts.

A benchmark of many searches would train the same steps again and again. So all runs are trained on one stage store and
their curves kept (`Laboratory`), and what each search *would have* executed with a store of its own is counted by
sending its trials through the very runner on a store of their own, with the recorded losses in place of training
(`Account`): known, repeated and executed steps, checkpoints and their grid are the real ones.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tuner.config.run import RunConfig
from tuner.curves import CurvePoint, read_curve
from tuner.errors import DivergedError
from tuner.names import CURVE_FILE
from tuner.search.cost_aware import Prospect
from tuner.search.plan import Plan, run_key
from tuner.stages.forecast import Forecaster
from tuner.stages.runner import SharedRun
from tuner.stages.shelf import StepCounts
from tuner.stages.store import DEFAULT_BUDGET, StageStore
from tuner.stages.tree import Tree
from tuner.stages.trial import TrialProgress, plan_of, run_trial
from tuner.sweep.known_ground import prospect_of

CPU = torch.device("cpu")


FAILURE_FILE = "failure.txt"
COSTS_FILE = "costs.json"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Run:
    """A finished run: its metrics, and its curve on demand.

    `failure` says why it failed; it then has no metrics. `costs` are those of training it just now: steps executed,
    repeated and shared with runs before it, and seconds; empty where it was there before.
    """

    folder: Path
    metrics: Mapping[str, float]
    failure: str | None = None
    costs: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def curve(self) -> list[CurvePoint]:
        """All steps of the run."""
        return read_curve(self.folder / CURVE_FILE)


class Laboratory:
    """Trains each distinct run once, on one store in `folder`; what was trained by an earlier call is there again.

    A run whose loss diverges is a finished one too: it would do so again. `hear` gets each step of what is trained, and
    the store's checkpoints take `checkpoint_budget` bytes at most.
    """

    def __init__(
        self,
        folder: Path,
        *,
        hear: Callable[[TrialProgress], object] | None = None,
        checkpoint_budget: int = DEFAULT_BUDGET,
    ) -> None:
        self._folder = folder
        self._store = StageStore(folder / "stages", checkpoint_budget=checkpoint_budget)
        self._hear = hear
        self.configs: list[RunConfig] = []

    def run(self, config: RunConfig) -> Run:
        """Return the finished run of a configuration."""
        if config not in self.configs:
            self.configs.append(config)
        folder, costs = self._folder / "runs" / run_key(config)[:24], dict[str, float]()
        if not folder.exists():
            draft = self._folder / f"draft{os.getpid()}"  # another process may train the same run
            shutil.rmtree(draft, ignore_errors=True)
            costs = self._train(config, draft, label=folder.name)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # it was faster
                draft.rename(folder)
        failure = folder / FAILURE_FILE
        reason = failure.read_text() if failure.exists() else None
        return Run(folder, json.loads((folder / METRICS_FILE).read_text()), reason, costs)

    def costs(self) -> list[Mapping[str, float]]:
        """Return what training each run cost, whenever that was: as `Run.costs`, without those that failed."""
        folders = (path.parent for path in sorted(self._folder.glob(f"runs/*/{COSTS_FILE}")))
        return [json.loads((each / COSTS_FILE).read_text()) for each in folders if not (each / FAILURE_FILE).exists()]

    def _train(self, config: RunConfig, folder: Path, *, label: str) -> dict[str, float]:
        started, last = time.perf_counter(), None
        try:
            for last in run_trial(config, folder, device=CPU, store=self._store, label=label):
                if self._hear is not None:
                    self._hear(last)
        except DivergedError as error:
            (folder / FAILURE_FILE).write_text(str(error))
        assert last is not None  # noqa: S101 - a run has at least one step
        counts = last.counts
        costs = {
            "steps_executed": counts.executed,
            "steps_repeated": counts.repeated,
            "steps_shared": counts.shared,
            "seconds": time.perf_counter() - started,
        }
        (folder / COSTS_FILE).write_text(json.dumps(costs))
        (folder / METRICS_FILE).write_text(json.dumps(dict(last.metrics) if last.finished else {}))
        return costs


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


def once(config: RunConfig, times: int = 1) -> RunConfig:
    """Return the run with `times` evaluations, the last at its end."""
    evaluation = config.workload.evaluation.model_copy(update={"times": times})
    return config.model_copy(update={"workload": config.workload.model_copy(update={"evaluation": evaluation})})


def valued(config: RunConfig, *, compiled: bool) -> RunConfig:
    """Return the run with training seed 0 and one evaluation, at its end: all that a value needs.

    `compiled` trains with `compute.compile`: a third faster, other last bits.
    """
    config = once(config)
    compute = config.workload.compute.model_copy(update={"compile": compiled})
    return config.model_copy(update={"seed": 0, "workload": config.workload.model_copy(update={"compute": compute})})


class Account:
    """The steps that one search executes and shares with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self._store = StageStore(folder)
        self._keys: dict[float, str] = {}

    def book(self, config: RunConfig, run: Run, *, label: str) -> StepCounts:
        """Enter a trial that did not fail and return what it executes and shares."""
        base_lr = config.workload.optimizer.base_lr
        shelf = self._store.shelf({"base_lr": base_lr})
        self._keys.pop(base_lr, None)
        self._keys[base_lr] = shelf.key
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

    def tree(self, base_lr: float) -> Tree:
        """Return what is known so far of a base LR; of one that was not tried yet, of the latest one."""
        known = self._keys.get(base_lr) or next(reversed(self._keys.values()), None)
        return Tree() if known is None else self._store.tree(known)

    def prospects(self, plan: Plan) -> Callable[[RunConfig], Prospect]:
        """Return what looks runs of a plan up in what is known so far."""
        forecaster = cache(lambda base_lr: Forecaster(self.tree(base_lr)))
        reference = plan.space.reference_base_lr
        return lambda config: prospect_of(config, forecaster(config.workload.reference_lr), reference=reference)
