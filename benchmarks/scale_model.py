"""The model of `scale.py`: recorded runs on the stage tree, and simulated GPUs that train them, step by step.

Where two runs part is found by `tuner.stages.tree` from their recorded LRs, as for real trials: the steps that any two
share, and not one more, become one *stretch*. On these stretches the simulation does what `tuner.stages.runner` does:

1. A trial takes over what is recorded, at no cost. A step that is not is claimed and trained, after those that must be
   repeated from the nearest checkpoint, and from there the trial trains to its end.
2. What another trial is training it follows: it waits, and takes over the steps as they come. Where its LR differs it
   departs, which shows with the first step that the other one does differently.
3. Checkpoints lie on a grid of a twentieth of the run, at evaluations, at the end, where the LR changes after a steady
   stretch, and where a trial departs.

Time is counted in training steps; evaluations, starts and the writing of checkpoints take none.
"""

import heapq
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Literal

from tuner.stages.runner import CHECKPOINTS_PER_RUN
from tuner.stages.tree import Plan, Stage, Tree

Order = Literal["first come", "critical path", "depth first"]
ORDERS: Final[tuple[Order, ...]] = ("first come", "critical path", "depth first")

_FREE: Final = -1
_ENDED: Final = -2
"""Stand for the trial of a GPU that has none, and of one that has just ended its last one."""

Stretch = tuple[str, int, int]
"""Steps `first .. stop - 1` of a stage, by its id, which all who come that way share."""


@dataclass(frozen=True)
class Recorded:
    """A finished run: the LR and the loss of each of its steps, and after how many of them it evaluates."""

    lrs: Sequence[float]
    losses: Sequence[float]
    evaluate_at: frozenset[int] = frozenset()

    def plan(self) -> Plan:
        """Return a plan that wants exactly the recorded LRs."""
        return Plan(schedule=_Replayed(self.lrs), base_lr=1.0, total_steps=len(self.lrs), loss_delay=0)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Replayed:
    """Stands for a scheduler; its state is the number of the step."""

    lrs: Sequence[float]
    reads_loss: bool = True

    def start(self) -> tuple[int, float]:
        return 0, self.lrs[0]

    def advance(self, state: int, _: float) -> tuple[int, float]:
        return state + 1, self.lrs[min(state + 1, len(self.lrs) - 1)]

    def response(self, _: int) -> None:
        return None


@dataclass(frozen=True)
class Trial:
    """A run of the batch: its steps as stretches, and before which steps it leaves checkpoints if it trains them."""

    stretches: tuple[Stretch, ...]
    checkpoints: tuple[int, ...]

    @property
    def num_steps(self) -> int:
        """Length of the run."""
        return self.stretches[-1][2]

    def stage_before(self, step: int) -> str:
        """Return the stage that executed the step before `step` > 0."""
        return next(stage for stage, first, stop in self.stretches if first < step <= stop)


def batch(runs: Sequence[Recorded]) -> list[Trial]:
    """Put runs on trees and cut them where any two of them part; runs of one seed and data begin with the same loss.

    Raises:
        ValueError: two runs have the same LRs up to a step, but another loss there.
    """
    trees: dict[float, Tree] = {}
    for number, run in enumerate(runs):
        tree = trees.setdefault(run.losses[0], Tree())
        known = tree.walk(run.plan())
        for stage, stop in known.parts:
            if run.losses[stage.first : stop] != list(stage.losses[: stop - stage.first]):
                raise ValueError(f"run {number} has other losses than run {stage.id} at the same LRs")
        if known.stop < len(run.lrs):
            parent = known.stage_before(known.stop)
            rest = array("d", run.lrs[known.stop :]), array("d", run.losses[known.stop :])
            origin = None if parent is None else parent.id
            tree.add(Stage(id=f"{number:06d}", parent=origin, first=known.stop, lrs=rest[0], losses=rest[1]))
    paths = [trees[run.losses[0]].walk(run.plan()).parts for run in runs]
    cuts: dict[str, set[int]] = {}
    for path in paths:
        for stage, stop in path:
            cuts.setdefault(stage.id, {stage.first}).add(stop)
    return [
        Trial(
            tuple(
                (stage.id, first, until)
                for stage, stop in path
                for first, until in pairwise(sorted(cut for cut in cuts[stage.id] if cut <= stop))
            ),
            tuple(_checkpoints(run)),
        )
        for run, path in zip(runs, paths, strict=True)
    ]


def _checkpoints(run: Recorded) -> Iterator[int]:
    """Yield where a trial that trains a run's steps leaves checkpoints."""
    lrs, every = run.lrs, max(1, len(run.lrs) // CHECKPOINTS_PER_RUN)
    for step in range(1, len(lrs) + 1):
        changes = 2 <= step < len(lrs) and lrs[step] != lrs[step - 1] == lrs[step - 2]
        if step % every == 0 or step == len(lrs) or step in run.evaluate_at or changes:
            yield step


@dataclass
class Outcome:
    """What a batch cost, in steps: of all GPUs together, but for the `makespan` from the first start to the last end.

    `busy` steps were trained, `repeated` of them again; `waiting` counts while a GPU was kept without training.
    """

    asked: int = 0
    busy: int = 0
    repeated: int = 0
    waiting: int = 0
    makespan: int = 0

    @property
    def saved(self) -> float:
        """The share of the steps asked for that was not trained."""
        return 1.0 - self.busy / self.asked


@dataclass
class _Ground:
    """What is known at which time: when each stretch is trained, and when each checkpoint is there."""

    known_at: dict[Stretch, int] = field(default_factory=dict)
    parts_at: dict[Stretch, int] = field(default_factory=dict)
    """When those who do not go on as the trial that trains a stretch know that it does."""
    kept_at: dict[str, dict[int, int]] = field(default_factory=dict)
    """By stage and step."""

    def latest(self, trial: Trial, step: int, *, now: int) -> int:
        """Return the last step <= `step` of a trial before which there is a checkpoint now, or 0."""
        for stage, first, stop in reversed(trial.stretches):
            kept = self.kept_at.get(stage, {}).items()
            found = [each for each, since in kept if first < each <= min(stop, step) and since <= now]
            if found:
                return max(found)
        return 0


def simulate(trials: Sequence[Trial], *, gpus: int, order: Order) -> Outcome:
    """Train a batch on so many GPUs.

    "first come": each free GPU takes the next trial of the batch and waits where it must. The others look, as
    `tuner.stages.forecast` lets them, how many steps of each trial are known and whether its next one is being trained
    (`claimed`), take a trial that can be trained at once, and wait where there is none: "critical path" takes the one
    with most steps left, "depth first" the one with fewest.
    """
    ground, outcome = _Ground(), Outcome(asked=sum(trial.num_steps for trial in trials))
    left, position = list(range(len(trials))), [0] * len(trials)
    choose = _chooser(trials, ground, position, order)
    # By the time at which they are free or look again; a batch has no use for more of them than trials.
    queue: list[tuple[int, int, int]] = [(0, gpu, _FREE) for gpu in range(min(gpus, len(trials)))]
    while queue:
        now, gpu, number = heapq.heappop(queue)
        if number == _ENDED:
            outcome.makespan = now
        if number in (_FREE, _ENDED):
            if not left:
                continue
            number, again = choose(now, left)
            if number == _FREE:
                outcome.waiting += again - now
                heapq.heappush(queue, (again, gpu, _FREE))
                continue
            left.remove(number)
        trial = trials[number]
        ready = _advance(trial, ground, position, number, now)
        if ready > now:
            outcome.waiting += ready - now
            heapq.heappush(queue, (ready, gpu, number))
        else:
            repeated, trained = _train(trial, ground, position[number], now)
            outcome.repeated += repeated
            outcome.busy += repeated + trained
            heapq.heappush(queue, (now + repeated + trained, gpu, _ENDED))
    return outcome


def _chooser(
    trials: Sequence[Trial], ground: _Ground, position: list[int], order: Order
) -> Callable[[int, Sequence[int]], tuple[int, int]]:
    """Return what names the next trial, or `_FREE` and when to look again."""

    def first_come(now: int, left: Sequence[int]) -> tuple[int, int]:
        return left[0], now

    sign = -1 if order == "critical path" else 1
    idle: dict[tuple[int, int], tuple[int, int]] = {}

    def by_steps_left(now: int, left: Sequence[int]) -> tuple[int, int]:
        if (now, len(left)) in idle:  # another free GPU has looked at this moment
            return idle[now, len(left)]
        best, again = None, 0
        for number in left:
            ready = _advance(trials[number], ground, position, number, now)
            if ready > now:
                again = min(again or ready, ready)
                continue
            rest = trials[number].stretches[position[number] :]
            key = sign * (rest[-1][2] - rest[0][1] if rest else 0), number
            best = key if best is None else min(best, key)
        if best is None:
            idle.clear()
            idle[now, len(left)] = _FREE, again
            return _FREE, again
        return best[1], now

    return first_come if order == "first come" else by_steps_left


def _advance(trial: Trial, ground: _Ground, position: list[int], number: int, now: int) -> int:
    """Move a trial to the end of what is known now; return when it can go on: now, or when it has what it waits for."""
    stretches = trial.stretches
    at = position[number]
    while at < len(stretches) and ground.known_at.get(stretches[at], now + 1) <= now:
        at += 1
    position[number] = at
    if at == len(stretches):
        return now
    if stretches[at] in ground.known_at:
        return ground.known_at[stretches[at]]
    return max(now, ground.parts_at[stretches[at - 1]]) if at else now


def _train(trial: Trial, ground: _Ground, at: int, now: int) -> tuple[int, int]:
    """Claim all stretches from `at` on; return the steps that are repeated and those that are new."""
    if at == len(trial.stretches):
        return 0, 0
    first = trial.stretches[at][1]
    repeated = first - ground.latest(trial, first, now=now)
    start = now + repeated
    for stretch in trial.stretches[at:]:
        last = stretch[2] == trial.num_steps
        ground.known_at[stretch] = start + stretch[2] - first
        ground.parts_at[stretch] = ground.known_at[stretch] + (0 if last else 1)
    for step in (first, *(each for each in trial.checkpoints if each > first)):
        if step > 0:
            ground.kept_at.setdefault(trial.stage_before(step), {}).setdefault(step, start + step - first)
    return repeated, trial.num_steps - first


def unshared(trials: Sequence[Trial], *, gpus: int) -> int:
    """Return the makespan of a batch whose trials share nothing, taken as they come."""
    free = [0] * gpus
    for trial in trials:
        heapq.heapreplace(free, free[0] + trial.num_steps)
    return max(free)


def shortest(trials: Sequence[Trial], *, gpus: int) -> float:
    """Return what no order can beat: the longest run, or each distinct step once on GPUs that never wait."""
    distinct = {stretch for trial in trials for stretch in trial.stretches}
    return max(max(trial.num_steps for trial in trials), sum(stop - first for _, first, stop in distinct) / gpus)


def rows(outcomes: Mapping[Order, Mapping[int, Outcome]]) -> list[dict[str, Any]]:
    """Return outcomes as JSON-like data."""
    return [
        {"order": order, "gpus": gpus, **vars(each), "saved": each.saved}
        for order, by_gpus in outcomes.items()
        for gpus, each in by_gpus.items()
    ]
