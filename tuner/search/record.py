"""What the ledger hands out to be run."""

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.config.run import RunConfig
from tuner.names import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A trial to run: its number, what was drawn, and the whole training run that it stands for.

    `reference`: one of the first trials, which run a scheduler's own default setting. `resumed`: it was handed out
    before and never told, by a sweep that ended early; `run_id` is then what that sweep had noted.
    """

    number: int
    params: Mapping[str, Setting]
    scheduler: str
    settings: Mapping[str, Setting]
    base_lr: float
    config: RunConfig
    reference: bool
    resumed: bool = False
    run_id: str | None = None
