"""What is known of a run before it is run: how much of it is known ground, and what its LR will probably be."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tuner.stages.tree import Plan, Stage, Tree, TreePath
from tuner.training import delay

LOOKS: Final = 60
"""How often in a run it is looked which recorded run its LR is most like."""
_LOWEST: Final = 2.0**-10
"""An LR below this share of the highest trains nothing; lower ones are not told apart."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Forecast:
    """`known` of the run's steps need no training; `lrs` are those of all its steps.

    The first `known` + 1 LRs are exact, the others a guess unless the schedule does not read the loss. `claimed`:
    another trial is just training its next step, or will have trained it soon; whoever starts it now waits for that.
    """

    known: int
    lrs: tuple[float, ...]
    claimed: bool = False


class Forecaster:
    """Looks runs up in a tree, as it is when the forecaster is made, and guesses how they go on beyond known ground.

    Their losses are then taken from the recorded run whose LR has been most like theirs: with the least sum of
    |log2 lr - log2 lr'| over the steps until then, of which every (T / `LOOKS`)-th counts. The run that they leave last
    would not do: its losses do not fall as theirs do after a decay.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        guides = (_Guide.ending_with(stage, tree) for stage in tree.stages.values())
        # In an order that does not depend on how stages are named or found: of equals, the first one is taken.
        self._guides = sorted((guide for guide in guides if guide is not None), key=_Guide.rank)
        self._stops = np.array([guide.stop for guide in self._guides], dtype=int)
        self._looks: dict[int, _Floats] = {}

    def forecast(self, plan: Plan) -> Forecast:
        """Return what is known of a run, and what is likely. The cost is that of replaying it, 2 to 4 us a step."""
        path = self._tree.walk(plan)
        outlook, total = path.outlook, plan.total_steps
        lrs = [lr for stage, stop in path.parts for lr in stage.lrs[: stop - stage.first]]
        interval = max(1, total // LOOKS)
        while len(lrs) < total:
            step, lr = len(lrs), plan.base_lr * outlook.factors[0]
            until = min(total, (step // interval + 1) * interval)
            losses = [0.0] * (until - step)
            if plan.schedule.reads_loss:
                looked_at = np.array([*lrs, lr][::interval]) / plan.base_lr
                guide = self._most_like(looked_at, interval=interval, until=until)
                if guide is None:  # no run is known for so long
                    break
                losses = guide.losses(step, until)
            for loss in losses:
                lrs.append(plan.base_lr * outlook.factors[0])
                outlook = delay.advance(plan.schedule, outlook, loss)
        lrs += [plan.base_lr * factor for factor in outlook.factors][: total - len(lrs)]
        lrs += lrs[-1:] * (total - len(lrs))
        return Forecast(path.stop, tuple(lrs), claimed=_is_claimed(self._tree, path, plan))

    def _most_like(self, factors: _Floats, *, interval: int, until: int) -> "_Guide | None":
        """Return the run most like one with these LR factors, of those that are known until a step; None: none is."""
        if not (self._stops >= until).any():
            return None
        if interval not in self._looks:
            self._looks[interval] = _logs([guide.lrs(interval) for guide in self._guides])
        differences = np.abs(self._looks[interval][:, : len(factors)] - np.log2(np.maximum(factors, _LOWEST)))
        distances = np.where(self._stops >= until, differences.sum(axis=1), np.inf)
        return self._guides[int(np.argmin(distances))]


@dataclass(frozen=True, slots=True)
class _Guide:
    """A recorded run from its start to the end of one stage: stages, each with the step where the next takes over."""

    parts: tuple[tuple[Stage, int], ...]
    stop: int

    @classmethod
    def ending_with(cls, stage: Stage, tree: Tree) -> "_Guide | None":
        """Return the run that ends with a stage, without a loss that is not finite; None where there is none."""
        stop = stage.stop - (1 if stage.losses and not math.isfinite(stage.losses[-1]) else 0)
        if stop <= stage.first:
            return None
        parts = [(stage, stop)]
        while stage.parent is not None:
            parent = tree.stages.get(stage.parent)
            if parent is None or not parent.first < stage.first <= parent.stop:
                return None  # steps before it are lost
            parts.append((parent, stage.first))
            stage = parent
        return cls(tuple(reversed(parts)), stop)

    def rank(self) -> tuple[int, list[float]]:
        """Return what puts the longest first, then goes by the last loss, which tells LR histories apart."""
        return -self.stop, self.losses(self.stop - 1, self.stop)

    def losses(self, first: int, stop: int) -> list[float]:
        """Return the losses of the steps `first` .. `stop` - 1."""
        cuts = ((stage, max(first, stage.first), min(stop, end)) for stage, end in self.parts)
        return [loss for stage, a, b in cuts if a < b for loss in stage.losses[a - stage.first : b - stage.first]]

    def lrs(self, interval: int) -> list[float]:
        """Return the LR of every `interval`-th step, from step 0 on."""
        found: list[float] = []
        for stage, end in self.parts:
            found += stage.lrs[len(found) * interval - stage.first : end - stage.first : interval]
        return found


def _logs(lrs: list[list[float]]) -> _Floats:
    """Return log2(lr / highest) with a row for each run, NaN beyond its end."""
    table = np.full((len(lrs), max(map(len, lrs))), np.nan)
    for row, each in zip(table, lrs, strict=True):
        row[: len(each)] = each
    highest = np.nanmax(table) or 1.0
    logs: _Floats = np.log2(np.maximum(table / highest, _LOWEST))
    return logs


def _is_claimed(tree: Tree, path: TreePath, plan: Plan) -> bool:
    if path.stop == plan.total_steps or path.diverged is not None:
        return False
    lr = plan.base_lr * path.outlook.factors[0]
    return tree.under_way(path.stage_before(path.stop), path.stop, lr=lr) is not None
