"""A search space as Optuna sees it: which parameters a trial has, their distributions, and all points of a finite one.

With one scheduler the parameters keep their plain names. With several, `scheduler` is a parameter of its own and the
others belong to the scheduler that was drawn: `cosine.final_factor`. `base_lr` is common to all.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, cast

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tuner.config.space_check import values_of, whole
from tuner.config.space_model import Domain, SpaceFile
from tuner.names import Setting

SCHEDULER: Final = "scheduler"
BASE_LR: Final = "base_lr"

Params = Mapping[str, Setting]
"""A trial's searched parameters, by their names in the study."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One searched parameter: its name in the study, the scheduler's setting behind it, and its values."""

    name: str
    setting: str
    domain: Domain
    whole: bool

    def distribution(self) -> BaseDistribution:
        """Return what the sampler draws from: the file's own values."""
        domain = self.domain
        if domain.choices is not None:
            return CategoricalDistribution(domain.choices)
        low, high = domain.ends()
        if self.whole:
            return IntDistribution(int(low), int(high), log=domain.log, step=int(domain.step or 1))
        step = None if domain.step is None else float(domain.step)
        return FloatDistribution(float(low), float(high), log=domain.log, step=step)

    def holds(self, value: Setting) -> bool:
        """Return whether `value` can be drawn."""
        return self.domain.held(value, whole=self.whole) is not None

    def recorded(self, reference: Setting | None) -> BaseDistribution:
        """Return the distribution that the journal keeps: wide enough for the reference value as well.

        Trials of one study must agree about a parameter's values, or Optuna's analyses drop it; what is drawn is still
        `distribution()`.
        """
        mine = self.distribution()
        if reference is None or self.holds(reference):
            return mine
        if isinstance(mine, CategoricalDistribution):
            return CategoricalDistribution((*mine.choices, reference))
        if isinstance(reference, str):
            return mine
        low, high = self.domain.ends()
        low, high = min(low, reference), max(high, reference)
        log = self.domain.log and low > 0
        return IntDistribution(int(low), int(high), log=log) if self.whole else FloatDistribution(low, high, log=log)


def schedulers(space: SpaceFile) -> tuple[str, ...]:
    """Return the schedulers' names in file order."""
    return tuple(entry.name for entry in space.schedulers)


def drawn_scheduler(space: SpaceFile, params: Params) -> str:
    """Return the scheduler of a trial's parameters."""
    return str(params.get(SCHEDULER, space.schedulers[0].name))


def parameters(space: SpaceFile, scheduler: str) -> tuple[Parameter, ...]:
    """Return what is searched where `scheduler` was drawn: the base LR if it is searched, then the scheduler's own."""
    chosen = next(entry for entry in space.schedulers if entry.name == scheduler)
    prefix = f"{scheduler}." if len(space.schedulers) > 1 else ""
    own = tuple(
        Parameter(f"{prefix}{setting}", setting, domain, whole(scheduler, setting))
        for setting, domain in chosen.parameters.items()
    )
    common = (Parameter(BASE_LR, BASE_LR, space.base_lr, whole=False),) if isinstance(space.base_lr, Domain) else ()
    return common + own


def suggest(space: SpaceFile, trial: Trial) -> dict[str, Setting]:
    """Draw one point of the space for an Optuna trial; what the trial was enqueued with is taken as it is."""
    names, params = schedulers(space), dict[str, Setting]()
    if len(names) > 1:
        params[SCHEDULER] = trial.suggest_categorical(SCHEDULER, names)
    for parameter in parameters(space, drawn_scheduler(space, params)):
        params[parameter.name] = _suggest(parameter, trial)
    return params


def _suggest(parameter: Parameter, trial: Trial) -> Setting:
    mine = parameter.distribution()
    if isinstance(mine, IntDistribution):
        return trial.suggest_int(parameter.name, mine.low, mine.high, log=mine.log, step=mine.step)
    if isinstance(mine, FloatDistribution):
        return trial.suggest_float(parameter.name, mine.low, mine.high, log=mine.log, step=mine.step)
    return cast("Setting", trial.suggest_categorical(parameter.name, parameter.domain.choices or ()))


def points(space: SpaceFile) -> Iterator[dict[str, Setting]] | None:
    """Return all points of the space in order, or None where there is no end of them."""
    parts: list[tuple[dict[str, Setting], tuple[str, ...], list[tuple[Setting, ...]]]] = []
    for name in schedulers(space):
        entries, axes = parameters(space, name), list[tuple[Setting, ...]]()
        for entry in entries:
            values = values_of(entry.domain, whole=entry.whole)
            if values is None:
                return None
            axes.append(values)
        chosen: dict[str, Setting] = {SCHEDULER: name} if len(space.schedulers) > 1 else {}
        parts.append((chosen, tuple(entry.name for entry in entries), axes))
    return (
        {**chosen, **dict(zip(names, values, strict=True))}
        for chosen, names, axes in parts
        for values in itertools.product(*axes)
    )
