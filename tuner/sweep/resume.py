"""Go on with a sweep that ended early, or that is to have more trials; the ledger says where it was."""

import math
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from tuner.config.space_file import SpaceFile, load_space
from tuner.errors import UserError
from tuner.names import STAGES_DIR
from tuner.search.ledger import Ledger
from tuner.search.plan import Plan, planned_workload
from tuner.search.storage import resolve_storage
from tuner.sweep.asked import Asked, Budget, asked_space
from tuner.sweep.data import absolute_data, prepare
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepDescription, SweepFolder, new_folder
from tuner.sweep.guard import scratch_prefix
from tuner.sweep.lanes import lanes_of, wanted_gpus
from tuner.sweep.lock import device_locks, sweep_lock
from tuner.sweep.run import run_trials
from tuner.sweep.source import Sharing
from tuner.tracking.store import Tracker
from tuner.tracking.uri import redact, reopen_uri
from tuner.trials import TrialRecord


def find_begun(asked: Asked) -> SweepFolder | None:
    """Return the sweep that `sweep --resume` goes on with; None where there is none yet, and its place is free."""
    if asked.name is None and asked.out is None:
        raise UserError("--resume must be told which sweep, but got neither --name nor --out; give one of them")
    folder = new_folder("sweep" if asked.name is None else asked.name, asked.out)
    if folder.exists:
        return folder
    folder.clear()
    return None


def resume_sweep(
    folder: SweepFolder, asked: Asked, *, console: Console, ending: Ending, wait: bool = False, verify: int = 0
) -> Ledger:
    """Go on with a sweep where it was, with a larger budget if asked for; return its ledger.

    `wait` and `verify` are as for `tuner.sweep.begin.new_sweep`.

    Raises:
        UserError: it cannot go on, or is not the one that was `asked` for; nothing was changed then.
        SweepStoppedError: too many trials failed in a row.
    """
    tell = partial(console.print, highlight=False, soft_wrap=True)
    description = folder.read()
    with ExitStack() as locks:
        locks.enter_context(sweep_lock(folder.path, wait=wait, tell=tell))
        storage = None if asked.storage is None else resolve_storage(asked.storage)
        ledger = Ledger.open(folder.journal, storage=storage)
        check_same(asked, ledger.plan, description)
        budget = _budget(asked, description, records=ledger.trials())
        uri = reopen_uri(description.tracking_uri, asked.tracking_uri)
        store = None if description.store is None else Path(description.store)
        devices = wanted_gpus(asked.concurrent) if asked.ray_address is None else []
        lanes = locks.enter_context(
            lanes_of(asked, devices, threads=description.threads, folder=folder.path, store=store, ending=ending)
        )
        faces = prepare(planned_workload(ledger.plan), console)
        if description.faces not in (None, faces.digest):
            raise UserError(
                f"a resumed sweep needs what it was begun with, but {planned_workload(ledger.plan).inputs} have "
                "changed; restore what was there, or begin a new sweep"
            )
        tracker = Tracker(uri)  # the store need not be there: what it lacks is sent once it is
        locks.enter_context(device_locks(devices, sweep=folder.path, wait=wait, tell=tell))
        for line in (*ledger.mended, *_mend(folder, ledger, description)):
            tell(line)
        changed = description.model_copy(
            update={
                "trials": budget.trials,
                "budget_steps": budget.steps,
                "budget_minutes": budget.minutes,
                "tracking_uri": redact(uri),
            }
        )
        if changed != description:
            folder.write(changed, replace=True)
        tell(f"{budget.out_of(ledger.num_finished)} are done")
        sharing = Sharing(
            store,
            description.checkpoint_budget,
            unfit=description.unfit is not None,
        )
        run_trials(ledger, folder=folder, tracker=tracker, sharing=sharing, console=console, ending=ending, lanes=lanes)
        if verify:
            from tuner.sweep.verify import verify_sharing

            verify_sharing(
                ledger, folder=folder, num=verify, tracker=tracker, console=console, ending=ending, lanes=lanes
            )
    return ledger


def check_same(asked: Asked, plan: Plan, description: SweepDescription) -> None:
    """Raise UserError where a sweep that exists is another one than was asked for."""
    source = plan.data or plan.space.workload.source
    ours: dict[str, tuple[object, object]] = {
        "--steps": (asked.steps, plan.steps),
        "--seed": (asked.seed, plan.seed),
        "--data": (absolute_data(asked.data), source),
        "--sampler": (asked.sampler, plan.sampler),
        "--cost-aware": (asked.cost_aware, plan.cost_aware),
        "--decision-grid": (asked.decision_grid, plan.decision_grid),
        "sharing of steps": (asked.share, description.store is not None),
    }
    for what, (wanted, found) in ours.items():
        if wanted is not None and wanted != found:
            raise UserError(
                f"a resumed sweep must be the one that was begun, but {what} is {wanted} and the sweep "
                f"{description.name!r} has {found}; leave it away, or choose another --name"
            )
    space = plan.space if asked.space is None else load_space(asked.space)
    if _meaning(asked_space(asked, space)) != _meaning(plan.space):
        what = "workload" if asked.space is None else f"space {asked.space}"
        raise UserError(
            f"a resumed sweep must be the one that was begun, but the {what} is not the one that the "
            f"sweep {description.name!r} has; leave it away, or choose another --name"
        )


def _budget(asked: Asked, description: SweepDescription, *, records: Sequence[TrialRecord]) -> Budget:
    """Return the budget with the limits that were asked for in place of the former ones."""
    ended = [record for record in records if record.state != "RUNNING"]
    steps, minutes = sum(record.steps_executed for record in ended), sum(record.seconds for record in ended) / 60
    before = description.budget
    for option, wanted, former, spent, what in (
        ("--trials", asked.trials, before.trials, len(ended), "number of trials that have ended"),
        ("--budget-steps", asked.budget_steps, before.steps, steps, "steps that were trained"),
        (
            "--budget-minutes",
            asked.budget_minutes,
            before.minutes,
            math.ceil(100 * minutes) / 100,
            "minutes that trials took",
        ),
    ):
        # A budget may be exceeded by part of a run; to ask for the same one again is no mistake.
        if wanted is not None and wanted < spent and wanted != former:
            raise UserError(
                f"`{option} >= {spent}` must hold, the {what}, but got {wanted}; a sweep can get more, not less"
            )
    return Budget(
        trials=asked.trials or before.trials,
        steps=asked.budget_steps or before.steps,
        minutes=asked.budget_minutes or before.minutes,
    )


def _mend(folder: SweepFolder, ledger: Ledger, description: SweepDescription) -> list[str]:
    """Put right what a killed sweep left beside its ledger; return a line for each thing that a person should know."""
    records, lines = ledger.trials(), []
    for scratch in folder.path.glob(f"{scratch_prefix('*')}*"):  # what a cluster's machines were to see
        shutil.rmtree(scratch, ignore_errors=True)
    for record in records:
        if record.state == "RUNNING":
            how = "goes on from its last recorded step" if description.unfit is None else "begins again"
            lines.append(f"trial {record.number} was not finished; it {how}")
        elif (left := folder.trial(record.number) / STAGES_DIR).exists():
            shutil.rmtree(left, ignore_errors=True)
            lines.append(f"trial {record.number}: removed its checkpoints, which nobody needs any more")
    trained = any(record.steps_executed for record in records)
    if description.store is not None and trained and not Path(description.store).exists():
        lines.append(f"the stage store {description.store} is gone; its steps are trained again")
    return lines


def _meaning(space: SpaceFile) -> dict[str, Any]:
    """Return what decides the trials of a space, whatever its length and number of trials."""
    return space.model_dump(
        mode="json", exclude={"question", "source", "steps", "trials", "sampler", "cost_aware", "decision_grid"}
    )
