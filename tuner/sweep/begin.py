"""Start a sweep: everything that can be wrong is found before anything is made, then the trials run."""

import json
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from tuner.config.own import OwnConfig
from tuner.config.space_file import SpaceFile, load_space
from tuner.errors import UserError
from tuner.files import write_record
from tuner.names import ENVIRONMENT_FILE, STAGES_DIR, TAG_DESCRIPTION, TAG_FOLDER
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan, planned_workload, references, run_config
from tuner.search.storage import check_free, resolve_storage
from tuner.sizes import num_bytes
from tuner.stages.store import DEFAULT_BUDGET
from tuner.sweep.asked import DEFAULT_SPACE, Asked, Budget, asked_space, repeating
from tuner.sweep.data import absolute_data, prepare
from tuner.sweep.devices import gpus
from tuner.sweep.disk import check_disk, needs
from tuner.sweep.ending import Ending
from tuner.sweep.fitness import unfit
from tuner.sweep.folder import ENVIRONMENT, SweepDescription, new_folder
from tuner.sweep.lanes import lanes_of, wanted_gpus
from tuner.sweep.lock import device_locks, sweep_lock
from tuner.sweep.run import run_trials
from tuner.sweep.source import Sharing
from tuner.sweep.verify import verify_sharing
from tuner.tracking.environment import describe_environment
from tuner.tracking.runs import end_abandoned, finish, start_sweep
from tuner.tracking.store import connect
from tuner.tracking.uri import redact, resolve_uri, sqlite_path


def new_sweep(asked: Asked, *, console: Console, ending: Ending, wait: bool = False, verify: int = 0) -> Ledger:
    """Make and run a sweep; return its ledger.

    A GPU that another sweep uses is waited for with `wait`. In the end `verify` trials are trained again without
    sharing; what `tuner.analysis.sharing.read_verification` then returns says whether they were equal.

    Raises:
        UserError: something that was asked for cannot be; nothing was made then.
        SweepStoppedError: too many trials failed in a row.
    """
    tell = partial(console.print, highlight=False, soft_wrap=True)
    file = DEFAULT_SPACE if asked.space is None else asked.space
    space = asked_space(asked, load_space(file))
    plan = make_plan(
        space,
        steps=asked.steps,
        seed=asked.seed or 0,
        sampler=asked.sampler,
        data=absolute_data(asked.data),
        decision_grid=asked.decision_grid,
        cost_aware=asked.cost_aware,
    )
    made_up = f"{Path(file).stem}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    name = made_up if asked.name is None else asked.name
    folder = new_folder(name, asked.out)
    folder.check_free(name)
    sharing = sharing_of(asked)
    if plan.cost_aware and sharing.store is None:
        raise UserError(
            "a cost-aware search needs shared steps, but they are off; leave out --no-share or --cost-aware"
        )
    budget = budget_of(asked, trials=space.trials)
    uri = resolve_uri(asked.tracking_uri)
    disk = needs(
        folder=folder.path,
        store=sharing.store,
        database=sqlite_path(uri),
        steps=plan.steps,
        trials=budget.trials or space.trials,
    )
    check_disk(disk, tell=tell)
    storage = resolve_storage(asked.storage)
    if storage is not None:
        check_free(storage, study=name)
    here = asked.ray_address is None
    devices = wanted_gpus(asked.concurrent) if here else []
    if not wait:
        with device_locks(devices, sweep=folder.path):
            pass  # a GPU in use is told before the faces are decoded
    with ExitStack() as locks:
        lanes = locks.enter_context(
            lanes_of(asked, devices, threads=None, folder=folder.path, store=sharing.store, ending=ending)
        )
        faces = prepare(planned_workload(plan), console)
        flaw = unfit(run_config(plan, references(plan)[0]))
        if flaw is not None:
            if asked.cost_aware:
                raise UserError(f"a cost-aware search needs shared steps, but {flaw}; leave out --cost-aware")
            plan, sharing = replace(plan, cost_aware=False), Sharing(None, sharing.checkpoint_budget, unfit=True)
            tell(f"nothing is shared, since the workload failed a check of tuner.testing.check_workload: {flaw}")
        tracker = connect(uri)
        environment = describe_environment([gpu.name for gpu in gpus()])
        locks.enter_context(device_locks(devices, sweep=folder.path, wait=wait, tell=tell))
        end_abandoned(tracker, folder=str(folder.path))
        parent_run_id = start_sweep(
            tracker,
            name=name,
            params={
                "space": space.file,
                **({} if asked.recipe is None else {"recipe": asked.recipe}),
                "data": plan.data or space.workload.source,
                **_of_own(space),
                "budget": str(budget),
                "total_steps": plan.steps,
                "seed": plan.seed,
                "sampler": plan.sampler,
                "cost_aware": plan.cost_aware,
                "decision_grid": plan.decision_grid,
                "objective": space.objective.metric,
            },
            tags={TAG_DESCRIPTION: space.question, TAG_FOLDER: str(folder.path)},
            texts={
                "space.yaml": space.text,
                ENVIRONMENT_FILE: json.dumps(environment, indent=2),
            },
            data=faces,
        )
        try:
            folder.write(
                SweepDescription(
                    name=name,
                    trials=budget.trials,
                    budget_steps=budget.steps,
                    budget_minutes=budget.minutes,
                    tracking_uri=redact(uri),
                    parent_run_id=parent_run_id,
                    store=None if sharing.store is None else str(sharing.store),
                    checkpoint_budget=sharing.checkpoint_budget,
                    faces=faces.digest,
                    unfit=flaw,
                    asked=repeating(asked, space),
                    threads=lanes.threads if lanes.on_cpu else None,
                )
            )
            locks.enter_context(sweep_lock(folder.path))
            ledger = Ledger.create(folder.journal, plan=plan, storage=storage, study=name)
            write_record(folder.environment, environment, kind=ENVIRONMENT)
        except (OSError, UserError) as error:
            finish(tracker, parent_run_id, "FAILED", tags={"reason": str(error)})
            raise UserError(
                f"the sweep's folder {folder.path} cannot be written: {error}; choose another --out"
            ) from None
        except BaseException:
            finish(tracker, parent_run_id, "KILLED")
            raise
        run_trials(ledger, folder=folder, tracker=tracker, sharing=sharing, console=console, ending=ending, lanes=lanes)
        if verify:
            verify_sharing(
                ledger, folder=folder, num=verify, tracker=tracker, console=console, ending=ending, lanes=lanes
            )
    return ledger


def sharing_of(asked: Asked) -> Sharing:
    """Return whether and where the trials of a new sweep share steps; UserError for a budget that is no size."""
    budget = DEFAULT_BUDGET if asked.checkpoint_budget is None else num_bytes(asked.checkpoint_budget)
    return Sharing(None if asked.share is False else Path(STAGES_DIR).absolute(), budget)


def _of_own(space: SpaceFile) -> dict[str, str]:
    """Return what MLflow is told of a workload that it would not know by itself."""
    workload, objective = space.workload, space.objective
    if not isinstance(workload, OwnConfig):
        return {}
    return {"workload": workload.name, "direction": "maximize" if objective.maximize else "minimize"}


def budget_of(asked: Asked, *, trials: int) -> Budget:
    """Return the budget of a new sweep: `trials`, those of the space, where nothing else was asked for."""
    limits = (asked.trials, asked.budget_steps, asked.budget_minutes)
    return Budget(
        trials=trials if limits == (None, None, None) else asked.trials,
        steps=asked.budget_steps,
        minutes=asked.budget_minutes,
    )
