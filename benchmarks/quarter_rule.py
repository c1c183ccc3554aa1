"""The rule by which `quarter_budget.py` judges, written before any run of it, and the table that belongs to it.

What is judged is the accuracy on people never seen in training, under evaluation seeds that no search has used, paired
by seed; a run that fails counts as 0.5, the accuracy of a coin. Candidates are FastFace, its windowed form, and our own
FastFace with a cooldown, each tuned and at T/4.

1. *The promise*: within 1 % of each tuned schedule at T. The margin is 0.01 times that schedule's mean accuracy.
   - kept: against each of the three, the lower end of the interval of the mean difference lies above minus the margin.
     All three must hold, so choosing the best of the three afterwards biases nothing.
   - broken: against any of the three, the upper end lies below minus the margin.
   - open: neither.
2. *The opponents at T/4*: the same three schedules, compressed, tuned with as many trials.
   - worse: against any of the three, the upper end lies below 0.
   - better: against each of the three, the lower end lies above 0.
   - as good: against each of the three, the lower end lies above minus the margin.
   - open: none of these.
3. *The goal* on a data set: reached where the promise is kept and the candidate is better than, or as good as, the
   compressed schedules; missed where the promise is broken or the candidate is worse; else open.

Intervals are Student's, at 95 %, and hold for all candidates together (Bonferroni, `tuner.analysis.confirmation`);
where one of three opponents is enough ("any"), at 98.3 %, so that they hold for the three as well. The number of
evaluation seeds is fixed beforehand. One search decides a setting: how much another search would have found otherwise
is not in the intervals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tuner.analysis.confirmation import LEVEL, Gain, confirm

MARGIN = 0.01
FAILED = 0.5
Promise = Literal["kept", "broken", "open"]
Comparison = Literal["worse", "better", "as good", "open"]
Goal = Literal["reached", "missed", "open"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A candidate's mean difference to an opponent with its interval, and the one that holds for all opponents."""

    opponent: str
    mean: float
    low: float
    high: float
    wide_high: float
    margin: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the rule says of one candidate."""

    candidate: str
    promise: Promise
    comparison: Comparison
    goal: Goal
    full: tuple[Difference, ...]
    compressed: tuple[Difference, ...]


def judge(
    values: Mapping[str, Sequence[float | None]],
    *,
    candidates: Sequence[str],
    full: Sequence[str],
    compressed: Sequence[str],
) -> list[Verdict]:
    """Apply the rule; `values` are accuracies by method, one for each evaluation seed, None for a run that failed."""
    found = []
    for candidate in candidates:
        against_full = _differences(values, candidate, candidates=candidates, opponents=full)
        against_compressed = _differences(values, candidate, candidates=candidates, opponents=compressed)
        promise, comparison = _promise(against_full), _comparison(against_compressed)
        goal: Goal = "open"
        if promise == "broken" or comparison == "worse":
            goal = "missed"
        elif promise == "kept" and comparison != "open":
            goal = "reached"
        found.append(
            Verdict(
                candidate=candidate,
                promise=promise,
                comparison=comparison,
                goal=goal,
                full=against_full,
                compressed=against_compressed,
            )
        )
    return found


def gains(
    values: Mapping[str, Sequence[float | None]], opponent: str, candidates: Sequence[str], *, level: float = LEVEL
) -> dict[str, Gain]:
    """Return the gains of the candidates over an opponent, corrected for the number of candidates."""
    rows = [opponent, *candidates]
    matrix = [[FAILED if value is None else value for value in values[row]] for row in rows]
    chosen = list(range(1, len(rows)))
    found = confirm(matrix, published=0, chosen=chosen, searched=[None] * len(rows), maximize=True, level=level)
    kept = {name: found.gains[row] for row, name in enumerate(rows) if row}
    return {name: gain for name, gain in kept.items() if gain is not None}


def _differences(
    values: Mapping[str, Sequence[float | None]], candidate: str, *, candidates: Sequence[str], opponents: Sequence[str]
) -> tuple[Difference, ...]:
    found = []
    for opponent in opponents:
        narrow = gains(values, opponent, candidates)[candidate]
        wide = gains(values, opponent, candidates, level=1 - (1 - LEVEL) / len(opponents))[candidate]
        mean = float(np.mean([FAILED if value is None else value for value in values[opponent]]))
        reach, wide_reach = narrow.corrected, wide.corrected  # None, and so endless, where nothing varies
        found.append(
            Difference(
                opponent=opponent,
                mean=narrow.mean,
                low=-np.inf if reach is None else reach.low,
                high=np.inf if reach is None else reach.high,
                wide_high=np.inf if wide_reach is None else wide_reach.high,
                margin=MARGIN * mean,
            )
        )
    return tuple(found)


def _promise(differences: Sequence[Difference]) -> Promise:
    if all(each.low > -each.margin for each in differences):
        return "kept"
    return "broken" if any(each.wide_high < -each.margin for each in differences) else "open"


def _comparison(differences: Sequence[Difference]) -> Comparison:
    if any(each.wide_high < 0 for each in differences):
        return "worse"
    if all(each.low > 0 for each in differences):
        return "better"
    return "as good" if all(each.low > -each.margin for each in differences) else "open"


def signed(difference: Difference) -> str:
    """Return a difference and its interval as text."""
    return f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Return a row for each candidate and opponent."""
    lines = ["| candidate at T/4 | opponent | mean difference [interval] | margin |", "|---|---|---|---|"]
    for verdict in verdicts:
        lines += [
            f"| {verdict.candidate} | {each.opponent} | {signed(each)} | {each.margin:.4f} |"
            for each in (*verdict.full, *verdict.compressed)
        ]
    lines.append("")
    lines += [
        f"**{verdict.candidate}**: promise {verdict.promise}; compared with the compressed schedules: "
        f"{verdict.comparison}; goal {verdict.goal}."
        for verdict in verdicts
    ]
    return "\n".join(lines)
