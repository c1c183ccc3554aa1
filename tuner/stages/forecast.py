"""What is known of a run before it is run: how much of it is known ground, and what its LR will probably be."""

import math
from dataclasses import dataclass

from tuner.stages.tree import Plan, Stage, Tree, TreePath
from tuner.training import delay


@dataclass(frozen=True, slots=True)
class Forecast:
    """`known` of the run's steps need no training; `factors` are the LR factors of all its steps.

    The first `known` + 1 factors are exact, the others a guess unless the schedule does not read the loss. `claimed`:
    another trial is just training its next step, or will have trained it soon; whoever starts it now waits for that.
    """

    known: int
    factors: tuple[float, ...]
    claimed: bool = False


def forecast(tree: Tree, plan: Plan) -> Forecast:
    """Look a run up in the tree. Beyond known ground its losses are taken to go on as in the run that it leaves there.

    The cost is that of replaying the scheduler twice, some 4 microseconds a step.
    """
    path = tree.walk(plan)
    schedule, outlook = plan.schedule, plan.begin()
    factors: list[float] = []
    for stage, stop in path.parts:
        for step in range(stage.first, stop):
            factors.append(outlook.factors[0])
            outlook = delay.advance(schedule, outlook, stage.losses[step - stage.first])
    guide = _left_at(tree, path)
    for step in range(path.stop, plan.total_steps):
        factors.append(outlook.factors[0])
        loss = math.nan if guide is None or step >= guide.stop else guide.losses[step - guide.first]
        if not math.isfinite(loss):
            if schedule.reads_loss:
                factors += [outlook.factors[-1]] * (plan.total_steps - step - 1)
                break
            loss = 0.0
        outlook = delay.advance(schedule, outlook, loss)
    return Forecast(path.stop, tuple(factors), claimed=_is_claimed(tree, path, plan))


def _is_claimed(tree: Tree, path: TreePath, plan: Plan) -> bool:
    if path.stop == plan.total_steps or path.diverged is not None:
        return False
    lr = plan.base_lr * path.outlook.factors[0]
    return tree.under_way(path.stage_before(path.stop), path.stop, lr=lr) is not None


def _left_at(tree: Tree, path: TreePath) -> Stage | None:
    """Return the stage that goes on where the path ends; from the start, the longest one there is."""
    if path.parts:
        return path.parts[-1][0]
    return max((stage for stage in tree.stages.values() if stage.parent is None), key=lambda s: s.stop, default=None)
