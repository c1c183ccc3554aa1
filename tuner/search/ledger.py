"""The ledger of a sweep: an Optuna study, the one record of its trials that everything else follows.

It is kept in a journal file, or in a storage that a server keeps, see `tuner.search.storage`. A suggestion is one
record of it (a line of the journal) and a result two, the second of which only closes the trial; each is on the disk
before the next. So a sweep killed anywhere leaves every trial not begun, running with its parameters, or finished:
`ask` hands a running one out again, and opening the ledger closes one whose result was already written.

One process writes a ledger at a time, whichever number of trials it runs. It is an ordinary Optuna study, in a journal
named "sweep", in a storage as the sweep, so Optuna's own tools read it.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from optuna.study import Study, StudyDirection, load_study
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuner.config.run import RunConfig
from tuner.errors import UserError
from tuner.names import Setting
from tuner.search.cost_aware import Prospect
from tuner.search.entries import MIRRORED, RESULT, RUN, RUN_ID, STATES, STINT, assigned, record_of, suggestion_of
from tuner.search.journal import cut_unfinished_line
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
from tuner.search.record import Suggestion
from tuner.search.recorded_plan import PLAN, plan_record, read_plan
from tuner.search.samplers import Past, Suggester
from tuner.search.space import Params
from tuner.search.storage import STUDY_NAME, Opened, create_storage, note_place, open_storage
from tuner.trials import TrialRecord


class Ledger:
    """A sweep's trials, on disk; made by `create` or `open`.

    `mended` says, a line each, what opening had to put right after a sweep that was killed.
    """

    def __init__(self, opened: Opened, plan: Plan, *, read_only: bool) -> None:
        self.path = opened.path
        self.plan = plan
        self.mended: tuple[str, ...] = ()
        self._storage, self._study_name = opened.storage, opened.study
        self._study_id = opened.storage.get_study_id_from_name(opened.study)
        self._read_only = read_only
        self._prospects: dict[int, Prospect] = {}

    @classmethod
    def create(cls, path: Path, *, plan: Plan, storage: str | None = None, study: str = STUDY_NAME) -> Self:
        """Begin the ledger of a new sweep; its file appears whole or not at all.

        Args:
            path: of the journal, in the sweep's folder.
            plan: what the sweep is to do.
            storage: the address of the storage that keeps the ledger, and `study` its name there; None for a journal.
            study: the name of the study in the storage.

        Raises:
            UserError: there is one already, or it cannot be written.
        """
        direction = StudyDirection.MAXIMIZE if plan.space.objective.maximize else StudyDirection.MINIMIZE
        opened = create_storage(
            path, direction=direction, attributes={PLAN: plan_record(plan)}, url=storage, study=study
        )
        return cls(opened, plan, read_only=False)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, storage: str | None = None) -> Self:
        """Open the ledger of a sweep, the one in the storage that the folder names where there is no journal.

        With `read_only` it may be one that another process is writing. `storage` is the address that the storage has
        moved to, which is noted unless it is only read.

        Raises:
            UserError: no such ledger, damaged, or not a sweep's.
        """
        opened = open_storage(path, url=storage)
        plan = read_plan(opened.path, opened.storage, study=opened.study)
        ledger = cls(opened, plan, read_only=read_only)
        ledger._check_trials()
        if not read_only:
            if storage is not None:
                note_place(opened, storage)
            cut = cut_unfinished_line(path) if opened.is_journal else 0
            lines = [f"{path}: cut {cut} bytes of an unfinished last record"] if cut else []
            ledger.mended = (*lines, *ledger._close_told_trials())
        return ledger

    def ask(
        self,
        *,
        forecast: Callable[[RunConfig], Prospect] | None = None,
        spent: float = 0.0,
        busy: Collection[int] = (),
    ) -> Suggestion | None:
        """Return the trial to run next: a running one again until it is told, unless it is `busy`, then a new one.

        With a `forecast` of what runs cost and do, the search is cost-aware; `spent` is the share of the sweep's budget
        that is spent. None where a finite space has no untried point left.
        """
        self._check_writable()
        trials = self._trials()
        left = (trial for trial in trials if trial.state == TrialState.RUNNING and trial.number not in busy)
        running = next(left, None)
        if running is not None:
            return suggestion_of(running, self.plan, resumed=True)
        number, reference = len(trials), False
        if number < len(self._firsts):
            first = self._firsts[number]
            params, chosen, reference = first.params, first.chosen, first.reference
        else:
            failed = {trial.user_attrs[RUN]["key"] for trial in trials if trial.state == TrialState.FAIL}
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
        return suggestion_of(self._begin(params, chosen, reference=reference), self.plan, resumed=False)

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
        self._storage.set_trial_user_attr(self._id(number), RESULT, result)
        self._close(self._trial(number))
        return record_of(self._trial(number), self._notes())

    def annotate(self, number: int, *, run_id: str) -> None:
        """Note the tracking server's id of a trial's run; it may change, also after the trial has ended."""
        self._check_writable()
        if self._trial(number).state == TrialState.RUNNING:
            self._storage.set_trial_user_attr(self._id(number), RUN_ID, run_id)
        else:  # Optuna leaves finished trials alone
            self._storage.set_study_user_attr(self._study_id, f"{RUN_ID}:{number}", run_id)

    def mark_mirrored(self, number: int) -> None:
        """Note that all of a finished trial has been sent to the tracking server."""
        self._check_writable()
        self._storage.set_study_user_attr(self._study_id, f"{MIRRORED}:{number}", True)

    def trial(self, number: int) -> TrialRecord:
        """Return one trial."""
        return record_of(self._trial(number), self._notes())

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
        since, seconds = trial.user_attrs.get(STINT, (began, 0.0))
        seconds += max(0.0, last_seen - since)
        self._storage.set_trial_user_attr(self._id(number), STINT, [time.time(), seconds])
        return float(seconds)

    def trials(self) -> list[TrialRecord]:
        """Return all trials by number."""
        notes = self._notes()
        return [record_of(trial, notes) for trial in self._trials()]

    def study(self) -> Study:
        """Return the sweep as an Optuna study, to be read by Optuna's own functions."""
        return load_study(study_name=self._study_name, storage=self._storage)

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
        key = self._trial(number).user_attrs[RUN]["key"]
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
            if trial.state not in STATES or RUN not in trial.user_attrs:
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
            user_attrs={RUN: run},
        )
        return self._storage.get_trial(self._storage.create_new_trial(self._study_id, template))

    def _close(self, trial: FrozenTrial) -> None:
        """Give a trial whose result is written its final state."""
        value = trial.user_attrs[RESULT]["value"]
        if value is None:
            self._storage.set_trial_state_values(self._id(trial.number), TrialState.FAIL)
        else:
            self._storage.set_trial_state_values(self._id(trial.number), TrialState.COMPLETE, [value])

    def _close_told_trials(self) -> list[str]:
        told = [trial for trial in self._trials() if trial.state == TrialState.RUNNING and RESULT in trial.user_attrs]
        for trial in told:
            self._close(trial)
        return [f"trial {trial.number}: its result was written but not its end; closed it" for trial in told]

    def _past(self, trial: FrozenTrial, forecast: Callable[[RunConfig], Prospect] | None) -> Past:
        run = trial.user_attrs[RUN]
        reachable = not run["reference"] or self._learnable[run["scheduler"]]
        running = trial.state == TrialState.RUNNING
        prospect = self._prospects.get(trial.number)
        if forecast is not None and prospect is None and (running or trial.value is not None):
            prospect = forecast(run_config(self.plan, assigned(trial)))
            if not running:
                self._prospects[trial.number] = prospect
        return Past(
            trial.number,
            trial.params if reachable else None,
            trial.value,
            drawn=not run["reference"],
            prospect=prospect,
            running=running,
        )

    def _notes(self) -> Mapping[str, Any]:
        return self._storage.get_study_user_attrs(self._study_id)
