"""One trial from its configuration to its metrics, sharing what it can. Knows nothing of who asked."""

import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch

from tuner.config.run import RunConfig
from tuner.curves import CurvePoint, CurveWriter
from tuner.evaluations import EvaluationWriter
from tuner.names import CURVE_FILE, EVALUATIONS_FILE, METRIC_FINAL_LOSS
from tuner.room import LOOK_SECONDS, Wait, shortage
from tuner.stages.events import Evaluation, Repetition, Waiting
from tuner.stages.runner import SharedRun
from tuner.stages.shelf import StepCounts
from tuner.stages.store import StageStore
from tuner.stages.tree import Plan
from tuner.training.determinism import is_deterministic
from tuner.training.explosion import Explosion
from tuner.training.memory import memory_explained
from tuner.training.opened import open_workload

_LOOK_SECONDS: Final = 0.1
"""How often a trial's files are brought up to date, and it is looked whether there is room for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialProgress:
    """Where a trial stands after `steps` steps; `metrics` is filled at evaluations, and for good where `finished`.

    `counts` are the steps executed, repeated, shared and resumed until now; `shared_with` says how many of the known
    steps which trial executed, by label; `shelf` is the key of the shelf they are on, None without a store. Where it is
    `paused` it waits for room on the disk; where it is `waiting_for` another trial, of that label, it takes over the
    next steps from there as soon as they are recorded.
    """

    steps: int
    loss: float
    lr: float
    metrics: Mapping[str, float]
    counts: StepCounts
    shared_with: Mapping[str, int]
    shelf: str | None
    finished: bool = False
    paused: bool = False
    waiting_for: str | None = None


def plan_of(config: RunConfig) -> Plan:
    """Return what decides a run's LRs; `Tree.walk` finds with it how many of its steps are known."""
    return Plan(
        schedule=config.schedule(),
        base_lr=config.workload.reference_lr,
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
    at_end: Callable[[dict[str, Any]], object] | None = None,
) -> Generator[TrialProgress, None, None]:
    """Run one configuration and yield its progress after every step; the `finished` one carries the final metrics.

    The whole curve goes to `folder/curve.csv`, whichever steps are shared, and evaluations to
    `folder/evaluations.jsonl`, one JSON object a line. Progress is also yielded, standing still, while known steps are
    trained again, and several times a second while another trial trains steps that this one needs. To stop early, close
    the generator: what was recorded until then is whole, and a trial with the same configuration goes on from there.

    Where the disk has no room, checkpoints of the store are given up, and if that is not enough, the trial pauses
    before it writes another byte, which the log says; it goes on when there is room.

    Args:
        config: the run.
        folder: where its files go.
        device: where it trains.
        store: where known steps are found and new ones recorded; None shares nothing.
        label: of this trial, unlike that of any other; the same when it is taken up again.
        at_end: called with the state of the workload after the last step; where no step was left to train, it is
            restored from the nearest checkpoint for that, which yields progress after the finished one.

    Raises:
        DivergedError: the loss became NaN or infinite, or exploded.
        UserError: the data cannot be used, or a repeated step did not give its recorded loss.
        NoRoomError: the disk stayed full for too long; the trial can be taken up again.
        NoMemoryError: it does not fit into the memory of the device or the host.
    """
    with memory_explained(config.workload):
        yield from _run_trial(config, folder, device=device, store=store, label=label, at_end=at_end)


def _run_trial(
    config: RunConfig,
    folder: Path,
    *,
    device: torch.device,
    store: StageStore | None,
    label: str,
    at_end: Callable[[dict[str, Any]], object] | None,
) -> Generator[TrialProgress, None, None]:
    opened, seed = open_workload(config.workload), config.seed
    shelf = None if store is None else store.shelf(opened.fingerprint(seed=seed, device=device))
    evaluate_at = config.evaluation_steps()
    run = SharedRun(
        plan_of(config),
        build=lambda: opened.build(seed=seed, device=device),
        shelf=shelf,
        evaluate_at=evaluate_at,
        deterministic=is_deterministic(device),
        label=label,
        at_end=at_end,
    )
    tail: deque[float] = deque(maxlen=max(1, config.total_steps // 20))
    explosion = Explosion(config.total_steps)
    steps, loss, lr = 0, 0.0, 0.0

    def progress(
        *, metrics: Mapping[str, float] | None = None, paused: bool = False, waiting_for: str | None = None
    ) -> TrialProgress:
        return TrialProgress(
            steps=steps,
            loss=loss,
            lr=lr,
            metrics=metrics or {},
            counts=replace(run.counts),
            shared_with=run.shared_with,
            shelf=None if shelf is None else shelf.key,
            finished=bool(metrics) and steps == config.total_steps,
            paused=paused,
            waiting_for=waiting_for,
        )

    events = run.events()
    disk = _Disk(folder, store)
    try:
        while disk.is_full():
            yield progress(paused=True)
        with CurveWriter(folder / CURVE_FILE) as curve, EvaluationWriter(folder / EVALUATIONS_FILE) as evaluations:
            disk.writers = (run.catch_up, curve.flush, evaluations.flush)
            for event in events:
                metrics: Mapping[str, float] = {}
                if isinstance(event, Evaluation):
                    metrics = {**event.metrics, METRIC_FINAL_LOSS: fmean(tail)}
                    evaluations.write(steps, metrics)
                elif not isinstance(event, Repetition | Waiting):
                    steps, loss, lr = event.step + 1, event.loss, event.lr
                    curve.write(CurvePoint(event.step, loss, lr, event.response))
                    tail.append(loss)
                    explosion.watch(event.step, loss)
                    if steps in evaluate_at:
                        continue  # The evaluation follows.
                while disk.is_full(look_now=bool(metrics)):
                    yield progress(paused=True)
                yield progress(metrics=metrics, waiting_for=event.label if isinstance(event, Waiting) else None)
    finally:
        events.close()


class _Disk:
    """Keeps a trial from going on while the disk has no room for what it writes.

    `writers` write what they have kept, and return False where the disk is full.
    """

    def __init__(self, folder: Path, store: StageStore | None) -> None:
        self.writers: Sequence[Callable[[], bool]] = ()
        self._store = store
        self._folder = folder
        self._wait = Wait(folder)
        self._paused = False
        self._next_look = 0.0

    def is_full(self, *, look_now: bool = False) -> bool:
        """Write what was kept, and return whether the trial must wait; that is found out now and then, or now.

        While it waits, each call takes a while.
        """
        if time.monotonic() < self._next_look and not look_now:
            return False
        if self._paused:
            time.sleep(LOOK_SECONDS)
        problem = self._problem()
        self._paused = problem is not None
        if problem is not None:
            self._wait.goes_on(problem)
            return True
        self._wait.is_over()
        self._next_look = time.monotonic() + _LOOK_SECONDS
        return False

    def _problem(self) -> str | None:
        places = [self._folder] if self._store is None else [self._folder, self._store.root]
        if any(map(shortage, places)) and self._store is not None:
            self._store.relieve_disk()
        if [write for write in self.writers if not write()]:
            return f"the disk of {self._folder} or of the stage store is full"
        return next(filter(None, map(shortage, places)), None)
