"""Start a sweep: everything that can be wrong is found before anything is made, then the trials run."""

import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from tuner.config.space_file import load_space
from tuner.errors import UserError
from tuner.names import STAGES_DIR, SWEEPS_DIR, SYNTHETIC
from tuner.search.ledger import Ledger
from tuner.search.plan import Plan, make_plan
from tuner.sizes import num_bytes
from tuner.sweep.devices import first_visible, gpus
from tuner.sweep.disk import check_disk, needs
from tuner.sweep.folder import SweepDescription, SweepFolder
from tuner.sweep.lock import device_lock, sweep_lock
from tuner.sweep.progress import ConsoleProgress, describe
from tuner.sweep.source import Sharing, SweepSource
from tuner.sweep.verify import verify_sharing
from tuner.sweep.view import RunView
from tuner.tracking.environment import describe_environment, num_cores
from tuner.tracking.runs import DataDescription, Status, finish, start_sweep
from tuner.tracking.store import Tracker, connect
from tuner.tracking.uri import redact, resolve_uri, sqlite_path

LAST_SENDING_SECONDS = 60.0
"""At its end, a sweep waits at most so long for the tracking store to take what is left."""
INTERRUPTED_SENDING_SECONDS = 5.0
"""The same where a person waits for the prompt."""


def new_sweep(
    space: str,
    *,
    data: str | None,
    trials: int | None,
    steps: int | None,
    seed: int,
    decision_grid: int | None,
    name: str | None,
    out: Path | None,
    tracking_uri: str | None,
    share: bool,
    checkpoint_budget: str,
    verify: int = 0,
    wait: bool = False,
    locks: ExitStack,
    console: Console,
) -> Ledger:
    """Make and run a sweep; return its ledger.

    `share` lets trials take over the steps that earlier trials of the working folder have trained, whose checkpoints
    may take `checkpoint_budget` ("20GiB") on disk. In the end `verify` trials are trained again without sharing; what
    `tuner.analysis.sharing.read_verification` then returns says whether they were equal. `locks` keeps other sweeps
    from the GPU, and other processes from this one, until the caller closes it; `wait` waits for a GPU that is in use.

    Raises:
        UserError: something that was asked for cannot be; nothing was made then.
    """
    space_file = load_space(space)
    plan = make_plan(space_file, steps=steps, seed=seed, data=_absolute(data), decision_grid=decision_grid)
    name = name or f"{Path(space).stem}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    if not re.fullmatch(r"[\w][\w.\- ]*", name):
        raise UserError(
            f"a sweep's name must be letters, digits, spaces, '.', '-' and '_', but got {name!r}; use another --name"
        )
    folder = SweepFolder(out or Path(SWEEPS_DIR) / name)
    folder.check_free(name)
    sharing = Sharing(Path(STAGES_DIR).absolute() if share else None, num_bytes(checkpoint_budget))
    uri = resolve_uri(tracking_uri)
    check_disk(
        needs(
            folder=folder.path,
            store=sharing.store,
            database=sqlite_path(uri),
            steps=plan.steps,
            trials=trials or space_file.trials,
        ),
        tell=partial(console.print, soft_wrap=True),
    )
    device = first_visible()
    if not wait:
        with device_lock(device, sweep=folder.path):
            pass  # a GPU in use is told before the faces are decoded
    faces = _prepare(plan, console)
    tracker = connect(uri)
    locks.enter_context(device_lock(device, sweep=folder.path, wait=wait, tell=partial(console.print, soft_wrap=True)))
    wanted = trials or space_file.trials
    parent_run_id = start_sweep(
        tracker,
        name=name,
        params={
            "space": space_file.file,
            "data": plan.data or space_file.workload.data.source,
            "trials": wanted,
            "total_steps": plan.steps,
            "seed": plan.seed,
            "sampler": plan.sampler,
            "decision_grid": plan.decision_grid,
            "objective": space_file.objective.metric,
        },
        tags={"mlflow.note.content": space_file.question, "fastface_tuner.folder": str(folder.path)},
        texts={
            "space.yaml": space_file.text,
            "environment.json": json.dumps(describe_environment([gpu.name for gpu in gpus()]), indent=2),
        },
        data=faces,
    )
    try:
        folder.write(SweepDescription(name=name, trials=wanted, tracking_uri=redact(uri), parent_run_id=parent_run_id))
        locks.enter_context(sweep_lock(folder.path))
        ledger = Ledger.create(folder.journal, plan=plan)
    except (OSError, UserError) as error:
        finish(tracker, parent_run_id, "FAILED", tags={"reason": str(error)})
        raise UserError(f"the sweep's folder {folder.path} cannot be written: {error}; choose another --out") from None
    run_trials(ledger, folder=folder, tracker=tracker, sharing=sharing, console=console)
    for line in summary(ledger, folder):
        console.print(line, highlight=False, soft_wrap=True)
    if verify:
        verify_sharing(ledger, folder=folder, num=verify, tracker=tracker, console=console)
    return ledger


def run_trials(
    ledger: Ledger,
    *,
    folder: SweepFolder,
    tracker: Tracker,
    sharing: Sharing,
    console: Console,
    actor: type[Any] | None = None,
) -> None:
    """Run the trials that the sweep still lacks, and end its MLflow run as the sweep ended.

    `actor` is the Tune trainable that runs a trial; None takes `tuner.sweep.trainable.TrialActor`.
    """
    description = folder.read()
    objective = ledger.plan.space.objective
    view = RunView(ledger, folder=folder, tracker=tracker)
    view.sweep_runs()
    status: Status = "KILLED"
    patience = INTERRUPTED_SENDING_SECONDS
    try:
        # Ray and torch take seconds to import, which bad input should not have to wait for.
        from tuner.sweep.executor import execute
        from tuner.sweep.trainable import TrialActor

        with ConsoleProgress(
            console,
            trials=description.trials,
            steps=ledger.plan.steps,
            maximize=objective.maximize,
            metric=objective.metric,
        ) as progress:
            source = SweepSource(
                ledger,
                trials=description.trials,
                folder=folder,
                view=view,
                progress=progress,
                threads=num_cores(),
                sharing=sharing,
            )
            try:
                execute(source, actor or TrialActor)
            finally:
                source.abandon()
        status = "FINISHED" if ledger.best() is not None else "FAILED"
        patience = LAST_SENDING_SECONDS
    except (KeyboardInterrupt, SystemExit):
        done = sum(record.state != "RUNNING" for record in ledger.trials())
        console.print(f"interrupted after {done} of {description.trials} trials; what they found is kept")
        raise
    finally:
        for line in view.close(status, timeout=patience):
            console.print(line, highlight=False, soft_wrap=True)


def _prepare(plan: Plan, console: Console) -> DataDescription:
    """Decode or render the faces once, before the first trial, and find out whether they can be used."""
    from rich.progress import Progress

    from tuner.training.faces import prepare_faces

    config = plan.space.workload.data.model_copy(update={} if plan.data is None else {"source": plan.data})
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing faces", total=None)
        on_image: Callable[[int, int], None] = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
        train, verification = prepare_faces(config, progress=on_image)
    return DataDescription(
        name="synthetic faces" if config.source == SYNTHETIC else Path(config.source).name,
        digest=train.digest,
        source=config.source,
        counts={
            "training_identities": train.num_identities,
            "training_images": len(train.labels),
            "verification_identities": verification.num_identities,
            "verification_images": len(verification.labels),
        },
    )


def _absolute(data: str | None) -> str | None:
    if data in (None, SYNTHETIC):
        return data
    try:
        return str(Path(data).expanduser().absolute())
    except RuntimeError as error:
        raise UserError(f"--data must be a folder of faces, but got {data!r}: {error}; write the whole path") from None


def summary(ledger: Ledger, folder: SweepFolder) -> list[str]:
    """Return what to say at the end: what was best, and which command shows the rest."""
    best = ledger.best()
    if best is None:
        first = next((record.reason for record in ledger.trials() if record.reason), "no trial ran")
        return [f"no trial finished; the first failed because: {first}"]
    metric = ledger.plan.space.objective.metric
    return [
        f"best: trial {best.number} with {metric} {best.value:.4f}: {describe(best.params)}",
        f"all trials: fastface-tuner compare {folder.word}",
    ]
