"""Finished sweeps made without training: real schedules over a simple model of the loss, shared steps as they would be.

For pages and figures of whole sweeps, of any size; where a test names the values itself, see `made_sweep`.

Run as a program it makes one: `python simulated_sweep.py FOLDER TRIALS STEPS`.

The model: an excess over the floor falls at a rate that grows with the LR, and the LR makes noise. So a high LR is fast
and ends high, a low one is quiet and slow, and a good schedule decays when the noise is all that is left.
"""

import math
import random
import sys
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import csv

from tuner.config.run import RunConfig
from tuner.config.space_file import space_from_text
from tuner.config.space_model import SamplerName
from tuner.curves import HEADER
from tuner.evaluations import EvaluationWriter
from tuner.files import write_record
from tuner.schedulers.registry import Schedule
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.stages.tree import Plan, Stage, Tree
from tuner.sweep.folder import ENVIRONMENT, SweepDescription, SweepFolder
from tuner.training import delay
from tuner.trials import TrialRecord

Array = NDArray[np.float64]

SPACE = """
question: Which FastFace setting serves a run of this length best?
source: made without training
objective: {metric: accuracy}
steps: 600
decision_grid: 60
schedulers:
  - name: fastface
    parameters:
      ema_window_fraction: {low: 0.004, high: 0.1, log: true}
      haar_window_fraction: {low: 0.008, high: 0.2, log: true}
      threshold_fraction: {low: 0.1, high: 3.0, log: true}
      patience_fraction: {low: 0.01, high: 0.2, log: true}
      decay_factor: {choices: [2, 4, 10]}
"""
SEVERAL = """
question: How good are the usual schedules beside FastFace?
source: made without training
objective: {metric: accuracy}
steps: 600
base_lr: {low: 0.02, high: 0.4, log: true}
schedulers:
  - name: fastface
    parameters:
      patience_fraction: {low: 0.01, high: 0.2, log: true}
  - name: multi_step
    parameters:
      gamma: {choices: [0.1, 0.3, 0.5]}
  - name: cosine
    parameters:
      final_factor: {low: 0.0, high: 0.1}
"""
PARENT = "0123456789abcdef0123456789abcdef"
FIRST_LOSS, FLOOR = 12.0, 1.1
ENVIRONMENT_FACTS = {
    "command": ["fastface-tuner", "sweep", "fastface"],
    "python": "3.11.9",
    "platform": "Linux",
    "packages": {"torch": "2.11.0", "optuna": "5.0.0"},
    "processor": "Some Processor",
    "cores": 8,
    "memory_gib": 31.2,
    "accelerators": ["Some GPU"],
}


def simulate_sweep(
    path: Path,
    *,
    trials: int = 12,
    space: str = SPACE,
    steps: int = 600,
    resolution: int | None = None,
    sampler: SamplerName = "random",
    seed: int = 0,
    failing: Sequence[int] = (),
    reason: str = "the loss must be finite, but is nan at step 41",
    running: bool = False,
    value: Callable[[float], float] | None = None,
    tracking_uri: str = "sqlite:////nowhere/mlflow.db",
    parent: str = PARENT,
    name: str = "made",
) -> SweepFolder:
    """Make the folder of a sweep with its ledger and curves.

    The loss is modelled at `resolution` moments of a run (None: each step), and the steps between them get noise of
    their own. Trials of `failing` end early for `reason`; with `running` the last one is still under way. `value` takes
    the place of the model's accuracy.
    """
    coarse = resolution or steps
    folder = SweepFolder(path)
    folder.write(
        SweepDescription(
            name=name,
            trials=max(1, trials),
            tracking_uri=tracking_uri,
            parent_run_id=parent,
            store=str(path / "stages"),
        )
    )
    plan = make_plan(space_from_text(space, file="space.yaml"), steps=steps, sampler=sampler, seed=seed)
    ledger = Ledger.create(folder.journal, plan=plan)
    write_record(folder.environment, ENVIRONMENT_FACTS, kind=ENVIRONMENT)
    trees: dict[float, Tree] = {}
    for _ in range(trials):
        suggestion = ledger.ask()
        if suggestion is None:
            break
        number, config = suggestion.number, suggestion.config
        schedule = config.model_copy(update={"total_steps": coarse}).schedule()
        broken_at = round(0.4 * coarse) if number in failing else coarse
        tree = trees.setdefault(suggestion.base_lr, Tree())
        known = tree.walk(_plan(schedule, config, coarse))
        losses, lrs = _model(schedule, base_lr=suggestion.base_lr, steps=broken_at, delay_steps=config.loss_delay)
        shared = min(known.stop, broken_at)
        if shared < broken_at:
            parent_stage = known.stage_before(shared)
            tree.add(
                Stage(
                    id=f"{number:06d}",
                    parent=None if parent_stage is None else parent_stage.id,
                    first=shared,
                    label=f"{parent}/{number}",
                    lrs=array("d", lrs[shared:]),
                    losses=array("d", losses[shared:]),
                )
            )
        write_curve(folder.trial(number) / "curve.csv", losses, lrs, stretch=steps // coarse, seed=number)
        if running and number == trials - 1:
            break
        _tell(ledger, number, known=known.parts, shared=shared, ran=broken_at, losses=losses, folder=folder,
              stretch=steps // coarse, failed=number in failing, reason=reason, value=value)  # fmt: skip
    return folder


def _tell(
    ledger: Ledger,
    number: int,
    *,
    known: Sequence[tuple[Stage, int]],
    shared: int,
    ran: int,
    losses: Array,
    folder: SweepFolder,
    stretch: int,
    failed: bool,
    reason: str,
    value: Callable[[float], float] | None,
) -> TrialRecord:
    shared_with: dict[str, int] = {}
    for stage, stop in known:
        shared_with[stage.label] = shared_with.get(stage.label, 0) + (min(stop, shared) - stage.first) * stretch
    repeated = 0 if shared in (0, ran) else (shared % 20) * stretch
    executed = (ran - shared) * stretch + repeated
    counts = {
        "steps_executed": executed,
        "steps_repeated": repeated,
        "steps_shared": shared * stretch,
        "shared_with": shared_with,
        "seconds": 0.4 + 0.11 * executed / stretch,
    }
    if failed:
        return ledger.tell(number, reason=reason, **counts)  # type: ignore[arg-type]
    final = float(np.mean(losses[-max(1, len(losses) // 20) :]))
    accuracy = 0.5 + 0.46 * math.exp(-0.22 * (final - FLOOR)) + 0.004 * random.Random(number).gauss(0, 1)  # noqa: S311
    metrics = {"accuracy": accuracy, "accuracy_std": 0.0105, "tar_at_far": accuracy - 0.1, "final_loss": final}
    with EvaluationWriter(folder.trial(number) / "evaluations.jsonl") as writer:
        writer.write(ran * stretch, metrics)
    chosen = metrics[ledger.plan.space.objective.metric]
    return ledger.tell(number, value=chosen if value is None else value(chosen), metrics=metrics, **counts)  # type: ignore[arg-type]


def _plan(schedule: Schedule, config: RunConfig, steps: int) -> Plan:
    base_lr = config.workload.optimizer.base_lr
    return Plan(schedule=schedule, base_lr=base_lr, total_steps=steps, loss_delay=config.loss_delay)


def _model(schedule: Schedule, *, base_lr: float, steps: int, delay_steps: int) -> tuple[Array, Array]:
    """Return losses and LRs; the noise of a step is the same in all trials, as its batch would be."""
    noise = np.random.default_rng(7).normal(size=steps)
    outlook = delay.begin(schedule, delay=delay_steps)
    losses, lrs = np.empty(steps), np.empty(steps)
    excess, total = FIRST_LOSS - FLOOR, schedule.total_steps
    for step in range(steps):
        lr = base_lr * outlook.factors[0]
        restless = 5.0 * lr**0.8
        loss = FLOOR + excess + restless * (1 + 0.25 * noise[step]) + 0.12 * noise[step]
        excess -= excess * (1 - math.exp(-70 * lr**0.6 / (1 + 0.5 * excess) / total))
        losses[step], lrs[step] = loss, lr
        outlook = delay.advance(schedule, outlook, float(loss))
    return losses, lrs


def write_curve(path: Path, losses: Array, lrs: Array, *, stretch: int = 1, seed: int = 0) -> None:
    """Write a curve file, each value drawn out over `stretch` steps with noise of their own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    fine = np.repeat(losses, stretch)
    if stretch > 1:
        fine = fine + chance.normal(0, 0.25, size=len(fine))
    steps = np.arange(len(fine))
    table = pyarrow.table(
        {
            "step": steps,
            "loss": fine,
            "lr": np.repeat(lrs, stretch),
            "response": np.abs(np.gradient(fine)) if len(fine) > 1 else np.zeros(1),
        }
    )
    with path.open("wb") as file:
        file.write((",".join(HEADER) + "\n").encode())
        csv.write_csv(table, file, csv.WriteOptions(include_header=False))


if __name__ == "__main__":
    simulate_sweep(
        Path(sys.argv[1]),
        trials=int(sys.argv[2]),
        steps=int(sys.argv[3]),
        resolution=min(int(sys.argv[3]), 2000),
        failing=[5] if int(sys.argv[2]) > 6 else [],
    )
