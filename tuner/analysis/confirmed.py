"""A confirmation: which settings met which new seeds, and what came out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from tuner.analysis.confirmation import Findings, confirm
from tuner.names import Setting

Role = Literal["published", "chosen", "baseline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A setting that was trained with new seeds.

    `trial` is its number in the sweep, None where it did not run there; trials `same_as` were the same run, step for
    step. `searched` is the value that the search saw, under its own seed.
    """

    role: Role
    name: str
    scheduler: str
    settings: Mapping[str, Setting]
    base_lr: float
    params: Mapping[str, Setting] = field(default_factory=dict)
    trial: int | None = None
    same_as: tuple[int, ...] = ()
    searched: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the runs cost: of `steps` in all, `shared` were known, the others `executed`, some more than once."""

    runs: int
    steps: int
    executed: int
    repeated: int
    shared: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The contenders' values under the new seeds, and what follows from them.

    `contenders` are the published setting first, then those that the search picked, best first, then baselines.
    `values` has a row for each and a column for each of the `seeds`; None is a run that failed, for which `failures`
    has a line. `notes` say what was asked for and could not be.
    """

    sweep: str
    metric: str
    maximize: bool
    steps: int
    search_seed: int
    seeds: tuple[int, ...]
    contenders: tuple[Contender, ...]
    values: tuple[tuple[float | None, ...], ...]
    cost: Cost
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    group_run_id: str | None = None

    @cached_property
    def findings(self) -> Findings:
        """What the values say."""
        return confirm(
            [[math.nan if value is None else value for value in row] for row in self.values],
            published=0,
            chosen=self.chosen,
            searched=[each.searched for each in self.contenders],
            maximize=self.maximize,
        )

    @property
    def chosen(self) -> list[int]:
        """The rows of the settings that the search picked."""
        return [row for row, each in enumerate(self.contenders) if each.role == "chosen"]

    @property
    def best(self) -> int | None:
        """The row to train with: the winner, unless the published setting is as good; None where all failed."""
        winner = self.findings.winner
        if winner is None:
            return None if self.findings.means[0] is None else 0
        return winner.index if winner.gain is None or winner.gain > 0 else 0

    @property
    def best_trial(self) -> int | None:
        """The trial whose setting is to be trained with; None where all failed, or the sweep did not run it."""
        return None if self.best is None else self.contenders[self.best].trial

    @property
    def shown(self) -> bool:
        """Whether the winner is shown to be better than the published setting, after the correction."""
        winner = self.findings.winner
        gain = None if winner is None else self.findings.gains[winner.index]
        return gain is not None and gain.corrected is not None and gain.corrected.low > 0
