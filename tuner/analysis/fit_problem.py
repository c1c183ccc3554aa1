"""The problem that a fit solves: points in the space of open settings, and how far each is from the recorded LRs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.analysis.fit_kernels import Target, distance
from tuner.analysis.loss_log import LossLog
from tuner.analysis.lr_rule import LRRule
from tuner.analysis.replay_batch import FactorChanges
from tuner.schedulers import registry
from tuner.schedulers.registry import Schedule, Setting

WINDOWS: Mapping[str, tuple[str, ...]] = {"haar": ("haar_window",), "fastface": ("ema_window", "haar_window")}
"""The detectors that can be fitted, and their windows."""


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate: the free windows and the patience in steps, the threshold, and its distance from the target."""

    windows: tuple[int, ...]
    patience: int
    threshold: float
    cost: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A scheduler, a log, what its LR column says, and the settings that are not to be changed.

    `capped`: the number of recorded decays is all that the schedule is allowed.
    """

    scheduler: str
    log: LossLog
    rule: LRRule
    fixed: Mapping[str, Setting]
    total_steps: int
    delay: int
    capped: bool = False

    @property
    def late(self) -> int:
        """Steps from the loss that decides a change to the first step at the new LR."""
        return 1 + self.delay

    def free(self, name: str) -> bool:
        """Return whether the setting `name` is open, in all of its forms."""
        specs = registry.setting_names(self.scheduler)
        return all(specs[key].group != specs[name].group for key in self.fixed if key in specs)

    def windows(self) -> tuple[str, ...]:
        """Return the names of the windows that are open."""
        return tuple(name for name in WINDOWS[self.scheduler] if self.free(name))

    def settings(self, point: Point) -> dict[str, Setting]:
        """Return the scheduler's settings at `point`, those of the LR column and the fixed ones with it."""
        rule = self.rule
        found: dict[str, Setting] = dict(zip(self.windows(), point.windows, strict=True))
        found |= {"threshold": point.threshold, "patience": point.patience, "decay_factor": rule.decay_factor}
        found["rebound"] = rule.rebound
        if rule.rebound_after is not None:
            found["rebound_after"] = rule.rebound_after
        if rule.floor > 0:
            found["floor"] = rule.floor
        if rule.warmup > 0:
            found["warmup"] = rule.warmup
        limit = registry.defaults(self.scheduler).get("max_decays")
        if self.capped or (isinstance(limit, int) and limit < rule.num_decays):
            found["max_decays"] = rule.num_decays
        return {**{name: value for name, value in found.items() if self.free(name)}, **self.fixed}

    def schedule(self, point: Point) -> Schedule:
        """Return the scheduler at `point`."""
        return registry.resolve(self.scheduler, self.settings(point), total_steps=self.total_steps)

    def places(self) -> NDArray[np.float64]:
        """Return where the LR changed, in steps after the first one: the middle of what the rows leave open."""
        middle = (self.log.steps_between_rows() - 1) / 2
        return np.array([change.step - self.log.first_step - middle for change in self.rule.changes])

    def target(self) -> Target:
        """Return the recorded changes; one that has no partner costs as much as one fortieth of the log in distance."""
        rises = np.array([change.after > change.before for change in self.rule.changes])
        return Target(self.places(), rises, self.log.num_steps / 40)

    def cost(self, changes: FactorChanges, target: Target) -> float:
        """Return the distance of a replay's changes from the target; many more than recorded are not counted out."""
        start = int(np.searchsorted(changes.places, self.rule.warmup, side="right"))
        end = start + 2 * len(target.places) + 8
        before = np.concatenate([[changes.first], changes.factors[:-1]])[start:end]
        places, factors = changes.places[start:end].astype(np.float64), changes.factors[start:end]
        if len(places) > 0 and self.log.lr is not None:
            seen = self.log.lr.visible(self.rule.base_lr * float(before[0]), (self.rule.base_lr * factors).tolist())
            places, before, factors = places[seen], before[seen], factors[seen]
        return float(distance(places, factors > before, target))
