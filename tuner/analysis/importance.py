"""Which parameters mattered: PED-ANOVA as Optuna computes it, and how much that rests on the trials that were drawn.

PED-ANOVA compares where the best tenth of the trials lie with where all lie: a parameter is important where the best
ones gather. The shares sum to 1. The interval is that of a bootstrap: the sweep's trials are drawn anew, with
replacement, and the shares computed again.

Reference: PED-ANOVA, IJCAI 2023 (arXiv 2304.10255); for parameters of one of several schedulers its conditional form.
"""

import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

RESAMPLES: Final = 100
FEWEST_TRIALS: Final = 8
"""With fewer, the best tenth is a single trial, which says nothing about where good ones gather."""
COVERAGE: Final = 0.9


@dataclass(frozen=True, slots=True)
class Importance:
    """A parameter's share of the importance, 0 to 1, and the interval that holds 90 % of the resampled ones."""

    name: str
    share: float
    low: float
    high: float


def importances(study: optuna.Study, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Importance]:
    """Return the importance of each searched parameter, the largest first; the shares are Optuna's own.

    Empty where the question has no answer: fewer than `FEWEST_TRIALS` finished trials, values that are all equal,
    nothing that was varied, or best trials that lie where all lie.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(trials) < FEWEST_TRIALS or len({trial.value for trial in trials}) < 2:
        return []
    shares = _shares(study)
    if len(shares) > 1 and len(set(shares.values())) == 1:
        return []  # what Optuna says where it found nothing: all parameters the same
    chance = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in shares}
    for _ in range(resamples):
        again = _shares(_resampled(study, [trials[i] for i in chance.integers(len(trials), size=len(trials))]))
        for name in shares:
            drawn[name].append(again.get(name, 0.0))
    ends = (50 * (1 - COVERAGE), 50 * (1 + COVERAGE))
    found = [
        Importance(name, share, *(float(end) for end in np.percentile(drawn[name] or [share], ends)))
        for name, share in shares.items()
    ]
    return sorted(found, key=lambda each: (-each.share, each.name))


def _shares(study: optuna.Study) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about few trials, which the interval shows
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())


def _resampled(study: optuna.Study, trials: list[FrozenTrial]) -> optuna.Study:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        again = optuna.create_study(direction=study.direction)
    finally:
        optuna.logging.set_verbosity(level)
    again.add_trials(trials)
    return again
