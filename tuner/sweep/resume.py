"""Go on with a sweep that ended early, or that is to have more trials; the ledger says where it was."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tuner.config.space_file import SpaceFile, load_space
from tuner.errors import UserError
from tuner.names import STAGES_DIR, TRACKING_URI_VARIABLE
from tuner.search.ledger import Ledger
from tuner.search.plan import Plan
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepDescription, SweepFolder
from tuner.sweep.run import absolute_data, new_folder, prepare, run_trials
from tuner.sweep.source import Sharing
from tuner.tracking.runs import reopen_sweep
from tuner.tracking.store import connect
from tuner.tracking.uri import redact, resolve_uri


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a command line says of a sweep that may exist already; None: nothing."""

    space: str | None
    steps: int | None
    seed: int | None
    data: str | None
    share: bool | None

    def check(self, plan: Plan, description: SweepDescription) -> None:
        """Raise UserError where the sweep is another one than was asked for."""
        source = plan.data or plan.space.workload.data.source
        ours: dict[str, tuple[object, object]] = {
            "--steps": (self.steps, plan.steps),
            "--seed": (self.seed, plan.seed),
            "--data": (absolute_data(self.data), source),
            "sharing of steps": (self.share, description.store is not None),
        }
        for what, (asked, found) in ours.items():
            if asked is not None and asked != found:
                raise UserError(
                    f"a resumed sweep must be the one that was begun, but {what} is {asked} and the sweep "
                    f"{description.name!r} has {found}; leave it away, or choose another --name"
                )
        if self.space is not None and _meaning(load_space(self.space)) != _meaning(plan.space):
            raise UserError(
                f"a resumed sweep must be the one that was begun, but the space {self.space} is not the one that the "
                f"sweep {description.name!r} has; leave it away, or choose another --name"
            )


def find_begun(name: str | None, out: Path | None) -> SweepFolder | None:
    """Return the sweep that `sweep --resume` goes on with; None where there is none yet, and its place is free."""
    if name is None and out is None:
        raise UserError("--resume must be told which sweep, but got neither --name nor --out; give one of them")
    folder = new_folder(name or "sweep", out)
    if folder.exists:
        return folder
    folder.clear()
    return None


def resume_sweep(
    folder: SweepFolder,
    *,
    trials: int | None,
    tracking_uri: str | None,
    asked: Asked | None = None,
    console: Console,
    ending: Ending,
) -> Ledger:
    """Go on with a sweep where it was, with more `trials` in all if asked for; return its ledger.

    Raises:
        UserError: it cannot go on, or is not the one that was `asked` for; nothing was changed then.
        SweepStoppedError: too many trials failed in a row.
    """
    description = folder.read()
    ledger = Ledger.open(folder.journal)
    if asked is not None:
        asked.check(ledger.plan, description)
    wanted = description.trials if trials is None else trials
    if wanted < ledger.num_finished:
        raise UserError(
            f"`--trials >= {ledger.num_finished}` must hold, the number of trials that have ended, but got {wanted}; "
            "a sweep can get more trials, not fewer"
        )
    uri = _uri(description, tracking_uri)
    faces = prepare(ledger.plan, console)
    if description.faces not in (None, faces.digest):
        raise UserError(
            f"a resumed sweep needs the faces that it was begun with, but those in {faces.source} have changed; "
            "restore them, or begin a new sweep"
        )
    tracker = connect(uri)
    for line in (*ledger.mended, *_mend(folder, ledger, description)):
        console.print(line, highlight=False, soft_wrap=True)
    changed = description.model_copy(update={"trials": wanted, "tracking_uri": redact(uri)})
    if changed != description:
        folder.write(changed, replace=True)
    console.print(f"{ledger.num_finished} of {wanted} trials are done", highlight=False)
    sharing = Sharing(None if description.store is None else Path(description.store), description.checkpoint_budget)
    reopen_sweep(tracker, description.parent_run_id)
    run_trials(ledger, folder=folder, tracker=tracker, faces=faces, sharing=sharing, console=console, ending=ending)
    return ledger


def _mend(folder: SweepFolder, ledger: Ledger, description: SweepDescription) -> list[str]:
    """Put right what a killed sweep left beside its ledger; return a line for each thing that a person should know."""
    records, lines = ledger.trials(), []
    for record in records:
        if record.state == "RUNNING":
            lines.append(f"trial {record.number} was not finished; it goes on from its last recorded step")
        elif (left := folder.trial(record.number) / STAGES_DIR).exists():
            shutil.rmtree(left, ignore_errors=True)
            lines.append(f"trial {record.number}: removed its checkpoints, which nobody needs any more")
    trained = any(record.steps_executed for record in records)
    if description.store is not None and trained and not Path(description.store).exists():
        lines.append(f"the stage store {description.store} is gone; its steps are trained again")
    return lines


def _uri(description: SweepDescription, option: str | None) -> str:
    """Return the tracking store of a sweep, its credentials from the option or the environment."""
    if option is not None or "***" not in description.tracking_uri:
        return resolve_uri(option or description.tracking_uri)
    uri = resolve_uri(None)
    if redact(uri) != description.tracking_uri:
        raise UserError(
            f"the tracking store {description.tracking_uri} needs its credentials, which are not kept; "
            f"set {TRACKING_URI_VARIABLE} or give --tracking-uri, as when the sweep was begun"
        )
    return uri


def _meaning(space: SpaceFile) -> dict[str, Any]:
    """Return what decides the trials of a space, whatever its length and number of trials."""
    return space.model_dump(mode="json", exclude={"question", "source", "steps", "trials"})
