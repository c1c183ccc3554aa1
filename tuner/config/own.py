"""A workload that is not the built-in faces: its name, what its author lets people set, and what its code declares."""

from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import AfterValidator, Field, JsonValue

from tuner.config.strict import PositiveFloat, PositiveInt, Strict
from tuner.names import METRIC_FINAL_LOSS
from tuner.workload import Direction

BUILT_IN: Final[Mapping[str, str]] = {"classification": "tuner.training.classification:ImageClassification"}
"""Workloads that come with the tool besides the faces: the class of each name."""


def _name(name: str) -> str:
    if name in BUILT_IN:
        return name
    module, colon, attribute = name.partition(":")
    if not colon or not attribute.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"a workload must be named as `package.module:Class`, or be {' or '.join(BUILT_IN)}")
    return name


class Declared(Strict):
    """What the class of a workload says of itself: metrics with the better direction, and its usual base LR."""

    metrics: dict[str, Direction]
    base_lr: PositiveFloat


class OwnConfig(Strict):
    """A workload of one's own, see `tuner.workload`.

    `settings` are checked by the class's `Settings`; `base_lr` None takes the class's. `evaluations` are spread evenly
    over the run, the last at its end. `deterministic` off allows kernels of a GPU that give other last bits each time.
    `declared` is filled in where the class is found, so that a sweep's records can be read without its code.
    """

    name: Annotated[str, AfterValidator(_name)]
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    base_lr: PositiveFloat | None = None
    evaluations: PositiveInt = 4
    deterministic: Annotated[bool, Field(exclude_if=bool)] = True
    declared: Declared | None = None

    @property
    def is_built_in(self) -> bool:
        """Whether it comes with the tool."""
        return self.name in BUILT_IN

    @property
    def reference_lr(self) -> float:
        """The base LR where no scheduler space searches it."""
        if self.base_lr is not None:
            return self.base_lr
        if self.declared is None:
            raise ValueError(f"the class of {self.name} was not looked up")
        return self.declared.base_lr

    @property
    def given_lr(self) -> float | None:
        """The base LR, where it was written out."""
        return self.base_lr

    @property
    def metrics(self) -> dict[str, Direction]:
        """What a trial can be judged by, the usual one first, with the better direction; empty: not looked up yet."""
        return {} if self.declared is None else {**self.declared.metrics, METRIC_FINAL_LOSS: "minimize"}

    @property
    def batch_size(self) -> int | None:
        """How many samples a step takes, where there is a setting of this name."""
        found = self.settings.get("batch_size")
        return found if isinstance(found, int) else None

    @property
    def source(self) -> str:
        """Where the data is, as far as a setting says it."""
        found = self.settings.get("data")
        return found if isinstance(found, str) else self.name

    @property
    def inputs(self) -> str:
        """What decides the losses besides the settings, in words."""
        return f"the code or the data of {self.name}"

    def at_lr(self, base_lr: float) -> "OwnConfig":
        """Return the same at another base LR."""
        return self.model_copy(update={"base_lr": base_lr})

    def from_source(self, source: str) -> "OwnConfig":
        """Return the same on other data."""
        return self.model_copy(update={"settings": {**self.settings, "data": source}})
