"""One run from its configuration to its weights: begun, gone on with, or shown where it is finished."""

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from tuner.config.own import OwnConfig
from tuner.config.own_code import looked_up
from tuner.config.run import FaceConfig, RunConfig, WorkloadConfig
from tuner.config.run_file import RunFile, load_run, run_text
from tuner.config.strict_yaml import dotted
from tuner.errors import UserError
from tuner.names import CONFIG_FILE, ENVIRONMENT_FILE, RUNS_DIR, STAGES_DIR, TAG_FOLDER
from tuner.schedulers.registry import setting_names
from tuner.schedulers.settings import check_settings
from tuner.sweep.asked import check_faces_only, check_source, named_workload
from tuner.sweep.data import absolute_data, placed, prepare
from tuner.sweep.devices import first_visible, gpus
from tuner.sweep.disk import check_disk, needs
from tuner.sweep.ending import Ending
from tuner.sweep.fitness import unfit
from tuner.sweep.lock import device_lock, run_lock
from tuner.sweep.run_folder import RunFolder, RunRecord
from tuner.sweep.single_session import Session
from tuner.sweep.single_view import RunMirror, RunProgress, send_rest, shown
from tuner.tracking.environment import DataDescription, describe_environment
from tuner.tracking.runs import end_abandoned, start_run
from tuner.tracking.store import Tracker, connect
from tuner.tracking.uri import redact, reopen_uri, resolve_uri, sqlite_path

EPOCH_DIGITS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedRun:
    """What a command line asks of a single run; None where the configuration decides, or the run that exists.

    `config` is a file or the name of a shipped recipe; `workload`, a class of one's own, takes its workload's place.
    `epochs` makes the steps of so many passes over the training images, each without its last, partial batch. `sets`
    judge the run in place of held-out people.
    """

    config: str
    workload: str | None = None
    data: str | None = None
    max_identities: int | None = None
    max_images: int | None = None
    sets: tuple[str, ...] = ()
    steps: int | None = None
    epochs: float | None = None
    seed: int | None = None
    share: bool | None = None
    name: str | None = None
    out: Path | None = None
    tracking_uri: str | None = None


def train_run(asked: AskedRun, *, console: Console, ending: Ending, wait: bool = False) -> tuple[RunFolder, RunRecord]:
    """Train a run to its end; go on with one that was broken off; return its folder and what is known of it then.

    A run that is finished is left as it is, but for what MLflow still lacks of it. A GPU that a sweep uses is waited
    for with `wait`.

    Raises:
        UserError: something that was asked for cannot be, or the folder holds another run; nothing was changed then.
    """
    tell = partial(console.print, highlight=False, soft_wrap=True)
    # As for trials: threads that wait sleep soon. It must stand before torch is imported, which a workload may do.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if asked.steps is not None and asked.epochs is not None:
        raise UserError("a run has one length, but got both --steps and --epochs; leave one of them out")
    file = load_run(asked.config)
    config = _overridden(file, asked)
    folder = _folder(file, asked)
    begun = folder.read() if folder.exists else None
    if begun is not None and asked.epochs is None:
        _check_same(config, asked, begun, folder)
    if begun is not None and begun.state == "finished" and asked.epochs is None:
        return folder, _shown(begun, folder, asked, tell=tell)
    store = None if asked.share is False else Path(STAGES_DIR).absolute()
    uri = resolve_uri(asked.tracking_uri) if begun is None else reopen_uri(begun.tracking_uri, asked.tracking_uri)
    if begun is None:
        folder.check_free()
        steps = config.total_steps
        found = needs(folder=folder.path, store=store, database=sqlite_path(uri), steps=steps, trials=1)
        check_disk(found, tell=tell, what="run")
    device = first_visible()
    if not wait:
        with device_lock(device, sweep=folder.path):
            pass  # a GPU in use is told before the faces are decoded
    faces = prepare(config.workload, console)
    images = faces.counts.get("training_images")
    if asked.epochs is not None:
        config = _of_epochs(config, asked.epochs, images=images)
    with ExitStack() as locks:
        locks.enter_context(device_lock(device, sweep=folder.path, wait=wait, tell=tell))
        folder.path.mkdir(parents=True, exist_ok=True)
        locks.enter_context(run_lock(folder.path, wait=wait, tell=tell))
        begun = folder.read() if folder.exists else None  # another process may have been at it
        if begun is None:
            flaw = unfit(config)
            if flaw is not None:
                store = None
                tell(f"nothing is shared, since the workload failed a check of tuner.testing.check_workload: {flaw}")
            tracker = connect(uri)
            begun = _begin(config, folder, tracker, faces=faces, store=store, flaw=flaw)
            tell(_length(config, faces))
        else:
            _check_same(config, asked, begun, folder)
            if begun.state == "finished":
                return folder, _shown(begun, folder, asked, tell=tell)
            if begun.faces != faces.digest:
                raise UserError(
                    f"a run goes on with what it was begun with, but {config.workload.inputs} have changed; "
                    "restore what was there, or begin a new run with another --name"
                )
            tracker = Tracker(uri)  # the store need not be there: what it lacks is sent once it is
            how = "goes on from its last recorded step" if begun.unfit is None else "begins again"
            tell(f"{folder.path} was not finished; it {how}")
        return folder, _train(begun, folder, tracker, console=console, ending=ending)


def _overridden(file: RunFile, asked: AskedRun) -> RunConfig:
    """Return the configuration with the command line's settings, and with whole paths."""
    config = file.config
    if asked.data is None and asked.workload is None:
        file.check_data()
    named = config.workload if asked.workload is None else named_workload(asked.workload, config.workload)
    changed: dict[str, Any] = config.to_dict()
    changed["workload"] = _faces(named, asked) if isinstance(named, FaceConfig) else _own(named, asked)
    changed["seed"] = config.seed if asked.seed is None else asked.seed
    changed["total_steps"] = config.total_steps if asked.steps is None else asked.steps
    return RunConfig.model_validate(changed)


def _faces(workload: FaceConfig, asked: AskedRun) -> dict[str, Any]:
    limits = {"max_identities": asked.max_identities, "max_images": asked.max_images}
    changed: dict[str, Any] = placed(workload, sets=asked.sets, **limits).model_dump(mode="json")
    changed["data"]["source"] = absolute_data(asked.data or workload.source)
    return changed


def _own(workload: OwnConfig, asked: AskedRun) -> dict[str, Any]:
    check_faces_only(workload, asked.max_identities, asked.max_images, asked.sets)
    found = looked_up(workload)
    check_source(found, asked.data)
    data = absolute_data(asked.data)
    return (found if data is None else found.from_source(data)).model_dump(mode="json")


def _length(config: RunConfig, data: DataDescription) -> str:
    steps, images, batch_size = (
        f"{config.total_steps:,} steps",
        data.counts.get("training_images"),
        config.workload.batch_size,
    )
    if images is None or batch_size is None:
        return steps
    epochs = round(config.total_steps * batch_size / images, EPOCH_DIGITS)
    people = data.counts.get("training_identities")
    of_people = "" if people is None else f" of {people:,} identities"
    return f"{steps}, {epochs:g} epochs of {images:,} images{of_people}"


def _of_epochs(config: RunConfig, epochs: float, *, images: int | None) -> RunConfig:
    batch_size = config.workload.batch_size
    if images is None or batch_size is None:
        raise UserError(
            "`--epochs` needs a workload with a setting `batch_size` and data that counts `training_images`, but this"
            " one lacks them; give --steps"
        )
    steps = int(epochs * (images // batch_size))
    if steps < 1:
        raise UserError(
            f"`--epochs` must make at least one step, but {epochs:g} of {images} images in batches of {batch_size} make"
            " none; give more, or --steps"
        )
    return RunConfig.model_validate({**config.to_dict(), "total_steps": steps})


def _folder(file: RunFile, asked: AskedRun) -> RunFolder:
    if asked.name is None and asked.out is None and (own := RunFolder.of_config(file.path)) is not None:
        return own
    name = file.name if asked.name is None else asked.name
    if asked.out is None and (Path(name).name != name or not name.strip() or name in (".", "..")):
        raise UserError(f"a run's name must be the name of a folder, but got {name!r}; use another --name, or --out")
    return RunFolder(asked.out or Path(RUNS_DIR) / name)


def _check_same(config: RunConfig, asked: AskedRun, begun: RunRecord, folder: RunFolder) -> None:
    """Raise UserError where the run in the folder is another one than was asked for."""
    other = _difference(config.to_dict(), begun.config.to_dict())
    if other is None and asked.share is not None and asked.share != (begun.store is not None):
        other = f"sharing of steps is {asked.share} and {begun.store is not None}"
    if other is not None:
        raise UserError(
            f"{folder.path} holds another run ({other} there); choose another --name, or go on with that one: "
            f"{folder.command}"
        )


def _difference(ours: Any, theirs: Any, at: tuple[str, ...] = ()) -> str | None:
    """Return the first setting that differs, as "seed is 1, but 0"; None where all are equal."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**theirs, **ours}:
            if (found := _difference(ours.get(key), theirs.get(key), (*at, key))) is not None:
                return found
        return None
    return None if ours == theirs else f"{dotted(at)} is {ours}, but {theirs}"


def _begin(
    config: RunConfig,
    folder: RunFolder,
    tracker: Tracker,
    *,
    faces: DataDescription,
    store: Path | None,
    flaw: str | None,
) -> RunRecord:
    """Make the MLflow run and the record of a new run."""
    name = folder.path.name
    end_abandoned(tracker, folder=str(folder.path))
    scheduler = config.scheduler
    run_id = start_run(
        tracker,
        name=name,
        params={
            "scheduler": scheduler.name,
            **check_settings(scheduler.name, setting_names(scheduler.name).values(), scheduler.settings),
            "base_lr": config.workload.reference_lr,
            **_described(config.workload),
            "data": config.workload.source,
            "total_steps": config.total_steps,
            "seed": config.seed,
        },
        tags={TAG_FOLDER: str(folder.path)},
        texts={
            CONFIG_FILE: run_text(config),
            ENVIRONMENT_FILE: json.dumps(describe_environment([gpu.name for gpu in gpus()]), indent=2),
        },
        data=faces,
    )
    record = RunRecord(
        name=name,
        config=config,
        tracking_uri=redact(tracker.uri),
        run_id=run_id,
        store=None if store is None else str(store),
        faces=faces.digest,
        unfit=flaw,
    )
    try:
        folder.write(record)
    except OSError as error:
        raise UserError(f"the run's folder {folder.path} cannot be written: {error}; choose another --out") from None
    return record


def _described(workload: WorkloadConfig) -> dict[str, Any]:
    if isinstance(workload, FaceConfig):
        return {"batch_size": workload.batch_size, "backbone": workload.model.backbone}
    return {"workload": workload.name, **workload.settings}


def _shown(record: RunRecord, folder: RunFolder, asked: AskedRun, *, tell: "partial[None]") -> RunRecord:
    """Say what came out of a finished run, and send what MLflow lacks of it."""
    tell(f"{folder.path} is finished: {shown(record.metrics)}")
    return record if record.mirrored else send_rest(record, folder, tracking_uri=asked.tracking_uri, hear=tell)


def _train(record: RunRecord, folder: RunFolder, tracker: Tracker, *, console: Console, ending: Ending) -> RunRecord:
    mirror = RunMirror(record, folder=folder, tracker=tracker)
    with RunProgress(console, steps=record.config.total_steps) as progress, progress.log():
        session = Session(record, folder=folder, mirror=mirror, progress=progress)
        with ending.closing(session.close):
            from tuner.sweep.in_process import train_in_process  # brings torch, which bad input need not wait for

            with ending.gentle(lambda: None):
                session.outcome = train_in_process(
                    record.config,
                    folder.path,
                    store=session.store,
                    label=record.run_id,
                    hear=session.hear,
                    stopped=lambda: ending.received is not None,
                )
        ending.check()
    return session.record
