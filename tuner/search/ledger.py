"""The ledger of a sweep: an Optuna study in a journal file, the one record of its trials that everything else follows.

A suggestion is one line of the journal and a result two, the second of which only closes the trial; each line is
synced before the next. So a sweep killed anywhere leaves every trial not begun, running with its parameters, or
finished: `ask` hands a running one out again, and opening the ledger closes one whose result was already written.

One trial runs at a time. The journal is an ordinary Optuna study named "sweep", so Optuna's own tools read it.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from optuna.storages import JournalStorage
from optuna.study import Study, StudyDirection, load_study
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuner.config.run import RunConfig
from tuner.errors import UserError
from tuner.files import sync_folder
from tuner.names import Setting
from tuner.search.cost_aware import Prospect
from tuner.search.journal import create_journal, cut_unfinished_line, open_journal
from tuner.search.plan import (
    Assignment,
    First,
    Plan,
    assignment,
    first_trials,
    in_space,
    recorded_distributions,
    references,
    run_config,
    run_key,
)
from tuner.search.quiet import quiet
from tuner.search.record import Suggestion
from tuner.search.recorded_plan import PLAN, STUDY_NAME, plan_record, read_plan
from tuner.search.samplers import Past, Suggester
from tuner.search.space import Params
from tuner.trials import RecordState, TrialRecord

_RUN: Final = "run"
_RESULT: Final = "result"
_RUN_ID: Final = "run_id"
_MIRRORED: Final = "mirrored"
_STINT: Final = "stint"
"""Since when an interrupted trial goes on, and the seconds that it ran before."""
_STATES: Final[Mapping[TrialState, RecordState]] = {
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETE: "COMPLETE",
    TrialState.FAIL: "FAIL",
}


class Ledger:
    """A sweep's trials, on disk; made by `create` or `open`.

    `mended` says, a line each, what opening had to put right after a sweep that was killed.
    """

    def __init__(self, path: Path, storage: JournalStorage, plan: Plan, *, read_only: bool) -> None:
        self.path = path
        self.plan = plan
        self.mended: tuple[str, ...] = ()
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(STUDY_NAME)
        self._read_only = read_only
        self._prospects: dict[int, Prospect] = {}

    @classmethod
    def create(cls, path: Path, *, plan: Plan) -> Self:
        """Begin the ledger of a new sweep; the file appears whole or not at all.

        Raises:
            UserError: the file exists, or its folder cannot be written.
        """
        if path.exists():
            raise UserError(f"{path}: a sweep exists there; choose another name")
        draft = path.with_name(path.name + ".new")
        draft.unlink(missing_ok=True)
        storage = create_journal(draft)
        direction = StudyDirection.MAXIMIZE if plan.space.objective.maximize else StudyDirection.MINIMIZE
        with quiet():
            study_id = storage.create_new_study([direction], STUDY_NAME)
        storage.set_study_user_attr(study_id, PLAN, plan_record(plan))
        draft.replace(path)
        sync_folder(path.parent)
        return cls(path, open_journal(path), plan, read_only=False)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Self:
        """Open the ledger of a sweep; with `read_only`, one that another process may be writing.

        Raises:
            UserError: no such file, damaged, or not a sweep's.
        """
        storage = open_journal(path)
        ledger = cls(path, storage, read_plan(path, storage), read_only=read_only)
        ledger._check_trials()
        if not read_only:
            cut = cut_unfinished_line(path)
            lines = [f"{path}: cut {cut} bytes of an unfinished last record"] if cut else []
            ledger.mended = (*lines, *ledger._close_told_trials())
        return ledger

    def ask(self, *, forecast: Callable[[RunConfig], Prospect] | None = None, spent: float = 0.0) -> Suggestion | None:
        """Return the trial to run next: a running one again until it is told, then a new one.

        With a `forecast` of what runs cost and do, the search is cost-aware; `spent` is the share of the sweep's budget
        that is spent. None where a finite space has no untried point left.
        """
        self._check_writable()
        trials = self._trials()
        running = next((trial for trial in trials if trial.state == TrialState.RUNNING), None)
        if running is not None:
            return self._suggestion(running, resumed=True)
        number, reference = len(trials), False
        if number < len(self._firsts):
            first = self._firsts[number]
            params, chosen, reference = first.params, first.chosen, first.reference
        else:
            failed = {trial.user_attrs[_RUN]["key"] for trial in trials if trial.state == TrialState.FAIL}
            drawn = self._suggester.draw(
                number,
                [self._past(trial, forecast) for trial in trials],
                refused=lambda params: run_key(self._run_of(params)) in failed,
                forecast=None if forecast is None else lambda params: forecast(self._run_of(params)),
                spent=spent,
            )
            if drawn is None:
                return None
            params, chosen = drawn, assignment(self.plan, drawn)
        return self._suggestion(self._begin(params, chosen, reference=reference), resumed=False)

    def tell(
        self,
        number: int,
        *,
        value: float | None = None,
        reason: str | None = None,
        metrics: Mapping[str, float] | None = None,
        steps_executed: int = 0,
        steps_repeated: int = 0,
        steps_shared: int = 0,
        shared_with: Mapping[str, int] | None = None,
        shelf: str | None = None,
        deterministic: bool = True,
        seconds: float = 0.0,
        duplicate_of: int | None = None,
    ) -> TrialRecord:
        """Finish a running trial: COMPLETE with `value`, or FAIL for `reason`; a value that is not finite is a FAIL."""
        self._check_writable()
        if value is not None and not math.isfinite(value):
            value, reason = None, reason or f"the value must be finite, but is {value}"
        if (value is None) == (reason is None):
            raise ValueError(f"either a value or a reason must be told, but got {value} and {reason!r}")
        trial = self._trial(number)
        if trial.state != TrialState.RUNNING:
            raise ValueError(f"only a running trial can be told, but trial {number} is {trial.state.name}")
        result = {
            "value": value,
            "reason": reason,
            "metrics": dict(metrics or {}),
            "steps_executed": steps_executed,
            "steps_repeated": steps_repeated,
            "steps_shared": steps_shared,
            "shared_with": dict(shared_with or {}),
            "shelf": shelf,
            "seconds": seconds,
            "duplicate_of": duplicate_of,
            **({} if deterministic else {"deterministic": False}),
        }
        self._storage.set_trial_user_attr(self._id(number), _RESULT, result)
        self._close(self._trial(number))
        return self._record(self._trial(number), self._notes())

    def annotate(self, number: int, *, run_id: str) -> None:
        """Note the tracking server's id of a trial's run; it may change, also after the trial has ended."""
        self._check_writable()
        if self._trial(number).state == TrialState.RUNNING:
            self._storage.set_trial_user_attr(self._id(number), _RUN_ID, run_id)
        else:  # Optuna leaves finished trials alone
            self._storage.set_study_user_attr(self._study_id, f"{_RUN_ID}:{number}", run_id)

    def mark_mirrored(self, number: int) -> None:
        """Note that all of a finished trial has been sent to the tracking server."""
        self._check_writable()
        self._storage.set_study_user_attr(self._study_id, f"{_MIRRORED}:{number}", True)

    def trial(self, number: int) -> TrialRecord:
        """Return one trial."""
        return self._record(self._trial(number), self._notes())

    def exhausted(self) -> bool:
        """Return whether each point of a finite space has been tried, so that there is no other trial to run."""
        trials = self._trials()
        begun = len(trials) >= len(self._firsts)
        return begun and self._suggester.exhausted([self._past(trial, None) for trial in trials])

    def take_up(self, number: int, *, last_seen: float) -> float:
        """Note that a running trial goes on from now; return the seconds that it ran before.

        `last_seen` is when it was last seen at work, in seconds since 1970.
        """
        self._check_writable()
        trial = self._trial(number)
        began = 0.0 if trial.datetime_start is None else trial.datetime_start.timestamp()
        since, seconds = trial.user_attrs.get(_STINT, (began, 0.0))
        seconds += max(0.0, last_seen - since)
        self._storage.set_trial_user_attr(self._id(number), _STINT, [time.time(), seconds])
        return float(seconds)

    def trials(self) -> list[TrialRecord]:
        """Return all trials by number."""
        notes = self._notes()
        return [self._record(trial, notes) for trial in self._trials()]

    def study(self) -> Study:
        """Return the sweep as an Optuna study, to be read by Optuna's own functions."""
        return load_study(study_name=STUDY_NAME, storage=self._storage)

    @property
    def num_finished(self) -> int:
        """The number of trials that have ended, well or not."""
        return sum(trial.state != TrialState.RUNNING for trial in self._trials())

    def best(self) -> TrialRecord | None:
        """Return the trial with the best value, the earliest of equals; None where none is COMPLETE."""
        sign = -1.0 if self.plan.space.objective.maximize else 1.0
        ranked = [(sign * trial.value, trial.number, trial) for trial in self.trials() if trial.value is not None]
        return min(ranked)[2] if ranked else None

    def twin(self, number: int) -> TrialRecord | None:
        """Return the earliest finished trial whose run is the same as trial `number`'s, step for step; None: none."""
        key = self._trial(number).user_attrs[_RUN]["key"]
        return next((trial for trial in self._finished() if trial.key == key and trial.number != number), None)

    def _run_of(self, params: Params) -> RunConfig:
        return run_config(self.plan, assignment(self.plan, params))

    @cached_property
    def _suggester(self) -> Suggester:
        return Suggester(self.plan.space, sampler=self.plan.sampler, seed=self.plan.seed)

    @cached_property
    def _firsts(self) -> tuple[First, ...]:
        return first_trials(self.plan)

    @cached_property
    def _learnable(self) -> Mapping[str, bool]:
        """Whether the samplers may learn from a scheduler's reference, by scheduler."""
        return {first.scheduler: in_space(self.plan, first.scheduler) for first in references(self.plan)}

    def _finished(self) -> list[TrialRecord]:
        return [trial for trial in self.trials() if trial.state != "RUNNING"]

    def _check_trials(self) -> None:
        for trial in self._trials():
            if trial.state not in _STATES or _RUN not in trial.user_attrs:
                raise UserError(
                    f"{self.path}: trial {trial.number} was not made by this tool; restore the file from a copy"
                )

    def _check_writable(self) -> None:
        if self._read_only:
            raise ValueError(f"{self.path} is open for reading only")

    def _trials(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._study_id, deepcopy=False)

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _trial(self, number: int) -> FrozenTrial:
        trials = self._trials()
        if not 0 <= number < len(trials):
            raise ValueError(f"trial {number} does not exist; there are {len(trials)}")
        return trials[number]

    def _begin(self, params: Mapping[str, Setting], chosen: Assignment, *, reference: bool) -> FrozenTrial:
        """Write a new running trial, parameters included, as one record."""
        run = {**asdict(chosen), "reference": reference, "key": run_key(run_config(self.plan, chosen))}
        template = create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions=recorded_distributions(self.plan, params),
            user_attrs={_RUN: run},
        )
        self._storage.create_new_trial(self._study_id, template)
        return self._trials()[-1]

    def _close(self, trial: FrozenTrial) -> None:
        """Give a trial whose result is written its final state."""
        value = trial.user_attrs[_RESULT]["value"]
        if value is None:
            self._storage.set_trial_state_values(self._id(trial.number), TrialState.FAIL)
        else:
            self._storage.set_trial_state_values(self._id(trial.number), TrialState.COMPLETE, [value])

    def _close_told_trials(self) -> list[str]:
        told = [trial for trial in self._trials() if trial.state == TrialState.RUNNING and _RESULT in trial.user_attrs]
        for trial in told:
            self._close(trial)
        return [f"trial {trial.number}: its result was written but not its end; closed it" for trial in told]

    def _past(self, trial: FrozenTrial, forecast: Callable[[RunConfig], Prospect] | None) -> Past:
        run = trial.user_attrs[_RUN]
        reachable = not run["reference"] or self._learnable[run["scheduler"]]
        if forecast is not None and trial.value is not None and trial.number not in self._prospects:
            self._prospects[trial.number] = forecast(run_config(self.plan, _assigned(trial)))
        return Past(
            trial.number,
            trial.params if reachable else None,
            trial.value,
            drawn=not run["reference"],
            prospect=self._prospects.get(trial.number),
        )

    def _suggestion(self, trial: FrozenTrial, *, resumed: bool) -> Suggestion:
        run = trial.user_attrs[_RUN]
        chosen = _assigned(trial)
        return Suggestion(
            number=trial.number,
            params=dict(trial.params),
            scheduler=chosen.scheduler,
            settings=chosen.settings,
            base_lr=chosen.base_lr,
            config=run_config(self.plan, chosen),
            reference=run["reference"],
            resumed=resumed,
            run_id=trial.user_attrs.get(_RUN_ID),
        )

    def _notes(self) -> Mapping[str, Any]:
        return self._storage.get_study_user_attrs(self._study_id)

    def _record(self, trial: FrozenTrial, notes: Mapping[str, Any]) -> TrialRecord:
        result = {key: entry for key, entry in trial.user_attrs.get(_RESULT, {}).items() if key != "value"}
        return TrialRecord(
            number=trial.number,
            state=_STATES[trial.state],
            value=trial.value,
            params=dict(trial.params),
            **trial.user_attrs[_RUN],
            run_id=notes.get(f"{_RUN_ID}:{trial.number}", trial.user_attrs.get(_RUN_ID)),
            mirrored=notes.get(f"{_MIRRORED}:{trial.number}", False),
            begun=0.0 if trial.datetime_start is None else trial.datetime_start.timestamp(),
            ended=None if trial.datetime_complete is None else trial.datetime_complete.timestamp(),
            **result,
        )


def _assigned(trial: FrozenTrial) -> Assignment:
    run = trial.user_attrs[_RUN]
    return Assignment(run["scheduler"], run["settings"], run["base_lr"])
