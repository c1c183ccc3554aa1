"""The detectors compiled: the very scalar functions of `tuner.schedulers`, in a loop over recorded losses.

Importing this room's module imports numba, so that only batches pay for it. The loops repeat what `advance` of
`fastface` and `haar` do around those functions, and a test holds them to the same bits. Machine code is kept in numba's
cache where one can be written; numba looks at the loop's own file only, so the code of the functions it calls is part
of what the cache is searched by, see `_compiled`.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from tuner.schedulers import fastface, haar, rule

Function = Callable[..., Any]
Floats = NDArray[np.float64]


class RuleRecord(NamedTuple):
    """`rule.Rule` as numba takes it."""

    patience: int
    grid: int
    decay_factor: float
    max_decays: int
    rebound: float
    rebound_after: int
    floor: float
    warmup: int


class FastFaceRecord(NamedTuple):
    """`fastface.FastFaceParams` as numba takes it, without the rule."""

    a: float
    keep: float
    keep_twice: float
    gain: float
    threshold_offset: float
    threshold_scale: float
    released: bool


class HaarRecord(NamedTuple):
    """`haar.HaarParams` as numba takes it, without the rule."""

    average_window: int
    haar_window: int
    half: int
    gap: int
    weight: float
    threshold_offset: float
    threshold_scale: float


def records(params: fastface.FastFaceParams | haar.HaarParams) -> tuple[FastFaceRecord | HaarRecord, RuleRecord]:
    """Return a schedule's parameters and rule as the compiled loops take them."""
    kind = FastFaceRecord if isinstance(params, fastface.FastFaceParams) else HaarRecord
    own = kind(*(getattr(params, name) for name in kind._fields))
    return own, RuleRecord(*(getattr(params.rule, name) for name in RuleRecord._fields))


_njit: Any = numba.njit
_SHARED: tuple[Any, ...] = (rule.decide, rule.ramp, fastface.recurrence, haar.slide)
decide, ramp, recurrence, slide = (_njit(function) for function in _SHARED)


def compiled(make: Callable[[int], Function]) -> Function:
    """Compile the loop that `make` returns, which holds the given number: a digest of the code it calls."""
    digest = hashlib.blake2b(digest_size=7)
    for function in _SHARED:
        code = function.__code__
        digest.update(repr((code.co_code, code.co_consts, code.co_names)).encode())
    loop = make(int.from_bytes(digest.digest()))
    compiled: Function
    try:
        compiled = _njit(loop, nogil=True, cache=True)
    except RuntimeError:  # no folder for the cache can be written
        compiled = _njit(loop, nogil=True)
    return compiled


def _make_fastface(digest: int) -> Function:
    def fastface_factors(
        params: FastFaceRecord, rule: RuleRecord, losses: Floats, factors: Floats, responses: Floats
    ) -> int:
        """Write into `factors[t]` the factor that `advance` returns with the loss of step t; return the digest.

        `responses[t]` becomes E_t, NaN where nothing is decided on it.
        """
        response = previous = 0.0
        threshold = params.threshold_offset + params.threshold_scale * abs(losses[0])
        count = decays = streak = 0
        level = 1.0
        factors[0] = ramp(1, rule.warmup)
        responses[0] = np.nan
        for step in range(1, len(losses)):
            change = losses[step - 1] - losses[step]
            if step == 1 and params.released:
                newest = params.a * change
            else:
                newest = recurrence(params, response, previous, change)
            previous = response
            response = newest
            if step >= rule.warmup:
                count, decays, streak, level = decide(
                    rule, step + 1, response < threshold, count, decays, streak, level
                )
                factors[step] = level
                responses[step] = response
            else:
                factors[step] = ramp(step + 1, rule.warmup)
                responses[step] = np.nan
        return digest

    return fastface_factors


def _make_haar(digest: int) -> Function:
    def haar_factors(
        params: HaarRecord,
        rule: RuleRecord,
        losses: Floats,
        factors: Floats,
        responses: Floats,
        averages: Floats,
        half_sums: Floats,
    ) -> int:
        """As `fastface_factors` with H_t; `averages` and `half_sums` are room to work in, as long as `losses`."""
        threshold = params.threshold_offset + params.threshold_scale * abs(losses[0])
        loss_sum = loss_fresh = half_sum = half_fresh = 0.0
        count = decays = streak = 0
        level = 1.0
        for step in range(len(losses)):
            loss_out = losses[step - params.average_window] if step >= params.average_window else 0.0
            average_out = averages[step - params.half] if step >= params.half else 0.0
            average, loss_sum, loss_fresh, half_sum, half_fresh = slide(
                params, step, losses[step], loss_out, average_out, loss_sum, loss_fresh, half_sum, half_fresh
            )
            averages[step] = average
            half_sums[step] = half_sum
            older = half_sums[step - params.gap] if step >= params.gap else 0.0
            seen = step + 1
            factors[step] = ramp(seen, rule.warmup)
            responses[step] = np.nan
            if seen > rule.warmup:
                if seen >= params.average_window + params.haar_window:
                    response = responses[step] = (older - half_sum) * params.weight
                    count, decays, streak, level = decide(
                        rule, step + 1, response < threshold, count, decays, streak, level
                    )
                factors[step] = level
        return digest

    return haar_factors


def _make_changes(digest: int) -> Function:
    def changes(factors: Floats, first: float, places: NDArray[np.int32]) -> int:
        """Write where a factor differs from the one before (`first` before the first); return their number."""
        num, before = 0 * digest, first
        for index in range(len(factors)):
            if factors[index] != before:
                before = factors[index]
                places[num] = index
                num += 1
        return num

    return changes


fastface_factors = compiled(_make_fastface)
haar_factors = compiled(_make_haar)
changes = compiled(_make_changes)
