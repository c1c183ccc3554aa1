"""What is known of runs with one fingerprint, as a tree over LR histories; pure Python, no disk and no torch.

Two runs that are equal in everything but the scheduler (the fingerprint) are the same run, step for step, until the
first step at which their LRs differ: the state before step t is a function of the fingerprint and lr_0 .. lr_{t-1}, the
loss of step t one of that and lr_t. Losses are recorded, so where a trial leaves known ground follows without training.

A *stage* is one stretch of training that was executed. It starts at step 0, or branches off its parent at any step; its
LR history is the parent's up to there and then its own. Stages grow at their end only and are never split. A trial is
looked up by replaying its scheduler over the recorded losses, for as long as the LR that it wants for a step is exactly
one that was recorded there.

Prefix sharing for fixed schedules: "Sharing Computations in Hyper-Parameter Optimization" (Hippo), VLDB 2022. Here the
schedules depend on the losses.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tuner.schedulers.registry import Schedule
from tuner.training import delay


@dataclass(slots=True, kw_only=True)
class Stage:
    """One executed stretch: the steps `first .. stop - 1`, with the LR each used and the loss it had.

    `parent` None stands for the start of training, and `first` is 0 then. What belongs to the state before a step
    (`checkpoints`: file name by step, `evaluations`: metrics by step) is kept by the stage that executed the step
    before it. A loss that is not finite is the last of its stage.

    While a stage is `running` it grows. `first_lr` is the LR of its first step, known before that step is recorded, and
    `evaluates` says before which steps its trial will evaluate; both are unknown of stages of earlier versions.
    """

    id: str
    parent: str | None
    first: int
    label: str = ""
    running: bool = False
    first_lr: float | None = None
    evaluates: frozenset[int] = frozenset()
    lrs: "array[float]" = field(default_factory=lambda: array("d"))
    losses: "array[float]" = field(default_factory=lambda: array("d"))
    evaluations: dict[int, Mapping[str, float]] = field(default_factory=dict)
    checkpoints: dict[int, str] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        """The first step that is not recorded."""
        return self.first + len(self.losses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What decides a trial's LRs: scheduler, base LR, number of steps, and by how many steps losses are read late."""

    schedule: Schedule
    base_lr: float
    total_steps: int
    loss_delay: int = 1

    def begin(self) -> delay.Outlook:
        """Return what is known of the LRs before the first loss."""
        return delay.begin(self.schedule, delay=self.loss_delay)


@dataclass(frozen=True, slots=True)
class TreePath:
    """The known ground of a trial, its steps 0 .. stop - 1: stages, each with the step where the next one takes over.

    `outlook` is the scheduler's before step `stop`. `diverged` is the loss of step `stop` where that one is recorded
    and not finite: then there is nothing to train.
    """

    parts: tuple[tuple[Stage, int], ...]
    stop: int
    outlook: delay.Outlook
    diverged: float | None = None

    def stage_before(self, step: int) -> Stage | None:
        """Return the stage on this path that executed the step before `step`; None before step 0 and beyond `stop`."""
        return next((stage for stage, stop in self.parts if stage.first < step <= stop), None)

    def checkpoints(self, *, until: int) -> Iterator[tuple[Stage, int]]:
        """Yield (stage, step) for the checkpoints on this path of states before a step <= `until`, the latest first."""
        for stage, stop in reversed(self.parts):
            steps = (step for step in list(stage.checkpoints) if stage.first < step <= min(stop, until))
            yield from ((stage, step) for step in sorted(steps, reverse=True))


@dataclass(frozen=True, slots=True)
class _Fork:
    """Where a walk goes on: in `stage` from `step`, after `parts`, with the scheduler's outlook before that step."""

    parts: tuple[tuple[Stage, int], ...]
    stage: Stage
    step: int
    outlook: delay.Outlook


class Tree:
    """The stages of one fingerprint, and who branches off where."""

    def __init__(self, stages: Iterable[Stage] = ()) -> None:
        self.stages: dict[str, Stage] = {}
        self._children: dict[str | None, dict[int, list[Stage]]] = {}
        for stage in stages:
            self.add(stage)

    def add(self, stage: Stage) -> None:
        """Add a stage. Its parent may come later, or never: until then no walk reaches it."""
        self.stages[stage.id] = stage
        siblings = self._children.setdefault(stage.parent, {}).setdefault(stage.first, [])
        siblings.append(stage)
        siblings.sort(key=lambda sibling: sibling.id)

    def orphans(self) -> list[Stage]:
        """Return the stages that no walk can reach, because steps before them are lost."""
        reached: set[str] = set()
        frontier = list(self._children.get(None, {}).get(0, ()))
        while frontier:
            stage = frontier.pop()
            reached.add(stage.id)
            for first, children in self._children.get(stage.id, {}).items():
                if stage.first < first <= stage.stop:
                    frontier += children
        return [stage for stage in self.stages.values() if stage.id not in reached]

    def beginning_at(self, parent: Stage | None, first: int) -> list[Stage]:
        """Return the stages that branch off `parent` before step `first`; None: those from the start of training."""
        return list(self._children.get(None if parent is None else parent.id, {}).get(first, ()))

    def under_way(self, parent: Stage | None, step: int, *, lr: float) -> Stage | None:
        """Return the stage in which `step`, at this LR and after `parent`, is recorded or being trained; None: nowhere.

        What a running `parent` does next shows with its next step: until then it may be this.
        """
        if parent is not None:
            if parent.stop > step and parent.lrs[step - parent.first] == lr:
                return parent
            if parent.stop == step and parent.running:
                return parent
        for stage in self.beginning_at(parent, step):
            if stage.lrs[0] == lr if stage.losses else stage.running and stage.first_lr == lr:
                return stage
        return None

    def walk(self, plan: Plan, *, after: TreePath | None = None) -> TreePath:
        """Return the longest known path of a trial; among equally long ones, the one with the smallest stage ids.

        There is more than one path where two processes recorded the same steps. Each step is visited once, so the cost
        is that of replaying the scheduler: about 2 microseconds a step. `after` is a path found before, to go on from.
        """
        best = after or TreePath((), 0, plan.begin())
        if best.parts:
            *parts, (stage, stop) = best.parts
            forks = [_Fork(tuple(parts), stage, stop, best.outlook)]
        else:
            forks = self._forks(plan, best, parent=None)
        while forks:
            path = self._follow(plan, forks.pop(), forks)
            if _rank(path) < _rank(best):
                best = path
        return best

    def _follow(self, plan: Plan, fork: _Fork, forks: list[_Fork]) -> TreePath:
        """Replay a trial along one stage until they differ or it ends; add the ways that branch off to `forks`."""
        stage, outlook, step = fork.stage, fork.outlook, fork.step
        schedule, base_lr, first = plan.schedule, plan.base_lr, stage.first
        end = min(stage.stop, plan.total_steps)
        branches = self._children.get(stage.id, {})
        diverged: float | None = None
        while True:
            if step in branches and step > first:
                forks += self._forks(plan, TreePath((*fork.parts, (stage, step)), step, outlook), parent=stage)
            if step == end or base_lr * outlook.factors[0] != stage.lrs[step - first]:
                break
            loss = stage.losses[step - first]
            if not math.isfinite(loss):
                diverged = loss
                break
            outlook = delay.advance(schedule, outlook, loss)
            step += 1
        parts = fork.parts if step == first else (*fork.parts, (stage, step))
        return TreePath(parts, step, outlook, diverged)

    def _forks(self, plan: Plan, path: TreePath, *, parent: Stage | None) -> list[_Fork]:
        """Return the ways to go on from the end of `path` by a stage that branches off `parent` there."""
        if path.stop >= plan.total_steps:
            return []
        lr = plan.base_lr * path.outlook.factors[0]
        children = self.beginning_at(parent, path.stop)
        found = [child for child in children if child.losses and child.lrs[0] == lr]
        return [_Fork(path.parts, child, child.first, path.outlook) for child in found]


def _rank(path: TreePath) -> tuple[int, bool, list[str]]:
    return -path.stop, path.diverged is None, [stage.id for stage, _ in path.parts]
