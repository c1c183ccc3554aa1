"""What a scheduler is made of: its settings, and the pure functions from them to LR factors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuner.schedulers.settings import Setting, SettingSpec

State = tuple[Any, ...]
"""The state of some schedule; opaque outside its own module."""


def _no_value(params: Any, state: State) -> None:  # noqa: ARG001
    return None


def _as_it_is(params: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG001
    return values


def _no_reach(params: Any) -> float:  # noqa: ARG001
    return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The functions of one scheduler: from settings to parameters, and from parameters to behaviour.

    `fields` name the values that `pack` makes of a state and `unpack` takes back. `reach` is the detector's response to
    a loss that falls by 1 per step.
    """

    specs: tuple[SettingSpec, ...]
    resolve: Callable[[Mapping[str, Setting], int], Any]
    start: Callable[[Any], tuple[Any, float]]
    advance: Callable[[Any, Any, float], tuple[Any, float]]
    fields: Mapping[str, type]
    reads_loss: bool = True
    response: Callable[[Any, Any], float | None] = _no_value
    threshold: Callable[[Any, Any], float | None] = _no_value
    reach: Callable[[Any], float] = _no_reach
    pack: Callable[[Any, Any], tuple[Any, ...]] = _as_it_is
    unpack: Callable[[Any, tuple[Any, ...]], Any] = _as_it_is
