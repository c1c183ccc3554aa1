"""All schedulers by name: their settings, and one interface to their pure functions.

A schedule is a pure function of the losses seen so far: `start` gives the state before the first loss and the LR factor
of step 0, `advance` takes the loss of the newest step and gives the next state and the factor of the next step. The LR
of a step is `base_lr * factor`. States are immutable: one can be kept, advanced twice, dumped as JSON and loaded again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tuner.errors import UserError
from tuner.schedulers import fastface, fixed, haar, plateau
from tuner.schedulers.cooldown import cooled
from tuner.schedulers.family import Family, State
from tuner.schedulers.settings import Setting, SettingSpec, check_settings, unknown_name
from tuner.schedulers.state import dump_state, load_state

__all__ = [
    "FAMILIES",
    "Family",
    "Schedule",
    "Setting",
    "SettingSpec",
    "State",
    "defaults",
    "names",
    "resolve",
    "setting_names",
]


def _fixed(
    specs: tuple[SettingSpec, ...], resolve: Callable[[Mapping[str, Setting], int], fixed.FixedParams]
) -> Family:
    return Family(
        specs=specs,
        resolve=resolve,
        start=fixed.start,
        advance=fixed.advance,
        fields=fixed.FIELDS,
        reads_loss=False,
    )


_FASTFACE = Family(
    specs=fastface.SPECS,
    resolve=fastface.resolve,
    start=fastface.start,
    advance=fastface.advance,
    fields=fastface.FIELDS,
    response=fastface.response,
    threshold=fastface.threshold,
    reach=fastface.reach,
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "fastface": _FASTFACE,
        "fastface_cooldown": cooled(_FASTFACE),
        "haar": Family(
            specs=haar.SPECS,
            resolve=haar.resolve,
            start=haar.start,
            advance=haar.advance,
            fields=haar.FIELDS,
            response=haar.response,
            threshold=haar.threshold,
            reach=haar.reach,
            pack=haar.pack,
            unpack=haar.unpack,
        ),
        "constant": _fixed(fixed.CONSTANT_SPECS, fixed.resolve_constant),
        "multi_step": _fixed(fixed.MULTI_STEP_SPECS, fixed.resolve_multi_step),
        "cosine": _fixed(fixed.COSINE_SPECS, fixed.resolve_cosine),
        "polynomial": _fixed(fixed.POLYNOMIAL_SPECS, fixed.resolve_polynomial),
        "plateau": Family(
            specs=plateau.SPECS,
            resolve=plateau.resolve,
            start=plateau.start,
            advance=plateau.advance,
            fields=plateau.FIELDS,
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A scheduler with its parameters resolved for a run of `total_steps`; pure, see the module's docstring."""

    name: str
    params: Any
    total_steps: int
    family: Family = field(repr=False, compare=False)

    @property
    def reads_loss(self) -> bool:
        """Whether the LR depends on the losses; where not, any number may stand for them."""
        return self.family.reads_loss

    def start(self) -> tuple[State, float]:
        """Return the state before the first loss and the LR factor of step 0."""
        return self.family.start(self.params)

    def advance(self, state: State, loss: float) -> tuple[State, float]:
        """Return the state after the newest step's `loss`, and the LR factor of the next step.

        Raises `DivergedError` for a NaN or infinite loss where the schedule reads it.
        """
        return self.family.advance(self.params, state, loss)

    def response(self, state: State) -> float | None:
        """Return the detector's response to the newest loss; None before the first decision and without a detector."""
        return self.family.response(self.params, state)

    def threshold(self, state: State) -> float | None:
        """Return what the response is compared with, in its unit; None before the first loss and without a detector."""
        return self.family.threshold(self.params, state)

    def dump(self, state: State) -> dict[str, Any]:
        """Return the state as JSON-like data from which `load` restores it bit for bit."""
        return dump_state(self.name, self.family.fields, self.family.pack(self.params, state))

    def load(self, dumped: Mapping[str, Any]) -> State:
        """Return the state that `dump` wrote; raise `UserError` where it is damaged or of another scheduler."""
        loaded: State = self.family.unpack(self.params, load_state(self.name, self.family.fields, dumped))
        return loaded


def resolve(name: str, settings: Mapping[str, Setting], *, total_steps: int) -> Schedule:
    """Return the scheduler `name` with `settings`, completed by its defaults, for a run of `total_steps` >= 1.

    Raises `UserError` for an unknown name or key, a value out of range, and two forms of one setting.
    """
    if name not in FAMILIES:
        raise unknown_name(name, FAMILIES)
    if total_steps < 1:
        raise UserError(f"`total_steps >= 1` must hold, but got {total_steps}; give the number of steps of the run")
    family = FAMILIES[name]
    values = check_settings(name, family.specs, settings)
    return Schedule(name, family.resolve(values, total_steps), total_steps, family)


def names() -> tuple[str, ...]:
    """Return the names that `resolve` knows."""
    return tuple(FAMILIES)


def setting_names(name: str) -> Mapping[str, SettingSpec]:
    """Return the settings of the scheduler `name`, each form an entry with kind, meaning, range and default."""
    if name not in FAMILIES:
        raise unknown_name(name, FAMILIES)
    return {spec.name: spec for spec in FAMILIES[name].specs}


def defaults(name: str) -> dict[str, Setting]:
    """Return the published settings of the scheduler `name`, scale-free where there is such a form."""
    return {key: spec.default for key, spec in setting_names(name).items() if spec.default is not None}
