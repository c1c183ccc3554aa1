"""What a store holds and what it saved, and how to make it smaller."""

import json
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from tuner.errors import UserError
from tuner.stages.budget import Holdings
from tuner.stages.claims import unused
from tuner.stages.files import (
    DISTRUSTED_FILE,
    FORMAT,
    ROW_BYTES,
    STEPS_FILE,
    DamagedError,
    is_locked,
    read_checked,
    sweep_scratch,
)
from tuner.stages.shelf import FINGERPRINT_FILE, SAVINGS_FILE, SCRATCH_FOLDER, STAGES_FOLDER, StepCounts
from tuner.stages.store import StageStore, pinned, remove

_REMOVED: Final = ".removed-"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelfSummary:
    """One shelf: what its runs have in common (None: that file is damaged), what it holds, what it saved.

    `steps` are recorded ones, `num_bytes` those of all its files, `counts` the sums over all its trials, `last_used`
    the time at which the last of them ended (seconds since 1970), `running` the stages that are being trained now.
    """

    key: str
    fingerprint: Mapping[str, Any] | None
    stages: int
    steps: int
    checkpoints: int
    checkpoint_bytes: int
    num_bytes: int
    counts: StepCounts
    last_used: float
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """What `prune` removed, or would remove: keys of shelves, a number of checkpoints, and their bytes.

    `skipped` are the keys of shelves that were asked for but are in use by running trials.
    """

    shelves: tuple[str, ...]
    checkpoints: int
    num_bytes: int
    skipped: tuple[str, ...]


def summaries(store: StageStore) -> list[ShelfSummary]:
    """Return what is on each shelf of a store, the last used first."""
    inventory = store.inventory()
    result = []
    for folder in store.folders():
        kept = [each for each in inventory.kept if each.stage[0] == folder.name]
        rows = list(folder.glob(f"{STAGES_FOLDER}/*/{STEPS_FILE}"))
        result.append(
            ShelfSummary(
                key=folder.name,
                fingerprint=_fingerprint(folder),
                stages=len(rows),
                steps=sum(_size(path) // ROW_BYTES for path in rows),
                checkpoints=len(kept),
                checkpoint_bytes=sum(each.num_bytes for each in kept),
                num_bytes=_tree_size(folder),
                counts=_counts(folder),
                last_used=_last_used(folder),
                running=sum(key == folder.name for key, _ in inventory.running),
            )
        )
    return sorted(result, key=lambda summary: -summary.last_used)


def prune(
    store: StageStore,
    *,
    shelves: Collection[str] = (),
    unused_seconds: float | None = None,
    checkpoint_bytes: int | None = None,
    dry_run: bool = False,
) -> PruneReport:
    """Remove shelves and checkpoints; nothing that a running trial needs, and nothing that another trial would miss.

    Args:
        store: whose.
        shelves: keys of shelves to remove, or the first letters of one.
        unused_seconds: remove the shelves that no trial has used for so long.
        checkpoint_bytes: bytes of checkpoints to leave; those that cost least to replace go first. Their losses and
            evaluations stay.
        dry_run: only say what would go.

    Raises:
        UserError: a key fits no shelf, or more than one.
    """
    folders = {folder.name: folder for folder in store.folders()}
    doomed = {_find(key, folders) for key in shelves}
    if unused_seconds is not None:
        doomed |= {key for key, folder in folders.items() if _last_used(folder) < time.time() - unused_seconds}
    inventory = store.inventory()
    running = {key for key, _ in inventory.running}
    gone, num_bytes = [], 0
    for key in sorted(doomed - running):
        with unused(folders[key]) as free:
            if free:
                gone.append(key)
                num_bytes += _tree_size(folders[key])
                if not dry_run:
                    _remove_shelf(folders[key])
    holdings = Holdings((each for each in inventory.kept if each.stage[0] not in gone), inventory.origins)
    given_up = []
    if checkpoint_bytes is not None:
        excess = holdings.num_bytes - checkpoint_bytes
        given_up = holdings.give_up(excess, pinned=pinned(holdings, inventory))
    if not dry_run:
        for leftover in store.root.glob(f"{_REMOVED}*"):  # A prune was killed.
            shutil.rmtree(leftover, ignore_errors=True)
        remove(given_up)
        for key in set(folders) - set(gone):
            _remove_debris(store, folders[key])
    return PruneReport(
        shelves=tuple(gone),
        checkpoints=len(given_up),
        num_bytes=num_bytes + sum(each.num_bytes for each in given_up),
        skipped=tuple(sorted(doomed - set(gone))),
    )


def _find(key: str, folders: Collection[str]) -> str:
    """Return the one shelf whose key begins with `key`."""
    found = [each for each in folders if each.startswith(key)]
    if len(key) < 4 or len(found) != 1:
        known = ", ".join(sorted(each[:8] for each in folders)) or "none"
        raise UserError(
            f"a shelf is named by four or more first letters of its key, but {key!r} fits {len(found)}; "
            f"there are: {known}"
        )
    return found[0]


def _fingerprint(folder: Path) -> Mapping[str, Any] | None:
    try:
        content: Mapping[str, Any] = read_checked(folder / FINGERPRINT_FILE, {"format": FORMAT})["fingerprint"]
    except (OSError, DamagedError):
        return None
    return content


def _counts(folder: Path) -> StepCounts:
    """Return the sums over the trials of a shelf; a line that was cut off by a kill counts nothing."""
    counts = StepCounts()
    with suppress(OSError):  # none yet, or not to be read
        for line in (folder / SAVINGS_FILE).read_bytes().splitlines():
            with suppress(ValueError, TypeError, KeyError, RecursionError):
                content = json.loads(line)
                trial = {name: int(content[name]) for name in asdict(counts)}
                counts = StepCounts(**{name: value + trial[name] for name, value in asdict(counts).items()})
    return counts


def _last_used(folder: Path) -> float:
    """Return when a trial on the shelf last ended, or began a stage."""
    known = (path.stat().st_mtime for path in (folder / STAGES_FOLDER, folder / SAVINGS_FILE) if path.exists())
    return max(known, default=0.0)


def _remove_shelf(folder: Path) -> None:
    """Remove a shelf; it is gone at once for whoever looks, and then its files go. Of a link only the link goes."""
    if folder.is_symlink():
        folder.unlink()
        return
    gone = folder.with_name(f"{_REMOVED}{uuid4().hex}")
    folder.rename(gone)
    shutil.rmtree(gone)


def _remove_debris(store: StageStore, folder: Path) -> None:
    """Remove what no walk can use: stages that are cut off, damaged or distrusted, and files half written."""
    sweep_scratch(folder / SCRATCH_FOLDER)
    origins = store.inventory().origins
    for stage in folder.glob(f"{STAGES_FOLDER}/*"):
        empty = not _size(stage / STEPS_FILE)
        useless = empty or (folder.name, stage.name) not in origins or (stage / DISTRUSTED_FILE).exists()
        # A stage of this moment may not have its header yet.
        if useless and stage.stat().st_mtime < time.time() - 10 and not is_locked(stage / STEPS_FILE):
            shutil.rmtree(stage, ignore_errors=True)


def _tree_size(folder: Path) -> int:
    return sum(_size(path) for path in folder.rglob("*") if path.is_file())


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
