"""Compiled parts of the fit: how far replayed LR changes are from recorded ones, and the rule over a response."""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from tuner.analysis.replay_kernels import RuleRecord, compiled, decide

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Target(NamedTuple):
    """The recorded changes: steps after the first one, and which of them raise the LR; `skip` is the cost of a miss."""

    places: Floats
    rises: Flags
    skip: float


def _distance(places: Floats, rises: Flags, target: Target) -> float:
    """Return the cheapest alignment in order of `places` with the target's, in steps.

    Two changes of the same direction that are paired cost their distance, one without a partner costs `target.skip`.
    """
    num = len(target.places)
    above = np.arange(num + 1) * target.skip
    for i in range(len(places)):
        diagonal = above[0]
        above[0] += target.skip
        for j in range(num):
            best = min(above[j + 1], above[j]) + target.skip
            if rises[i] == target.rises[j]:
                best = min(best, diagonal + abs(places[i] - target.places[j]))
            diagonal = above[j + 1]
            above[j + 1] = best
    return float(above[num])


_njit: Any = numba.njit
_inner_distance = _njit(_distance)


def _make_distance(digest: int) -> Any:
    def distance(places: Floats, rises: Flags, target: Target) -> float:
        """Compiled `_distance`."""
        return _inner_distance(places, rises, target) + 0 * digest  # type: ignore[no-any-return]

    return distance


def _make_scan(digest: int) -> Any:
    def scan(rule: RuleRecord, thresholds: Floats, responses: Floats, stride: int, late: int, target: Target) -> Floats:
        """Return the distance for each threshold, from every `stride`-th response; the patience is in strides too.

        A change decided on the response of step i takes effect at i + `late`.
        """
        room = 2 * len(target.places) + 8
        places, rises = np.empty(room), np.empty(room, dtype=np.bool_)
        costs = np.empty(len(thresholds))
        for k in range(len(thresholds)):
            count = decays = streak = num = 0 * digest
            level = 1.0
            for i in range(0, len(responses), stride):
                if responses[i] != responses[i]:
                    continue
                before = level
                stationary = responses[i] < thresholds[k]
                count, decays, streak, level = decide(rule, i + 1, stationary, count, decays, streak, level)
                if level != before:
                    places[num] = i + late
                    rises[num] = level > before
                    num += 1
                    if num == room:
                        break
            costs[k] = _inner_distance(places[:num], rises[:num], target)
        return costs

    return scan


distance = compiled(_make_distance)
scan = compiled(_make_scan)
