"""Start a sweep: everything that can be wrong is found before anything is made, then the trials run."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any

from rich.console import Console

from tuner.config.space_file import load_space
from tuner.errors import SweepStoppedError, UserError
from tuner.names import STAGES_DIR, SWEEPS_DIR, SYNTHETIC, TAG_FOLDER
from tuner.search.ledger import Ledger
from tuner.search.plan import Plan, make_plan
from tuner.sizes import num_bytes
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepDescription, SweepFolder
from tuner.sweep.progress import ConsoleProgress, describe
from tuner.sweep.source import Sharing, SweepSource
from tuner.tracking.environment import describe_environment, num_cores
from tuner.tracking.mirror import CurveMirror
from tuner.tracking.runs import DataDescription, Status, end_abandoned, finish, start_sweep
from tuner.tracking.store import Tracker, connect
from tuner.tracking.uri import redact, resolve_uri

LAST_SENDING_SECONDS = 60.0
"""At its end, a sweep waits at most so long for the tracking store to take what is left."""
INTERRUPTED_SENDING_SECONDS = 2.5
"""The same where a person waits for the prompt."""


def new_sweep(
    space: str,
    *,
    data: str | None,
    trials: int | None,
    steps: int | None,
    seed: int,
    name: str | None,
    out: Path | None,
    tracking_uri: str | None,
    share: bool,
    checkpoint_budget: str,
    console: Console,
    ending: Ending,
) -> Ledger:
    """Make and run a sweep; return its ledger.

    `share` lets trials take over the steps that earlier trials of the working folder have trained, whose checkpoints
    may take `checkpoint_budget` ("20GiB") on disk.

    Raises:
        UserError: something that was asked for cannot be; nothing was made then.
        SweepStoppedError: too many trials failed in a row.
    """
    space_file = load_space(space)
    plan = make_plan(space_file, steps=steps, seed=seed, data=absolute_data(data))
    name = name or f"{Path(space).stem}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    folder = new_folder(name, out)
    folder.check_free(name)
    sharing = Sharing(Path(STAGES_DIR).absolute() if share else None, num_bytes(checkpoint_budget))
    uri = resolve_uri(tracking_uri)
    faces = prepare(plan, console)
    tracker = connect(uri)
    end_abandoned(tracker, folder=str(folder.path))
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
            "objective": space_file.objective.metric,
        },
        tags={"mlflow.note.content": space_file.question, TAG_FOLDER: str(folder.path)},
        texts={
            "space.yaml": space_file.text,
            "environment.json": json.dumps(describe_environment(_accelerators()), indent=2),
        },
        data=faces,
    )
    try:
        folder.write(
            SweepDescription(
                name=name,
                trials=wanted,
                tracking_uri=redact(uri),
                parent_run_id=parent_run_id,
                store=None if sharing.store is None else str(sharing.store),
                checkpoint_budget=sharing.checkpoint_budget,
                faces=faces.digest,
            )
        )
        ledger = Ledger.create(folder.journal, plan=plan)
    except (OSError, UserError) as error:
        finish(tracker, parent_run_id, "FAILED", tags={"reason": str(error)})
        raise UserError(f"the sweep's folder {folder.path} cannot be written: {error}; choose another --out") from None
    except BaseException:
        finish(tracker, parent_run_id, "KILLED")
        raise
    run_trials(ledger, folder=folder, tracker=tracker, faces=faces, sharing=sharing, console=console, ending=ending)
    return ledger


def new_folder(name: str, out: Path | None) -> SweepFolder:
    """Return the folder of a sweep to be; UserError where the name cannot be one."""
    if not re.fullmatch(r"[\w][\w.\- ]*", name):
        raise UserError(
            f"a sweep's name must be letters, digits, spaces, '.', '-' and '_', but got {name!r}; use another --name"
        )
    return SweepFolder(out or Path(SWEEPS_DIR) / name)


def run_trials(
    ledger: Ledger,
    *,
    folder: SweepFolder,
    tracker: Tracker,
    faces: DataDescription | None,
    sharing: Sharing,
    console: Console,
    ending: Ending,
    actor: type[Any] | None = None,
) -> None:
    """Run the trials that the sweep still lacks, end its MLflow run as the sweep ended, and say what came out.

    `actor` is the Tune trainable that runs a trial; None takes `tuner.sweep.trainable.TrialActor`.

    Raises:
        SweepStoppedError: too many trials failed in a row.
    """
    description = folder.read()
    objective = ledger.plan.space.objective
    mirror = CurveMirror(tracker)
    with ConsoleProgress(
        console,
        trials=description.trials,
        steps=ledger.plan.steps,
        maximize=objective.maximize,
        metric=objective.metric,
        ended=[record for record in ledger.trials() if record.state != "RUNNING"],
    ) as progress:
        source = SweepSource(
            ledger,
            trials=description.trials,
            folder=folder,
            tracker=tracker,
            parent_run_id=description.parent_run_id,
            mirror=mirror,
            data=faces,
            progress=progress,
            threads=num_cores(),
            sharing=sharing,
        )
        closing = _Closing(source, mirror, description, ledger=ledger, folder=folder, progress=progress)
        # Where the sweep is interrupted, Ray goes last: it may take its time over that.
        with ExitStack() as ray, ending.closing(closing):
            if ledger.num_finished < description.trials:
                # Ray and torch take seconds to import, which bad input should not have to wait for.
                from tuner.sweep.executor import execute, running_ray
                from tuner.sweep.trainable import TrialActor

                ray.enter_context(running_ray(ending))
                execute(source, actor or TrialActor, ending=ending)
                ray.close()  # and gives the GPU back before MLflow takes what is left
            closing.status = "FINISHED" if ledger.best() is not None and source.cause is None else "FAILED"
    for line in summary(ledger, folder):
        console.print(line, highlight=False, soft_wrap=True)
    if source.cause is not None:
        raise SweepStoppedError(f"{source.cause}; then go on with: fastface-tuner resume {folder.argument}")


class _Closing:
    """Ends the MLflow runs of a sweep, once, whichever thread comes first; says how to go on after an interruption."""

    def __init__(
        self,
        source: SweepSource,
        mirror: CurveMirror,
        description: SweepDescription,
        *,
        ledger: Ledger,
        folder: SweepFolder,
        progress: ConsoleProgress,
    ) -> None:
        self.status: Status = "KILLED"
        self._source, self._mirror, self._description = source, mirror, description
        self._ledger, self._folder, self._progress = ledger, folder, progress
        self._lock = Lock()
        self._done = False

    def __call__(self) -> None:
        with self._lock:
            if not self._done:
                self._done = True
                self._close()

    def _close(self) -> None:
        broken_off = self.status == "KILLED"
        if broken_off:
            self._progress.message(
                f"interrupted after {self._ledger.num_finished} of {self._description.trials} trials; "
                f"go on with: fastface-tuner resume {self._folder.argument}"
            )
        self._source.abandon()
        self._mirror.finish(self._description.parent_run_id, self.status)
        unsent = self._mirror.close(timeout=INTERRUPTED_SENDING_SECONDS if broken_off else LAST_SENDING_SECONDS)
        if unsent:
            self._progress.message(
                f"{unsent.points} steps of {len(unsent.run_ids)} runs are not in MLflow: {unsent.problem}"
            )


def prepare(plan: Plan, console: Console) -> DataDescription:
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


def _accelerators() -> list[str]:
    """Return the names of the GPUs, from the driver's own tool: importing torch here would cost seconds."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    return [] if listed.returncode else listed.stdout.split("\n")[:-1]


def absolute_data(data: str | None) -> str | None:
    """Return `--data` as the plan keeps it: a folder by its whole path."""
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
        f"all trials: fastface-tuner compare {folder.argument}",
    ]
