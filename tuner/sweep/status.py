"""Where a sweep stands, read from its files, whether it runs or not."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tuner.curves import CurvePoint, parse_row
from tuner.names import CURVE_FILE
from tuner.search.ledger import Ledger
from tuner.sweep.asked import Budget
from tuner.sweep.folder import SweepFolder
from tuner.trials import TrialRecord

State = Literal["running", "interrupted", "unfinished", "finished"]
_TAIL_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A trial that has begun and not ended, with the last `point` of its curve (None: not a step yet)."""

    trial: TrialRecord
    point: CurvePoint | None

    def as_json(self, *, steps: int) -> dict[str, Any]:
        """Return it as JSON-like data; `steps` are those of a whole trial."""
        return {
            "trial": self.trial.number,
            "params": dict(self.trial.params),
            "run_id": self.trial.run_id,
            "steps_done": 0 if self.point is None else self.point.step + 1,
            "steps": steps,
            "last": None if self.point is None else asdict(self.point),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepStatus:
    """A sweep at one moment.

    `state` "unfinished" stands for "running" or "interrupted" where it is not known whether a process runs it. Of the
    trials `asked` were begun, `complete` and `failed` have ended, and the others are `under_way`. Steps are sums over
    all trials.
    """

    name: str
    folder: Path
    state: State
    budget: Budget
    asked: int
    complete: int
    failed: int
    metric: str
    best: TrialRecord | None
    under_way: tuple[UnderWay, ...]
    steps: int
    steps_executed: int
    steps_repeated: int
    steps_shared: int
    last_failure: str | None
    tracking_uri: str
    parent_run_id: str
    command: str | None
    """What goes on with the sweep; None while it runs and once it is finished."""

    def as_json(self) -> dict[str, Any]:
        """Return the status as JSON-like data; of several trials that run, the first stands apart."""
        best, running = self.best, [each.as_json(steps=self.steps) for each in self.under_way]
        return {
            "sweep": self.name,
            "folder": str(self.folder),
            "state": self.state,
            "trials": {
                "wanted": self.budget.trials,
                "asked": self.asked,
                "complete": self.complete,
                "failed": self.failed,
            },
            "budget": str(self.budget),
            "best": None
            if best is None
            else {"trial": best.number, self.metric: best.value, "params": dict(best.params), "run_id": best.run_id},
            "under_way": next(iter(running), None),
            "others_under_way": running[1:],
            "steps_executed": self.steps_executed,
            "steps_repeated": self.steps_repeated,
            "steps_shared": self.steps_shared,
            "last_failure": self.last_failure,
            "tracking_uri": self.tracking_uri,
            "parent_run_id": self.parent_run_id,
            "resume": self.command,
        }


def sweep_status(folder: SweepFolder, *, running: bool | None = None) -> SweepStatus:
    """Return where a sweep stands; `running`: whether a process runs it, None where that is not known.

    Raises:
        UserError: a file of the sweep is damaged.
    """
    description = folder.read()
    ledger = Ledger.open(folder.journal, read_only=True)
    records = ledger.trials()
    under_way = [record for record in records if record.state == "RUNNING"]
    finished = description.budget.spent(records) >= 1 or (not under_way and ledger.exhausted())
    return SweepStatus(
        name=description.name,
        folder=folder.path,
        state=_state(finished=finished, running=running),
        budget=description.budget,
        asked=len(records),
        complete=sum(record.state == "COMPLETE" for record in records),
        failed=sum(record.state == "FAIL" for record in records),
        metric=ledger.plan.space.objective.metric,
        best=ledger.best(),
        under_way=tuple(
            UnderWay(record, _last_point(folder.trial(record.number) / CURVE_FILE)) for record in under_way
        ),
        steps=ledger.plan.steps,
        **_sums(records),
        last_failure=next((record.reason for record in reversed(records) if record.reason is not None), None),
        tracking_uri=description.tracking_uri,
        parent_run_id=description.parent_run_id,
        command=None if finished or running else f"fastface-tuner resume {folder.argument}",
    )


def _state(*, finished: bool, running: bool | None) -> State:
    if running:
        return "running"
    if finished:
        return "finished"
    return "unfinished" if running is None else "interrupted"


def _sums(records: list[TrialRecord]) -> Mapping[str, int]:
    names = ("steps_executed", "steps_repeated", "steps_shared")
    return {name: sum(getattr(record, name) for record in records) for name in names}


def _last_point(curve: Path) -> CurvePoint | None:
    """Return the last whole row of a curve file that may be growing, without reading all of it."""
    try:
        with curve.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
            file.seek(start)
            lines = file.read().split(b"\n")[1:-1]  # the header or a part of a row, and what is not whole yet
        return parse_row(lines[-1]) if lines else None
    except (FileNotFoundError, ValueError):  # damage is for the resume to mend: it writes the curve anew
        return None
