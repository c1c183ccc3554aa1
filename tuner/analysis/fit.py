"""Find the settings of a detector whose replay reproduces a recorded LR column.

Factors and base LR stand in the column itself (`tuner.analysis.lr_rule`). What is left are the detector's windows, the
threshold and the patience, found in two stages:

1. Windows on a logarithmic grid. The response does not depend on the threshold and the patience, so for each of these
   the threshold can be solved for: a change at step t with patience p began when the response fell through the
   threshold at t - p - 1. The responses there are the candidates, and the rule is run over the response for each.
2. The best few are refined by replaying random variations, ever smaller, of all settings together.

The measure is an alignment in order of replayed with recorded changes: their distance, and a fixed cost for each one
without a partner. Everything is drawn with a fixed seed, so that a fit gives the same answer each time.
"""

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tuner.analysis.fit_problem import WINDOWS, Point, Problem
from tuner.analysis.loss_log import LossLog
from tuner.analysis.lr_rule import LRRule, read_lr_rule
from tuner.analysis.replay import Progress
from tuner.analysis.replay_batch import Replayer
from tuner.errors import UserError
from tuner.schedulers import registry
from tuner.schedulers.registry import Setting

_SAMPLES = 10_000  # responses that the first stage looks at
_GRID = {0: 1, 1: 320, 2: 24}  # sizes of each window that are tried, by the number of windows
_PATIENCES = 24
_THRESHOLDS = 8
_ROUNDS, _STARTS, _VARIATIONS = 6, (24, 12, 6, 3), 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The settings that were found, in steps and absolute units; `rule` is what the LR column said."""

    settings: Mapping[str, Setting]
    base_lr: float
    rule: LRRule


def fit(
    scheduler: str,
    log: LossLog,
    *,
    fixed: Mapping[str, Setting] | None = None,
    total_steps: int | None = None,
    delay: int,
    progress: Progress | None = None,
) -> Fit:
    """Return settings of `scheduler` whose replay over `log` comes closest to its LR column.

    `fixed` settings stay as they are; `total_steps` is the length of the run, by default that of the log.

    Raises:
        UserError: no detector of this name, no LR column, or one that no rule of this kind makes.
    """
    registry.resolve(scheduler, fixed or {}, total_steps=total_steps or log.num_steps)
    if scheduler not in WINDOWS:
        raise UserError(f"a fit needs a detector, {' or '.join(WINDOWS)}, but got `{scheduler}`; choose one of them")
    problem = Problem(
        scheduler=scheduler,
        log=log,
        rule=read_lr_rule(log),
        fixed=dict(fixed or {}),
        total_steps=total_steps or log.num_steps,
        delay=delay,
    )
    tell = progress or (lambda _: None)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        best = _search(problem, pool, lambda share: tell(share / 2))
        if not _close(problem, best) and problem.free("max_decays") and not problem.target().rises[-1]:
            # Perhaps the schedule had used up its decays, and what the detector heard after the last one was in vain.
            capped = replace(problem, capped=True)
            other = _search(capped, pool, lambda share: tell(0.5 + share / 2))
            if other.cost < best.cost / 2:
                problem, best = capped, other
        best = _rounded(problem, best)
        tell(1.0)
    return Fit(settings=problem.settings(best), base_lr=problem.rule.base_lr, rule=problem.rule)


def _close(problem: Problem, point: Point) -> bool:
    """Return whether a point is about as close to the recorded changes as the log's rows can tell."""
    allowed = problem.log.num_steps / 10_000 + problem.log.steps_between_rows() / 2
    return point.cost <= allowed * len(problem.rule.changes)


def _search(problem: Problem, pool: ThreadPoolExecutor, tell: Progress) -> Point:
    """Return the best point of both stages; the second is done again from other points where it did not come close."""
    points = _first_points(problem, pool, lambda share: tell(0.5 * share))
    if not points:
        raise UserError(
            f"{problem.log.source}: no setting of `{problem.scheduler}` can be found that decays where this log does; "
            "try the other detector, or fewer fixed settings"
        )
    best = _refined(problem, points[: _STARTS[0]], pool, lambda share: tell(0.5 + 0.25 * share), seed=0)
    if not _close(problem, best):
        others = [best, *points[_STARTS[0] : 2 * _STARTS[0]]]
        best = _refined(problem, others, pool, lambda share: tell(0.75 + 0.25 * share), seed=1)
    return best


def _first_points(problem: Problem, pool: ThreadPoolExecutor, tell: Progress) -> list[Point]:
    """Return the best points of the grid, one for each choice of windows, best first."""
    from tuner.analysis.fit_kernels import scan
    from tuner.analysis.replay_kernels import RuleRecord, records

    replayer = Replayer(problem.log, delay=problem.delay)
    stride = max(1, problem.log.num_steps // _SAMPLES)
    target, shortest = problem.target(), _shortest_gap(problem)

    def best_with(windows: tuple[int, ...]) -> Point | None:
        schedule = problem.schedule(Point(windows, 0, 0.0))
        responses = replayer.responses(schedule)
        best: Point | None = None
        for patience in _patiences(problem, windows, shortest, schedule.params.rule.patience):
            thresholds = _thresholds(problem, responses, patience)
            if not problem.free("threshold"):
                state, _ = schedule.advance(schedule.start()[0], float(problem.log.losses[0]))
                thresholds = np.array([schedule.threshold(state)], dtype=np.float64)
            if len(thresholds) == 0:
                continue
            rule: RuleRecord = records(schedule.params)[1]._replace(patience=patience // stride)
            costs = scan(rule, thresholds, responses, stride, problem.late, target)
            index = int(np.argmin(costs))
            if best is None or costs[index] < best.cost:
                best = Point(windows, patience, float(thresholds[index]), float(costs[index]))
        return best

    grid = list(itertools.product(*([_window_sizes(problem)] * len(problem.windows()))))
    points = []
    for done, point in enumerate(pool.map(best_with, grid), start=1):
        points += [] if point is None else [point]
        tell(done / len(grid))
    return sorted(points, key=lambda point: point.cost)


def _window_sizes(problem: Problem) -> list[int]:
    """Return the sizes to be tried: up to where the first decision would come after the first recorded change."""
    most = max(4.0, problem.places()[0] / 2 if problem.scheduler == "haar" else problem.log.num_steps / 4)
    least = max(2.0, most / 1000)
    return sorted({round(size) for size in np.geomspace(least, most, _GRID[len(problem.windows())])})


def _shortest_gap(problem: Problem) -> float:
    """Return the shortest time that the count can have had before a change, in steps."""
    places = problem.places()
    return float(min(places[0], *np.diff(places))) if len(places) > 1 else float(places[0])


def _patiences(problem: Problem, windows: tuple[int, ...], shortest: float, given: int) -> list[int]:
    if not problem.free("patience"):
        return [given]
    if problem.rule.patience is not None:
        return [max(0, round(problem.rule.patience))]
    longest = max(1.0, shortest + problem.log.steps_between_rows())
    tried = {round(size) for size in np.geomspace(max(1.0, longest / 100), longest, _PATIENCES)}
    tried |= {multiple * window for window in windows for multiple in (1, 2)}  # twice the window is published
    gaps = np.diff(problem.places())
    in_streaks = gaps[gaps <= shortest + 2 * problem.log.steps_between_rows()]
    if len(in_streaks) > 0:  # changes in a streak follow at patience + 1 steps
        tried.add(max(0, round(float(in_streaks.mean())) - 1))
    return sorted(patience for patience in tried if patience <= longest)


def _thresholds(problem: Problem, responses: NDArray[np.float64], patience: int) -> NDArray[np.float64]:
    """Return thresholds that the recorded changes suggest, if the patience was `patience`.

    A change follows `patience + 1` responses below the threshold; so it is above the largest of them, and at most the
    response before them, unless the count began at the change before.
    """
    places = problem.places()
    ends = places - problem.late
    fresh = np.diff(places, prepend=-math.inf) > patience + 1 + 2 * problem.log.steps_between_rows()
    starts = (ends - patience).astype(np.int64)
    known = fresh & (starts > 0)
    stride = max(1, patience // 200)  # the largest of some is close to the largest of all
    below = [
        responses[start : int(end) + 1 : stride].max() for start, end in zip(starts, ends, strict=True) if start > 0
    ]
    above = responses[starts[known] - 1]
    return np.concatenate([_spread(np.asarray(below)) * (1 + 1e-9), _spread(above)])


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return at most `_THRESHOLDS` of the finite values, evenly chosen in their order."""
    found = np.unique(values[np.isfinite(values)])
    chosen = np.linspace(0, len(found) - 1, min(_THRESHOLDS, len(found)))
    return found[chosen.round().astype(np.int64)]


def _refined(
    problem: Problem, points: Sequence[Point], pool: ThreadPoolExecutor, tell: Progress, *, seed: int
) -> Point:
    """Return the best point that ever smaller variations of the best few lead to."""
    replayer, target, draw = Replayer(problem.log, delay=problem.delay), problem.target(), np.random.default_rng(seed)

    def measured(point: Point) -> Point:
        return replace(point, cost=problem.cost(replayer.changes(problem.schedule(point)), target))

    best = list(pool.map(measured, points))
    scale, rounds = 0.15, _ROUNDS * len(_STARTS)
    for done in range(rounds):
        best = sorted(best, key=lambda point: point.cost)[: _STARTS[done // _ROUNDS]]
        varied = [list(_variations(problem, point, scale, draw)) for point in best]
        results = iter(pool.map(measured, itertools.chain.from_iterable(varied)))
        best = [
            min([point, *itertools.islice(results, len(own))], key=lambda point: point.cost)
            for point, own in zip(best, varied, strict=True)
        ]
        scale *= 0.8
        tell((done + 1) / rounds)
    return min(best, key=lambda point: point.cost)


def _variations(problem: Problem, point: Point, scale: float, draw: np.random.Generator) -> Iterator[Point]:
    """Yield points around `point`: each open setting changed by a factor of about 1 + `scale`, or left as it is."""
    reach = _reach(problem, point)
    most = max(4, problem.log.num_steps // 2)
    for _ in range(_VARIATIONS):
        change = np.exp(
            scale * draw.standard_normal(len(point.windows) + 2) * (draw.random(len(point.windows) + 2) < 0.6)
        )
        windows = tuple(
            min(most, max(2, round(size * factor))) for size, factor in zip(point.windows, change[2:], strict=True)
        )
        if problem.rule.patience is None:
            patience = round(point.patience * change[0])
        else:
            patience = round(problem.rule.patience + draw.normal(0, problem.log.steps_between_rows() / 2))
        moved = replace(point, windows=windows, patience=min(most, max(0, patience)))
        # A longer window answers more strongly to the same pace; the threshold keeps its meaning.
        yield replace(moved, threshold=point.threshold * float(change[1]) * _reach(problem, moved) / reach)


def _reach(problem: Problem, point: Point) -> float:
    schedule = problem.schedule(point)
    reach: float = schedule.family.reach(schedule.params)
    return reach


def _rounded(problem: Problem, point: Point) -> Point:
    """Return the point with as few digits in its threshold as leave the replay as good as it is."""
    replayer, target = Replayer(problem.log, delay=problem.delay), problem.target()
    for digits in range(2, 17):
        shorter = replace(point, threshold=float(f"{point.threshold:.{digits}g}"))
        if problem.cost(replayer.changes(problem.schedule(shorter)), target) <= point.cost:
            return shorter
    return point
