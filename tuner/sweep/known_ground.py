"""What the stage store already knows of the runs that a sweep might do."""

from pathlib import Path

from tuner.config.run import RunConfig
from tuner.search.cost_aware import Prospect, lr_profile
from tuner.search.ledger import Ledger
from tuner.stages.forecast import Forecaster
from tuner.stages.store import StageStore
from tuner.stages.tree import Tree
from tuner.stages.trial import plan_of


class KnownGround:
    """Forecasts of runs from the steps that this sweep and others have trained.

    Where a base LR was not tried yet nothing is known of its steps; its losses are then taken to be those of runs at
    the base LR of the sweep's latest trial, to forecast what the schedule will do.
    """

    def __init__(self, store: Path, ledger: Ledger) -> None:
        self._store = StageStore(store)
        self._ledger = ledger
        self._reference = ledger.plan.space.reference_base_lr
        self._forecasters: dict[float, Forecaster] = {}
        self._latest = Forecaster(Tree())

    def refresh(self) -> None:
        """Take in what has been trained since the last time."""
        shelves = {trial.base_lr: trial.shelf for trial in self._ledger.trials() if trial.shelf is not None}
        self._forecasters = {base_lr: Forecaster(self._store.tree(shelf)) for base_lr, shelf in shelves.items()}
        self._latest = next(reversed(self._forecasters.values()), self._latest)

    def prospect(self, config: RunConfig) -> Prospect:
        """Return the share of a run that is left to train, and the LR that it will probably have."""
        forecaster = self._forecasters.get(config.workload.reference_lr, self._latest)
        return prospect_of(config, forecaster, reference=self._reference)


def prospect_of(config: RunConfig, forecaster: Forecaster, *, reference: float) -> Prospect:
    """Return what a forecaster tells the search of a run; `reference` is the base LR that its LRs are counted from."""
    plan = plan_of(config)
    found = forecaster.forecast(plan)
    profile = lr_profile(found.lrs, reference=reference)
    return Prospect(1.0 - found.known / plan.total_steps, profile, claimed=found.claimed)
