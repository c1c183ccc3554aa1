"""What a unit of a claim benchmark works with: it asks for runs and searches, and tells how far all of it is."""

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from laboratory import Account, Laboratory, Run, once

from tuner.config.run import RunConfig
from tuner.search.ledger import Ledger
from tuner.search.plan import Assignment, Plan, run_config
from tuner.stages.trial import TrialProgress
from tuner.training.process import training_device

CHECKPOINTS = 4 * 2**30
"""Bytes of checkpoints that a benchmark keeps."""


@dataclass(frozen=True)
class Session:
    """One call of a benchmark: when it began, and how many steps all of its units ask for."""

    started: float
    steps: int


@dataclass
class Worker:
    """What a unit's function works with: it trains runs and searches, and tells how far all of it is."""

    out: Path
    unit: str
    session: Session
    runs: list[Mapping[str, Any]] = field(default_factory=list)

    def train(self, config: RunConfig, *, label: str, about: Mapping[str, Any] | None = None) -> Run:
        """Return the finished run of a configuration; `about` says for MLflow what it is."""
        run = self.laboratory.run(config)
        self.runs.append(
            {
                "unit": self.unit,
                "label": label,
                "folder": run.folder.name,
                "params": {
                    **(about or {}),
                    "scheduler": config.scheduler.name,
                    **config.scheduler.settings,
                    "base_lr": config.workload.optimizer.base_lr,
                    "total_steps": config.total_steps,
                    "seed": config.seed,
                    "data": Path(config.workload.data.source).name,
                },
            }
        )
        Log(self.out).add(
            {"run": f"{self.unit}/{label}", "steps": config.total_steps, "at": time.time(), "folder": run.folder.name}
        )
        value = run.failure or ", ".join(f"{key} {value:.4f}" for key, value in sorted(run.metrics.items())[:1])
        trained = run.costs.get("steps_executed")
        cost = "known" if trained is None else f"{trained} of {config.total_steps} steps trained"
        print(f"{Log(self.out).progress(self.session)}  {self.unit} {label}: {value}  ({cost})", flush=True)
        return run

    def search(self, plan: Plan, *, trials: int, about: Mapping[str, Any] | None = None) -> "Found":
        """Run a search of the tool's own: its ledger asks, and what known steps promise comes from this search alone.

        It depends on nothing but the plan: not on what else is on the store, nor on where it was broken off. So it is
        made anew each time, and what it has run before is not run again.
        """
        folder = self.out / "searches" / self.unit.replace("/", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        ledger, account = Ledger.create(folder / "study.journal", plan=plan), Account(folder / "stages")
        metric = plan.space.objective.metric
        executed = 0
        for number in range(trials):
            look_up = account.prospects(plan) if plan.cost_aware else None
            asked = ledger.ask(forecast=look_up, spent=number / trials)
            if asked is None:  # a finite space has no other point
                break
            run = self.train(once(asked.config), label=f"trial {number}", about={**(about or {}), "part": "search"})
            if run.failure is None:
                cost = account.book(once(asked.config), run, label=str(number)).executed
                ledger.tell(number, value=run.metrics[metric], metrics=run.metrics, steps_executed=cost)
            else:
                cost = len(run.curve)
                ledger.tell(number, reason=run.failure, steps_executed=cost)
            executed += cost
        best = ledger.best()
        if best is None:
            raise RuntimeError(f"{self.unit}: each trial failed")
        return Found(
            scheduler=best.scheduler,
            settings=dict(best.settings),
            searched={key: value for key, value in best.params.items() if key != "base_lr"},
            base_lr=best.base_lr,
            value=best.value or 0.0,
            trial=best.number,
            trials=ledger.num_finished,
            executed=executed,
            values=[each.value for each in ledger.trials()],
            base_lrs=[each.base_lr for each in ledger.trials()],
        )

    @cached_property
    def laboratory(self) -> Laboratory:
        """Where the runs are."""
        boss = multiprocessing.parent_process()

        def hear(_: TrialProgress) -> None:
            if boss is not None and os.getppid() != boss.pid:
                raise SystemExit("the benchmark that this process worked for is gone")

        return Laboratory(self.out, hear=hear, checkpoint_budget=CHECKPOINTS)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found: the setting of its best trial, that trial's value, and what all of its trials cost.

    `searched` are those of the settings that the search chose; `executed` counts as if it had a store of its own.
    `trial` is -1 where the setting is none of the search's.
    """

    scheduler: str
    settings: Mapping[str, Any]
    searched: Mapping[str, Any]
    base_lr: float
    value: float
    trial: int
    trials: int
    executed: int
    values: Sequence[float | None]
    base_lrs: Sequence[float]

    def config(self, plan: Plan, *, seed: int) -> RunConfig:
        """Return the run of this setting under a seed."""
        chosen = Assignment(self.scheduler, self.settings, self.base_lr)
        return once(run_config(replace(plan, seed=seed), chosen))


class Log:
    """The runs that units got, a line each, written by all processes; an unfinished last line does not count."""

    def __init__(self, out: Path) -> None:
        self._path = out / "log.jsonl"

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append one; short lines of several processes do not mix."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def entries(self) -> dict[str, dict[str, Any]]:
        """Return the entries by run, the first of each: when it was got at first."""
        found: dict[str, dict[str, Any]] = {}
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True) if self._path.exists() else []
        for line in lines:
            if line.endswith("\n"):
                entry = json.loads(line)
                found.setdefault(entry["run"], entry)
        return found

    def progress(self, session: Session) -> str:
        """Return the share of the benchmark that is done and the time left, by the pace of this session."""
        entries = self.entries().values()
        done = sum(entry["steps"] for entry in entries)
        lately = sum(entry["steps"] for entry in entries if entry["at"] >= session.started)
        left = "?"
        if lately:
            seconds = (time.time() - session.started) / lately * max(0, session.steps - done)
            left = f"{seconds // 3600:.0f}:{seconds // 60 % 60:02.0f}"
        return f"[{min(1.0, done / max(1, session.steps)):4.0%}, {left} h left]"


def one_thread() -> None:
    """Make this process ready to train on one thread; at another number the last bits of a loss are others."""
    training_device(threads=1)
