"""Whether the disk has room for a sweep or a run, found out before it begins; then `tuner.room` looks after it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tuner.errors import UserError
from tuner.room import floor_bytes, free_bytes
from tuner.sizes import shown
from tuner.stages.store import StageStore

# Bytes a step, measured: a row of curve.csv; a row of the stage store; loss, LR and response in MLflow's SQLite tables.
_CURVE: Final = 60
_STAGE: Final = 24
_MLFLOW: Final = 3 * 230
# Bytes a trial: ledger, evaluations and folders; runs, parameters and artifacts in MLflow.
_TRIAL: Final = 32 * 2**10
_CHECKPOINT: Final = 4 * 2**20
"""Of a small network; a store that holds checkpoints knows better."""


@dataclass(frozen=True, slots=True)
class Need:
    """What is written at `path`: in a first trial, and in the whole sweep, in bytes."""

    what: str
    path: Path
    first_trial: int
    in_all: int


def needs(*, folder: Path, store: Path | None, database: Path | None, steps: int, trials: int) -> list[Need]:
    """Return about how much a sweep writes, and where.

    Args:
        folder: the sweep's.
        store: the stage store; None where nothing is shared.
        database: MLflow's SQLite file; None where its store is elsewhere.
        steps: of a trial.
        trials: of the sweep.
    """
    curve = steps * _CURVE + _TRIAL
    found = [Need("curves", folder, curve, trials * curve)]
    if store is not None:
        rows, checkpoints = steps * _STAGE, 2 * _largest_checkpoint(store)
        found.append(Need("shared steps", store, rows + checkpoints, trials * rows + checkpoints))
    if database is not None:
        runs = steps * _MLFLOW + _TRIAL
        found.append(Need("MLflow", database.parent, runs, trials * runs))
    return found


def check_disk(found: Iterable[Need], *, tell: Callable[[str], object], what: str = "sweep") -> None:
    """Refuse a sweep (or `what` it is) whose first trial would not fit on the disk, and tell of one that may fill it.

    Raises:
        UserError: there is less room than the first trial needs and than is left free always.
    """
    by_disk: dict[int, list[Need]] = {}
    for need in found:
        by_disk.setdefault(_disk(need.path), []).append(need)
    for group in by_disk.values():
        place = group[0].path
        free, floor = free_bytes(place), floor_bytes(place)
        least = floor + sum(need.first_trial for need in group)
        most = floor + sum(need.in_all for need in group)
        if free < least:
            raise UserError(
                f"a {what} like this needs {shown(least)} free in {place} to begin, but there are {shown(free)}; "
                "make room, or use another disk"
            )
        if free < most:
            parts = ", ".join(f"{need.what} {shown(need.in_all)}" for need in group)
            tell(
                f"note: the {what} may write {shown(most)} in {place} ({parts}), but {shown(free)} are free; "
                "when they are used up, it pauses until there is room"
            )


def _largest_checkpoint(store: Path) -> int:
    kept = StageStore(store).inventory().kept if store.is_dir() else ()
    return max((each.num_bytes for each in kept), default=_CHECKPOINT)


def _disk(path: Path) -> int:
    existing = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    return existing.stat().st_dev
