"""What early values tell about late ones: rank correlation with its interval, and the regret of choosing by them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

FAILED = 0.5
"""What a run that failed counts as: the accuracy of a coin."""
RESAMPLES = 2000
CARRIED = 5
"""How many of the settings that look best early are taken to the long run, where more than one is."""
Values = Sequence[Sequence[float | None]]
"""Accuracies by seed, then by setting."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What one way of looking ahead is worth.

    `rank` is the rank correlation of the means over the seeds, `low` and `high` its interval (95 %, bootstrap over
    settings); None where the early values are all equal. `one_seed` is the mean correlation of one seed's early values
    with the late means of the others; `regret` what choosing under one seed costs under the others, its mean over the
    seeds, and `regrets` by seed; `carried` is what it costs to take the five best to the long run, and there the best
    of them. `tied` settings, in the mean, share the best early value.
    """

    rank: float | None
    low: float | None
    high: float | None
    one_seed: float | None
    regret: float
    regrets: tuple[float, ...]
    carried: float
    tied: float


def judged(early: Values, late: Values) -> Judged:
    """Compare early with late values; both have the same seeds and settings."""
    before, after = _matrix(early), _matrix(late)
    means, last = before.mean(axis=0), after.mean(axis=0)
    rank = spearman(means, last)
    draws = np.random.default_rng(0).integers(len(means), size=(RESAMPLES, len(means)))
    resampled = [found for draw in draws if (found := spearman(means[draw], last[draw])) is not None]
    low, high = np.percentile(resampled, [2.5, 97.5]) if rank is not None and resampled else (None, None)
    regrets, carried, singles, tied = [], [], [], []
    for seed, row in enumerate(before):
        truth = after.mean(axis=0) if len(after) == 1 else np.delete(after, seed, axis=0).mean(axis=0)
        best = np.isclose(row, row.max(), rtol=0, atol=1e-12)
        regrets.append(float(truth.max() - truth[best].mean()))
        carried.append(float(truth.max() - truth[np.argsort(-row, kind="stable")[:CARRIED]].max()))
        tied.append(float(best.sum()))
        singles.append(spearman(row, truth))
    known = [each for each in singles if each is not None]
    return Judged(
        rank=rank,
        low=None if low is None else float(low),
        high=None if high is None else float(high),
        one_seed=float(np.mean(known)) if known else None,
        regret=float(np.mean(regrets)),
        regrets=tuple(regrets),
        carried=float(np.mean(carried)),
        tied=float(np.mean(tied)),
    )


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Return the rank correlation; None where one side does not vary."""
    first, second = rankdata(one), rankdata(other)
    if not (np.ptp(first) and np.ptp(second)):
        return None
    return float(np.corrcoef(first, second)[0, 1])


def halving_regret(cuts: Sequence[Values], late: Values) -> float:
    """Return the mean regret of successive halving: at each cut the better quarter goes on, the best at T is taken."""
    after, regrets = _matrix(late), []
    for seed in range(len(after)):
        truth = after.mean(axis=0) if len(after) == 1 else np.delete(after, seed, axis=0).mean(axis=0)
        alive = np.arange(after.shape[1])
        for cut in cuts:
            values = _matrix(cut)[seed, alive]
            alive = alive[np.argsort(-values, kind="stable")[: math.ceil(len(alive) / 4)]]
        regrets.append(float(truth.max() - truth[alive[np.argmax(after[seed, alive])]]))
    return float(np.mean(regrets))


def blind_regret(values: NDArray[np.float64], *, number: int) -> float:
    """Return the expected regret of taking the best of `number` settings drawn at random, each at most once."""
    ranked = np.sort(values)[::-1]
    ways = [math.comb(len(values) - 1 - rank, number - 1) for rank in range(len(values))]
    return float(ranked[0] - np.average(ranked, weights=ways))


def table(found: Mapping[str, Judged], late: Values) -> str:
    """Return a row for each way of looking ahead, and what choosing blindly would cost."""
    after = _matrix(late)
    lines = [
        "| chosen by | rank correlation with T, means over seeds [interval] | of one seed with the others | regret "
        "| by seed | of the best five | settings tied for the best |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in found.items():
        rank = "none: all equal" if each.rank is None else f"{each.rank:.2f}"
        if each.low is not None and each.high is not None and name != "T":
            rank += f" [{each.low:.2f}, {each.high:.2f}]"
        one = "" if each.one_seed is None else f"{each.one_seed:.2f}"
        by_seed = ", ".join(f"{regret:.4f}" for regret in each.regrets)
        lines.append(
            f"| {name} | {rank} | {one} | {each.regret:.4f} | {by_seed} | {each.carried:.4f} | {each.tied:.1f} |"
        )
    means = after.mean(axis=0)
    blind = " and ".join(f"{blind_regret(means, number=number):.4f}" for number in (1, min(CARRIED, len(means))))
    lines += [
        "",
        f"The settings' accuracies at T lie between {means.min():.4f} and {means.max():.4f} (means over seeds); one "
        f"drawn blindly and the best of five cost {blind}, the published setting {means.max() - means[0]:.4f}.",
    ]
    return "\n".join(lines)


def _matrix(values: Values) -> NDArray[np.float64]:
    return np.array([[FAILED if value is None else value for value in row] for row in values], dtype=np.float64)
