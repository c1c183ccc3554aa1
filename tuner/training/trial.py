"""One trial from its configuration to its metrics: train, record the curve, evaluate. Knows nothing of who asked."""

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from tuner.config.run import RunConfig
from tuner.curves import CurvePoint, CurveWriter
from tuner.names import CURVE_FILE, EVALUATIONS_FILE, METRIC_FINAL_LOSS
from tuner.training.face import FaceWorkload
from tuner.training.faces import prepare_faces
from tuner.training.loop import TrainingRun, train


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialProgress:
    """Where a trial stands after `steps` steps; `metrics` is filled at evaluations, and for good where `finished`."""

    steps: int
    loss: float
    lr: float
    metrics: Mapping[str, float]
    seconds: float
    finished: bool = False


def run_trial(config: RunConfig, folder: Path, *, device: torch.device) -> Iterator[TrialProgress]:
    """Train one configuration and yield its progress after every step; the last one carries the final metrics.

    The curve goes to `folder/curve.csv`, evaluations to `folder/evaluations.jsonl`, one JSON object a line. To stop
    early, stop iterating and close the generator: what was recorded until then is whole.

    Raises:
        DivergedError: the loss became NaN or infinite.
        UserError: the data cannot be used.
    """
    started = time.monotonic()
    train_faces, verification_faces = prepare_faces(config.workload.data)
    workload = FaceWorkload(
        config.workload, seed=config.seed, train=train_faces, verification=verification_faces, device=device
    )
    run = TrainingRun(
        workload=workload,
        schedule=config.schedule(),
        base_lr=config.workload.optimizer.base_lr,
        total_steps=config.total_steps,
        loss_delay=config.loss_delay,
    )
    tail: deque[float] = deque(maxlen=max(1, config.total_steps // 20))
    metrics: Mapping[str, float] = {}
    with CurveWriter(folder / CURVE_FILE) as curve, (folder / EVALUATIONS_FILE).open("w") as evaluations:
        for stop in evaluation_steps(config):
            for report in train(run, stop=stop):
                curve.write(CurvePoint(report.step, report.loss, report.lr, report.response))
                tail.append(report.loss)
                if report.step + 1 < stop:
                    yield TrialProgress(
                        steps=report.step + 1,
                        loss=report.loss,
                        lr=report.lr,
                        metrics={},
                        seconds=time.monotonic() - started,
                    )
            curve.flush()
            metrics = {**workload.evaluate(), METRIC_FINAL_LOSS: fmean(tail)}
            evaluations.write(json.dumps({"steps": stop, **metrics}) + "\n")
            evaluations.flush()
            yield TrialProgress(
                steps=stop,
                loss=report.loss,
                lr=report.lr,
                metrics=metrics,
                seconds=time.monotonic() - started,
                finished=stop == config.total_steps,
            )


def evaluation_steps(config: RunConfig) -> list[int]:
    """Return after how many steps to evaluate: evenly spread, the last at the end of the run."""
    times = min(config.workload.evaluation.times, config.total_steps)
    return [round(config.total_steps * (index + 1) / times) for index in range(times)]
