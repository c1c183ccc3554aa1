"""Samplers by name, each suggestion a function of (seed, trial number, history) and of nothing else.

Optuna's samplers carry state from trial to trial: a random stream, CMA-ES its optimiser, the GP its last fit. A sweep
that goes on in a fresh process would suggest other trials than one that ran through. So each trial gets a fresh
sampler, seeded from (seed, number), over an in-memory study that follows the ledger's trials. CMA-ES keeps its
optimiser as a pickle among the trials of its study; here that pickle never leaves the process: a fresh one replays the
trials, and no file is ever unpickled.

Where several trials run side by side, the study has those that run as running: TPE and the GP keep away from them, the
others do not ask. What is drawn then depends on which trials have ended, but for a random search and a grid.

Pruning has no place here. Trials share every step before their first decay, and right after it whoever decayed first
looks best ("short-horizon bias", Wu et al., ICLR 2018): judging a trial by its beginning favours early decays.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import optuna
from optuna import Trial
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from tuner.config.space_check import MAX_GRID_POINTS
from tuner.config.space_model import SamplerName, SpaceFile
from tuner.names import Setting
from tuner.search.cost_aware import CANDIDATES, FEWEST_TRIALS, Forecast, Prospect, choose
from tuner.search.quiet import quiet
from tuner.search.space import Params, points, suggest

REDRAWS: Final = 20
"""How often at most a refused suggestion is drawn again."""
RANDOM_TRIALS: Final = 10
"""After how many trials TPE draws from its model of them, where it is alone; Optuna's default."""


@dataclass(frozen=True, slots=True)
class Past:
    """A trial as a sampler sees it.

    `params` is None where it lies outside the space (a reference whose setting the space cannot reach); `value` is None
    where it failed, or is `running`. `drawn`: it belongs to the sampler's own trials, among which a setting that the
    space wants tried first takes the place of one drawn; a reference does not. `prospect`, for the cost-aware search,
    is what the run has turned out to be, or while it runs promises to be.
    """

    number: int
    params: Params | None
    value: float | None
    drawn: bool
    prospect: Prospect | None = None
    running: bool = False


class Suggester:
    """Draws the parameters of trial after trial; a fresh one with the same history draws the same."""

    def __init__(self, space: SpaceFile, *, sampler: SamplerName, seed: int) -> None:
        self._space = space
        self._sampler: SamplerName = sampler
        self._seed = seed
        self._points = _shuffled(space, seed=seed)
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Forget all trials; the next draw takes them in again."""
        with quiet():
            self._study = optuna.create_study(direction="maximize" if self._space.objective.maximize else "minimize")
        # Replaying makes no draws, so one sampler serves all trials; what it caches makes it linear in their number.
        replays = self._sampler == "cmaes"
        self._replayer = _fresh(self._sampler, seed=self._seed, space=self._space) if replays else RandomSampler()
        self._seen = 0
        self._unsettled = False
        self._open: tuple[Trial, dict[str, Setting]] | None = None

    def draw(
        self,
        number: int,
        history: Sequence[Past],
        *,
        refused: Callable[[Params], bool] | None = None,
        forecast: Forecast | None = None,
        spent: float = 0.0,
    ) -> dict[str, Setting] | None:
        """Return the parameters of trial `number`, after the trials 0 .. number - 1, finished or running.

        With a `forecast` the sampler's own suggestion is one of several candidates, among which those win that promise
        much for the steps that they still cost, see `tuner.search.cost_aware`; `spent` is the share of the sweep's
        budget that is spent.

        None where the space is finite and each of its points has been tried: the search is over. Asked again with
        the same number, the answer is the same. Parameters that are `refused`, such as those of a run that failed
        before, which a sampler may come back to for ever, are drawn again at random, if others can be found.
        """
        if number != len(history):
            raise ValueError(f"trial {number} needs the {number} trials before it, but got {len(history)}")
        rest = self._untried(history)
        if rest is not None and (not rest or self._sampler == "grid"):
            return rest[0] if rest else None
        unsettled = any(past.running for past in history)
        if unsettled or self._unsettled:  # what a trial that runs will give, the study cannot take in later
            self._begin_anew()
            self._unsettled = unsettled
        with quiet():
            for past in history[self._seen :]:
                self._observe(past)
            if self._open is None:
                seed, thrifty = trial_seed(self._seed, number), forecast is not None
                sampler = _fresh(self._sampler, seed=seed, space=self._space, thrifty=thrifty)
                if forecast is not None:
                    self._study.enqueue_trial(self._thrifty(sampler, history, forecast=forecast, spent=spent))
                trial = self._begin(sampler)
                self._open = trial, suggest(self._space, trial)
        params = self._open[1]
        if refused is None or not refused(params):
            return params
        other = next((each for each in self._others(number, rest) if not refused(each)), None)
        if other is None:
            return params
        self._begin_anew()  # the study has the refused one
        return other

    def exhausted(self, history: Sequence[Past]) -> bool:
        """Return whether each point of the space has been tried, so that there is nothing left to draw."""
        return self._untried(history) == []

    def _others(self, number: int, rest: Sequence[dict[str, Setting]] | None) -> Iterator[dict[str, Setting]]:
        """Yield random points of the space in place of the sampler's, untried ones where those can be counted."""
        if rest is not None:
            yield from rest
            return
        for redraw in range(1, REDRAWS + 1):
            with quiet():
                sampler = RandomSampler(seed=trial_seed(self._seed, number, redraw))
                params = suggest(self._space, optuna.create_study(sampler=sampler).ask())
            yield params

    def _thrifty(
        self, sampler: BaseSampler, history: Sequence[Past], *, forecast: Forecast, spent: float
    ) -> dict[str, Setting]:
        """Return the best of the candidates that the sampler draws; half of them are drawn at random.

        A sampler that has learnt proposes much the same again and again, and the model of `choose` knows more than it.
        """
        candidates = []
        for index in range(CANDIDATES):
            if index == CANDIDATES // 2:
                sampler = RandomSampler(seed=trial_seed(self._seed, len(history)))
            trial = self._begin(sampler)
            candidates.append(suggest(self._space, trial))
            self._study.tell(trial, state=TrialState.FAIL)  # no sampler that is allowed here learns from failures
        sign = 1.0 if self._space.objective.maximize else -1.0
        known = [
            (past.prospect, sign * past.value)
            for past in history
            if past.value is not None and past.prospect is not None
        ]
        # Those that run count as bad as the worst until they end, so that the next one looks elsewhere.
        if known:
            worst = min(value for _, value in known)
            known += [(past.prospect, worst) for past in history if past.running and past.prospect is not None]
        return candidates[choose([forecast(params) for params in candidates], known, spent=spent)]

    def _untried(self, history: Sequence[Past]) -> list[dict[str, Setting]] | None:
        """Return the points not tried yet in an order that the seed decides; None where there is no end of them."""
        if self._points is None:
            return None
        tried = {_key(past.params) for past in history if past.params is not None}
        return [point for point in self._points if _key(point) not in tried]

    def _observe(self, past: Past) -> None:
        """Bring the study past one trial, whether its suggestion was made here or in an earlier process."""
        if self._open is None:
            if past.params is not None:
                self._study.enqueue_trial(dict(past.params))
            trial = self._begin(self._replayer if past.drawn else RandomSampler())
            if past.params is not None:
                suggest(self._space, trial)
        else:
            trial = self._open[0]
        if past.running:
            pass  # the study has it as running
        elif past.value is None or past.params is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, past.value)
        self._open, self._seen = None, self._seen + 1

    def _begin(self, sampler: BaseSampler) -> Trial:
        self._study.sampler = sampler
        trial = self._study.ask()
        if isinstance(sampler, CmaEsSampler):
            # What makes CMA-ES update its optimiser; an enqueued trial has all its values and would not ask.
            _ = trial.relative_params
        return trial


def trial_seed(seed: int, number: int, *redraw: int) -> int:
    """Return the 32-bit seed of one trial's sampler; far apart for neighbours in any argument."""
    return int(np.random.SeedSequence([seed, number, *redraw]).generate_state(1)[0])


def _key(params: Params) -> tuple[tuple[str, Setting], ...]:
    return tuple(sorted(params.items()))


def _shuffled(space: SpaceFile, *, seed: int) -> list[dict[str, Setting]] | None:
    """Return the points of a finite space in random order, so that a grid cut short has been everywhere a little."""
    every = points(space)
    if every is None:
        return None
    known = list(itertools.islice(every, MAX_GRID_POINTS + 1))
    if len(known) > MAX_GRID_POINTS:
        return None  # endless for any sweep, and refused for the grid sampler
    return [known[index] for index in np.random.default_rng(seed).permutation(len(known))]


def _fresh(name: SamplerName, *, seed: int, space: SpaceFile, thrifty: bool = False) -> BaseSampler:
    """Return a new sampler; a `thrifty` one draws candidates for a cost-aware search, beside random ones."""
    if name == "tpe":
        # `group` models each scheduler's own parameters together; without several schedulers it changes nothing.
        group, start = len(space.schedulers) > 1, FEWEST_TRIALS if thrifty else RANDOM_TRIALS
        return TPESampler(seed=seed, multivariate=True, group=group, n_startup_trials=start)
    if name == "cmaes":
        return CmaEsSampler(seed=seed, warn_independent_sampling=False)
    if name == "gp":
        return GPSampler(seed=seed, warn_independent_sampling=False)
    return RandomSampler(seed=seed)
