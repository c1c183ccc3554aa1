"""A trial on the stage tree: what is known is replayed, the rest trained from the nearest checkpoint and recorded.

What another trial is training at this moment counts as known soon: it is followed.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from typing import Any, Final

from tuner.errors import DivergedError
from tuner.stages.events import Evaluation, Event, Waiting
from tuner.stages.recording import Recording
from tuner.stages.restoring import Restorer
from tuner.stages.shelf import Shelf, StepCounts
from tuner.stages.tree import Plan, Stage, Tree
from tuner.training import delay
from tuner.training.loop import StepReport, TrainingRun, diverged, train
from tuner.workload import Workload

CHECKPOINTS_PER_RUN: Final = 20
"""Checkpoints on the default grid: no more than this part of its steps does a trial repeat before it departs."""
LOOK_SECONDS: Final = 0.25
"""How often a trial that waits for another one looks."""


class SharedRun:
    """One trial, from its first step to its last, on a shelf of the stage store.

    `events` yields the report of each step, known or new, once and in order, as `tuner.training.loop.train` does; after
    the steps of `evaluate_at` the evaluation; in between, repetitions and waits, which hold no news but let the caller
    stop. A trial wholly on known ground never calls `build`.

    1. Exactness. On a device with deterministic kernels all reports and metrics are those of a run without a shelf, bit
       for bit. Every repeated step is held against the record.
    2. Breaking off. Closing the generator records the steps under way and leaves a checkpoint.
    3. Others. What another living trial is training, this one does not train too: it waits, follows the recorded steps
       for as long as their LRs are its own, and then goes on by itself. If the other one ends or dies, one of those
       that follow it takes over. Nobody waits for ever: who waits holds no claim, and who trains never waits.
    4. Where the shelf cannot be written, the log says so once, and training goes on without it. Where only the disk is
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
        self._shelf = shelf
        self._evaluate_at = frozenset(evaluate_at)
        self._every = checkpoint_every or max(1, plan.total_steps // CHECKPOINTS_PER_RUN)
        self._path = (Tree() if shelf is None else shelf.tree).walk(plan)
        self._replayed, self._outlook = 0, plan.begin()
        self._label = label
        self._at_end = at_end
        self._recording = Recording(shelf, label=label)
        self._recent_lrs: deque[float] = deque(maxlen=2)
        self._ground = Restorer(
            build=build, shelf=shelf, recording=self._recording, counts=self.counts, deterministic=deterministic
        )
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
        plan = self._plan
        try:
            self._hold()
            yield from self._replay()
            while self._path.diverged is None and self._path.stop < plan.total_steps:
                leader = self._claim()
                if leader is None:
                    yield from self._train()
                    break
                yield from self._follow(leader)
                yield from self._replay()
            path = self._path
            if path.diverged is not None:
                raise diverged(path.stop, loss=path.diverged, lr=plan.base_lr * path.outlook.factors[0])
            if self._at_end is not None:
                trained = (
                    (yield from self._ground.restore(path, path.stop)) if self._run is None else self._run.workload
                )
                self._at_end(trained.state_dict())
        except GeneratorExit:
            self._break_off()
            raise
        finally:
            self._recording.close(self.counts)
            if self._shelf is not None:
                self._shelf.let_go()

    def _hold(self) -> None:
        """Keep the shelf from being removed; where it was, since it was read, nothing of it is known any more."""
        if self._shelf is not None and not self._shelf.hold() and self._path.parts:
            self._shelf.refresh()
            self._path = self._shelf.tree.walk(self._plan)

    def _replay(self) -> Iterator[Event]:
        """Yield what is known beyond the steps that were replayed before; evaluate where only that is missing."""
        schedule = self._plan.schedule
        for stage, stop in self._path.parts:
            own = self._label != "" and stage.label == self._label
            for step in range(max(stage.first, self._replayed), stop):
                loss, lr = stage.losses[step - stage.first], stage.lrs[step - stage.first]
                self._outlook = delay.advance(schedule, self._outlook, loss)
                self._recent_lrs.append(lr)
                self._replayed = step + 1
                if own:
                    self.counts.resumed += 1
                else:
                    self.counts.shared += 1
                yield StepReport(step, loss, lr, schedule.response(self._outlook.schedule_state))
                if step + 1 in self._evaluate_at:
                    metrics = stage.evaluations.get(step + 1)
                    if metrics is None:
                        metrics = yield from self._missing_evaluation(stage, step + 1)
                    yield Evaluation(step + 1, metrics)

    def _missing_evaluation(self, stage: Stage, step: int) -> Generator[Event, None, Mapping[str, float]]:
        """Return the metrics of the state before `step` as soon as another trial has them, or evaluate."""
        shelf = self._shelf
        assert shelf is not None  # noqa: S101 - the step is known
        shelf.reread(stage)
        while step not in stage.evaluations:
            if not (stage.running and step in stage.evaluates):
                with shelf.evaluating(stage, step) as mine:
                    if mine and step not in stage.evaluations:
                        workload = yield from self._ground.restore(self._path, step)
                        metrics = self._evaluate(workload, stage, step)
                        self._recording.settle()
                        return metrics
            yield Waiting(step, stage.label)
            time.sleep(LOOK_SECONDS)
            shelf.reread(stage)
        return stage.evaluations[step]

    def _claim(self) -> Stage | None:
        """Claim the step after known ground; return the stage of the trial that has it, if another one does."""
        path = self._path
        lr = self._plan.base_lr * path.outlook.factors[0]
        return self._recording.claim(path.stage_before(path.stop), path.stop, lr=lr, evaluate_at=self._evaluate_at)

    def _follow(self, leader: Stage) -> Iterator[Waiting]:
        """Wait until the next step is recorded or its trial has ended, and see how far known ground reaches then."""
        shelf, step = self._shelf, self._path.stop
        assert shelf is not None  # noqa: S101 - a leader is on a shelf
        while leader.running and leader.stop == step:
            yield Waiting(step, leader.label)
            time.sleep(LOOK_SECONDS)
            shelf.reread(leader)
        self._path = shelf.tree.walk(self._plan, after=self._path)

    def _train(self) -> Iterator[Event]:
        """Train from the end of known ground to the end of the run."""
        plan, path, recording = self._plan, self._path, self._recording
        workload = yield from self._ground.restore(path, path.stop)
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
