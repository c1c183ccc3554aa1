"""What the ledger writes about a trial among the attributes of Optuna's, and what it reads back."""

from collections.abc import Mapping
from typing import Any, Final

from optuna.trial import FrozenTrial, TrialState

from tuner.search.plan import Assignment, Plan, run_config
from tuner.search.record import Suggestion
from tuner.trials import RecordState, TrialRecord

RUN: Final = "run"
RESULT: Final = "result"
RUN_ID: Final = "run_id"
MIRRORED: Final = "mirrored"
STINT: Final = "stint"
"""Since when an interrupted trial goes on, and the seconds that it ran before."""
STATES: Final[Mapping[TrialState, RecordState]] = {
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETE: "COMPLETE",
    TrialState.FAIL: "FAIL",
}


def assigned(trial: FrozenTrial) -> Assignment:
    """Return what a trial's parameters stand for."""
    run = trial.user_attrs[RUN]
    return Assignment(run["scheduler"], run["settings"], run["base_lr"])


def suggestion_of(trial: FrozenTrial, plan: Plan, *, resumed: bool) -> Suggestion:
    """Return a trial as it is handed out to be run."""
    chosen = assigned(trial)
    return Suggestion(
        number=trial.number,
        params=dict(trial.params),
        scheduler=chosen.scheduler,
        settings=chosen.settings,
        base_lr=chosen.base_lr,
        config=run_config(plan, chosen),
        reference=trial.user_attrs[RUN]["reference"],
        resumed=resumed,
        run_id=trial.user_attrs.get(RUN_ID),
    )


def record_of(trial: FrozenTrial, notes: Mapping[str, Any]) -> TrialRecord:
    """Return what is known of a trial; `notes` are the study's attributes, which say more of those that have ended."""
    result = {key: entry for key, entry in trial.user_attrs.get(RESULT, {}).items() if key != "value"}
    return TrialRecord(
        number=trial.number,
        state=STATES[trial.state],
        value=trial.value,
        params=dict(trial.params),
        **trial.user_attrs[RUN],
        run_id=notes.get(f"{RUN_ID}:{trial.number}", trial.user_attrs.get(RUN_ID)),
        mirrored=notes.get(f"{MIRRORED}:{trial.number}", False),
        begun=0.0 if trial.datetime_start is None else trial.datetime_start.timestamp(),
        ended=None if trial.datetime_complete is None else trial.datetime_complete.timestamp(),
        **result,
    )
