"""A trial on the stage tree: what is known is replayed, the rest trained from the nearest checkpoint and recorded."""

import math
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tuner.errors import DivergedError, UserError
from tuner.stages import checkpoint
from tuner.stages.recording import Recording
from tuner.stages.shelf import Shelf, StepCounts
from tuner.stages.tree import Plan, Stage, Tree
from tuner.training import delay
from tuner.training.loop import PendingLoss, StepReport, TrainingRun, diverged, train
from tuner.workload import Workload

CHECKPOINTS_PER_RUN: Final = 20
"""Checkpoints on the default grid: no more than this part of its steps does a trial repeat before it departs."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The metrics of the state after `steps` steps."""

    steps: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Repetition:
    """A step that is known was trained again, on the way from a checkpoint to where known ground ends."""

    step: int


Event = StepReport | Evaluation | Repetition


class SharedRun:
    """One trial, from its first step to its last, on a shelf of the stage store.

    `events` yields the report of each step, known or new, once and in order, as `tuner.training.loop.train` does; after
    the steps of `evaluate_at` the evaluation; in between, repetitions, which hold no news but let the caller stop. A
    trial wholly on known ground never calls `build`.

    1. Exactness. On a device with deterministic kernels all reports and metrics are those of a run without a shelf, bit
       for bit. Every repeated step is held against the record.
    2. Breaking off. Closing the generator records the steps under way and leaves a checkpoint.
    3. Where the shelf cannot be written, the log says so once, and training goes on without it. Where only the disk is
       full, steps wait to be recorded; see `catch_up`.

    Args:
        plan: what decides the LRs.
        build: makes the workload as it is before step 0, the same each time.
        shelf: where known steps are found and new ones recorded; None trains all and records nothing.
        evaluate_at: numbers of steps after which to evaluate.
        checkpoint_every: steps between checkpoints, None for a twentieth of the run. Where the LR changes after a
            steady stretch, and where the trial departs from known ground, there is one in any case.
        deterministic: whether a step trained again gives the same bits; if not, repeated steps are not checked.
        label: who runs this trial, the same each time it is taken up; a trial that shares its steps finds it in
            `shared_with`.
        at_end: called after the last event with the workload's state after the last step; where nothing was left to
            train, it is restored for that.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        build: Callable[[], Workload],
        shelf: Shelf | None,
        evaluate_at: Collection[int] = (),
        checkpoint_every: int | None = None,
        deterministic: bool = True,
        label: str = "",
        at_end: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:
        self.counts = StepCounts()
        self._plan = plan
        self._build = build
        self._shelf = shelf
        self._evaluate_at = frozenset(evaluate_at)
        self._every = checkpoint_every or max(1, plan.total_steps // CHECKPOINTS_PER_RUN)
        self._deterministic = deterministic
        self._path = (Tree() if shelf is None else shelf.tree).walk(plan)
        self._label = label
        self._at_end = at_end
        self._recording = Recording(shelf, label=label)
        self._recent_lrs: deque[float] = deque(maxlen=2)
        self._workload: Workload | None = None
        self._steps_seen = 0
        """By the workload, as long as it only repeats."""
        self._run: TrainingRun | None = None

    def catch_up(self) -> bool:
        """Record the steps that wait for room on the disk; False where it is still full: better wait than go on."""
        return self._recording.catch_up()

    @property
    def shared_with(self) -> dict[str, int]:
        """How many steps were executed by which other trial, by label, in the order of the steps."""
        steps: dict[str, int] = {}
        for stage, stop in self._path.parts:
            if stage.label != self._label or stage.label == "":
                steps[stage.label] = steps.get(stage.label, 0) + stop - stage.first
        return steps

    def events(self) -> Generator[Event, None, None]:
        """Replay and train; to be iterated once.

        Raises:
            DivergedError: a loss is NaN or infinite, now or on record.
            UserError: a repeated step did not give its recorded loss; that record is not used again.
        """
        path = self._path
        try:
            yield from self._replay()
            if path.diverged is not None:
                raise diverged(path.stop, loss=path.diverged, lr=self._plan.base_lr * path.outlook.factors[0])
            if path.stop < self._plan.total_steps:
                yield from self._train()
            if self._at_end is not None:
                trained = (yield from self._restore(path.stop)) if self._run is None else self._run.workload
                self._at_end(trained.state_dict())
        except GeneratorExit:
            self._break_off()
            raise
        finally:
            self._recording.close(self.counts)

    def _replay(self) -> Iterator[Event]:
        """Yield what is known; evaluate where only that is missing."""
        schedule, outlook = self._plan.schedule, self._plan.begin()
        for stage, stop in self._path.parts:
            own = self._label != "" and stage.label == self._label
            for step in range(stage.first, stop):
                loss, lr = stage.losses[step - stage.first], stage.lrs[step - stage.first]
                outlook = delay.advance(schedule, outlook, loss)
                self._recent_lrs.append(lr)
                if own:
                    self.counts.resumed += 1
                else:
                    self.counts.shared += 1
                yield StepReport(step, loss, lr, schedule.response(outlook.schedule_state))
                if step + 1 in self._evaluate_at:
                    metrics = stage.evaluations.get(step + 1)
                    if metrics is None:
                        workload = yield from self._restore(step + 1)
                        metrics = self._evaluate(workload, stage, step + 1)
                    yield Evaluation(step + 1, metrics)

    def _train(self) -> Iterator[Event]:
        """Train from the end of known ground to the end of the run."""
        plan, path, recording = self._plan, self._path, self._recording
        workload = yield from self._restore(path.stop)
        recording.checkpoint(path.stage_before(path.stop), path.stop, workload.state_dict)
        self._run = run = TrainingRun(
            workload=workload,
            schedule=plan.schedule,
            base_lr=plan.base_lr,
            total_steps=plan.total_steps,
            loss_delay=plan.loss_delay,
        )
        run.resume(step=path.stop, outlook=path.outlook)
        while run.step < plan.total_steps:
            stop = self._next_stop(run.step)
            while run.step < stop:
                for report in self._advance(run, stop=stop):
                    yield report
                    if recording.active and run.steps_launched < stop and self._lr_changes_after(run):
                        stop = run.steps_launched
                        break
            recording.checkpoint(recording.stage, stop, workload.state_dict)
            if stop in self._evaluate_at:
                yield Evaluation(stop, self._evaluate(workload, recording.stage, stop))

    def _advance(self, run: TrainingRun, *, stop: int) -> Iterator[StepReport]:
        """Train new steps up to `stop`, and record them."""
        parent = self._path.stage_before(self._path.stop)
        try:
            for report in train(run, stop=stop):
                self._recording.step(report.step, lr=report.lr, loss=report.loss, parent=parent)
                self._recent_lrs.append(report.lr)
                self.counts.executed += 1
                yield report
        except DivergedError:
            # Recorded too, so that no other trial trains up to here only to diverge.
            loss = run.state_dict()["loop"]["pending"][0]
            if not math.isfinite(loss):
                self.counts.executed += 1
                self._recording.step(run.step, lr=run.upcoming_lrs[0], loss=loss, parent=parent)
            raise

    def _restore(self, step: int) -> Generator[Repetition, None, Workload]:
        """Bring the workload to the state before `step` of known ground: by a checkpoint, and by repeating the rest."""
        self._recording.settle()
        source = None
        if self._shelf is not None:
            for stage, at in self._path.checkpoints(until=step):
                if self._workload is not None and self._steps_seen >= at:
                    break
                state = checkpoint.load(self._shelf, stage, at)
                if state is not None:
                    self._workload = self._workload or self._build()
                    self._workload.load_state_dict(state)
                    self._steps_seen, source = at, (stage, at)
                    break
        self._workload = self._workload or self._build()
        yield from self._repeat(self._workload, stop=step, source=source)
        return self._workload

    def _repeat(self, workload: Workload, *, stop: int, source: tuple[Stage, int] | None) -> Iterator[Repetition]:
        """Train known steps again, up to `stop`; each loss is read while the next step runs, and checked."""
        unread: deque[tuple[Stage, int, PendingLoss]] = deque()
        for step in range(self._steps_seen, stop):
            stage = self._path.stage_before(step + 1)
            assert stage is not None  # noqa: S101 - the step is known
            loss = workload.training_step(step, stage.lrs[step - stage.first])
            self._steps_seen = step + 1
            self.counts.executed += 1
            self.counts.repeated += 1
            unread.append((stage, step, PendingLoss(loss)))
            if len(unread) > 1:
                self._check(*unread.popleft(), source=source)
            yield Repetition(step)
        for each in unread:
            self._check(*each, source=source)

    def _check(self, stage: Stage, step: int, late: PendingLoss, *, source: tuple[Stage, int] | None) -> None:
        """Raise UserError, and take the stage and the checkpoint out of use, unless a loss is the recorded one."""
        if not self._deterministic:
            return
        loss, recorded = late.read(), stage.losses[step - stage.first]
        if loss == recorded or self._shelf is None:
            return
        reason = f"step {step} was recorded with loss {recorded!r}, but gave {loss!r} when it was trained again"
        self._recording.distrust(stage, source, reason)
        raise UserError(
            f"a step trained again must give its recorded loss, but {reason}; something that changes numbers is not in "
            f"the fingerprint: remove the shelf {self._shelf.key}, or train without sharing"
        )

    def _evaluate(self, workload: Workload, stage: Stage | None, step: int) -> Mapping[str, float]:
        metrics = {name: float(value) for name, value in workload.evaluate().items()}
        self._recording.evaluation(stage, step, metrics)
        return metrics

    def _next_stop(self, step: int) -> int:
        """Return the next number of steps at which there is a checkpoint to leave or an evaluation to make."""
        stops = {self._plan.total_steps, *(each for each in self._evaluate_at if each > step)}
        if self._recording.active:
            stops.add((step // self._every + 1) * self._every)
        return min(stops)

    def _lr_changes_after(self, run: TrainingRun) -> bool:
        """Return whether the LR of the next step to launch differs from that of the two before it."""
        lrs = [*self._recent_lrs, *run.upcoming_lrs]
        index = len(self._recent_lrs) + run.steps_launched - run.step
        return index >= 2 and lrs[index] != lrs[index - 1] == lrs[index - 2]

    def _break_off(self) -> None:
        """Record the steps that are under way, and leave a checkpoint."""
        run = self._run
        if run is None or not self._recording.active:
            return
        try:
            for _ in self._advance(run, stop=run.steps_launched):
                pass
        except DivergedError:
            return
        self._recording.checkpoint(self._recording.stage, run.step, run.workload.state_dict)
