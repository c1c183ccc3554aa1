"""One face trial from its configuration to its metrics, sharing what it can. Knows nothing of who asked."""

import json
import time
from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Final

import torch

from tuner.config.run import RunConfig
from tuner.curves import CurvePoint, CurveWriter
from tuner.names import CURVE_FILE, EVALUATIONS_FILE, METRIC_FINAL_LOSS
from tuner.stages.runner import Evaluation, Repetition, SharedRun
from tuner.stages.shelf import StepCounts
from tuner.stages.store import StageStore
from tuner.stages.tree import Plan
from tuner.training.explosion import Explosion
from tuner.training.face import FaceWorkload
from tuner.training.faces import prepare_faces
from tuner.training.fingerprint import fingerprint

FLUSH_SECONDS: Final = 0.5
"""How far the curve file may be behind the training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialProgress:
    """Where a trial stands after `steps` steps; `metrics` is filled at evaluations, and for good where `finished`.

    `counts` are the steps executed, repeated, shared and resumed until now; `shared_with` says how many of the known
    steps which trial executed, by label; `shelf` is the key of the shelf they are on, None without a store.
    """

    steps: int
    loss: float
    lr: float
    metrics: Mapping[str, float]
    counts: StepCounts
    shared_with: Mapping[str, int]
    shelf: str | None
    finished: bool = False


def plan_of(config: RunConfig) -> Plan:
    """Return what decides a run's LRs; `Tree.walk` finds with it how many of its steps are known."""
    return Plan(
        schedule=config.schedule(),
        base_lr=config.workload.optimizer.base_lr,
        total_steps=config.total_steps,
        loss_delay=config.loss_delay,
    )


def run_trial(
    config: RunConfig,
    folder: Path,
    *,
    device: torch.device,
    store: StageStore | None,
    label: str = "",
) -> Generator[TrialProgress, None, None]:
    """Run one configuration and yield its progress after every step; the last one carries the final metrics.

    The whole curve goes to `folder/curve.csv`, whichever steps are shared, and evaluations to
    `folder/evaluations.jsonl`, one JSON object a line. Progress is also yielded, standing still, while known steps are
    trained again. To stop early, close the generator: what was recorded until then is whole, and a trial with the same
    configuration goes on from there.

    Args:
        config: the run.
        folder: where its files go.
        device: where it trains.
        store: where known steps are found and new ones recorded; None shares nothing.
        label: of this trial, unlike that of any other; the same when it is taken up again.

    Raises:
        DivergedError: the loss became NaN or infinite, or exploded.
        UserError: the data cannot be used, or a repeated step did not give its recorded loss.
    """
    train, verification = prepare_faces(config.workload.data)
    workload, seed = config.workload, config.seed
    shelf = None
    if store is not None:
        common = fingerprint(workload, seed=seed, train=train.digest, verification=verification.digest, device=device)
        shelf = store.shelf(common)
    evaluate_at = config.evaluation_steps()
    run = SharedRun(
        plan_of(config),
        build=lambda: FaceWorkload(workload, seed=seed, train=train, verification=verification, device=device),
        shelf=shelf,
        evaluate_at=evaluate_at,
        deterministic=device.type == "cpu" or torch.are_deterministic_algorithms_enabled(),
        label=label,
    )
    tail: deque[float] = deque(maxlen=max(1, config.total_steps // 20))
    steps, loss, lr = 0, 0.0, 0.0
    explosion = Explosion(config.total_steps)
    flushed = time.monotonic()
    events = run.events()
    try:
        with CurveWriter(folder / CURVE_FILE) as curve, (folder / EVALUATIONS_FILE).open("w") as evaluations:
            for event in events:
                metrics: Mapping[str, float] = {}
                if isinstance(event, Evaluation):
                    metrics = {**event.metrics, METRIC_FINAL_LOSS: fmean(tail)}
                    evaluations.write(json.dumps({"steps": steps, **metrics}) + "\n")
                    evaluations.flush()
                    curve.flush()
                elif not isinstance(event, Repetition):
                    steps, loss, lr = event.step + 1, event.loss, event.lr
                    curve.write(CurvePoint(event.step, loss, lr, event.response))
                    tail.append(loss)
                    explosion.watch(event.step, loss)
                    if time.monotonic() - flushed > FLUSH_SECONDS:
                        curve.flush()
                        flushed = time.monotonic()
                    if steps in evaluate_at:
                        continue  # The evaluation follows.
                yield TrialProgress(
                    steps=steps,
                    loss=loss,
                    lr=lr,
                    metrics=metrics,
                    counts=replace(run.counts),
                    shared_with=run.shared_with,
                    shelf=None if shelf is None else shelf.key,
                    finished=bool(metrics) and steps == config.total_steps,
                )
    finally:
        events.close()
