"""The store of a workspace: a shelf of stages per fingerprint, under one disk budget for checkpoints."""

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

from tuner.room import floor_bytes, free_bytes, shortage
from tuner.stages.budget import Holdings, Kept, Origin, StageKey
from tuner.stages.files import (
    CHECKPOINTS_FOLDER,
    FORMAT,
    STEPS_FILE,
    DamagedError,
    Header,
    is_locked,
    parse_checkpoint_name,
    read_header,
    remove_file,
)
from tuner.stages.shelf import STAGES_FOLDER, Shelf
from tuner.stages.tree import Tree

DEFAULT_BUDGET: Final = 20 * 2**30
"""Bytes of checkpoints that a store keeps unless it is told otherwise."""
RECOUNT_SECONDS: Final = 10.0
"""How long a count of the store's checkpoints holds; others may put some there too."""

_KEY: Final = re.compile("[0-9a-f]{32}")
_log = logging.getLogger(__name__)


def shelf_key(fingerprint: Mapping[str, Any]) -> str:
    """Return the name of a fingerprint's shelf: 32 hexadecimal digits of the SHA-256 of its JSON-like data."""
    text = json.dumps({"format": FORMAT, "fingerprint": fingerprint}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is on all shelves: checkpoints, origins of the stages that can be reached, and those that run now."""

    kept: tuple[Kept, ...]
    origins: Mapping[StageKey, Origin]
    running: frozenset[StageKey]


class StageStore:
    """Recorded stages of any number of fingerprints.

    Args:
        root: folder of the store; it is made when something is first put into it.
        checkpoint_budget: bytes of checkpoints that it may hold; None sets no limit.
    """

    def __init__(self, root: Path, *, checkpoint_budget: int | None = DEFAULT_BUDGET) -> None:
        self.root = root
        self._budget = checkpoint_budget
        self._shelves: dict[str, Shelf] = {}
        self._headers: dict[StageKey, Header] = {}
        self._ended: set[StageKey] = set()
        self._num_bytes: int | None = None
        self._next_count = 0.0
        self._warned = False
        self._told_full = False
        self._lock = Lock()

    def shelf(self, fingerprint: Mapping[str, Any]) -> Shelf:
        """Return the shelf of a fingerprint, up to date; the same object each time.

        Raises:
            UserError: the folder of this name is the shelf of another fingerprint.
        """
        key = shelf_key(fingerprint)
        if key not in self._shelves:
            self._shelves[key] = Shelf(self.root / key, make_room=self._make_room, relieve_disk=self.relieve_disk)
        self._shelves[key].fingerprint = fingerprint
        self._shelves[key].check()
        self._shelves[key].refresh()
        # Other processes may have put checkpoints into the store.
        self._num_bytes = None
        return self._shelves[key]

    def tree(self, key: str) -> Tree:
        """Return what is recorded on the shelf of a key, up to date; to look at only."""
        if key not in self._shelves:
            if not _KEY.fullmatch(key):
                raise ValueError(f"the key of a shelf must be 32 hexadecimal digits, but got {key!r}")
            self._shelves[key] = Shelf(self.root / key, make_room=self._make_room, relieve_disk=self.relieve_disk)
        self._shelves[key].refresh()
        return self._shelves[key].tree

    def folders(self) -> list[Path]:
        """Return the folders of all shelves; those that are being removed have other names."""
        return sorted(folder for folder in self.root.glob("*") if _KEY.fullmatch(folder.name))

    def inventory(self) -> Inventory:
        """Look through all shelves."""
        headers: dict[StageKey, Header] = {}
        kept: list[Kept] = []
        for folder in (stage for shelf in self.folders() for stage in (shelf / STAGES_FOLDER).glob("*")):
            stage = (folder.parent.parent.name, folder.name)
            header = self._header(stage, folder)
            if header is not None:
                headers[stage] = header
            for path in (folder / CHECKPOINTS_FOLDER).glob("*.pt"):
                if (parsed := parse_checkpoint_name(path.name)) is not None:
                    step, num_bytes, _ = parsed
                    kept.append(Kept(stage, step, num_bytes, path))
        running = frozenset(stage for stage in headers if self._is_running(stage))
        return Inventory(tuple(kept), _origins(headers), running)

    def relieve_disk(self, num_bytes: int = 0) -> bool:
        """Give up checkpoints until the disk has room for `num_bytes` more; return whether it has.

        Those that a running trial would go back to stay; all stay where that would not be enough.
        """
        if shortage(self.root, needed=num_bytes) is None:
            return True
        with self._lock:
            missing = num_bytes + floor_bytes(self.root) - free_bytes(self.root)
            inventory = self.inventory()
            holdings = Holdings(inventory.kept, inventory.origins)
            gone = holdings.give_up(missing, pinned=pinned(holdings, inventory))
            if sum(each.num_bytes for each in gone) < missing:
                return False
            if not self._told_full:
                self._told_full = True
                _log.warning("the disk is nearly full: checkpoints in %s are given up for what is new", self.root)
            remove(gone)
            self._num_bytes = None
        return shortage(self.root, needed=num_bytes) is None

    def _make_room(self, num_bytes: int) -> bool:
        """Give up checkpoints until there is room for one more; False where that is not enough.

        Then only those go that exceed the budget without it, as where it was larger before.
        """
        if self._budget is None:
            return True
        with self._lock:
            return self._keep_budget(num_bytes, budget=self._budget)

    def _keep_budget(self, num_bytes: int, *, budget: int) -> bool:
        outdated = time.monotonic() >= self._next_count
        if self._num_bytes is None or outdated or self._num_bytes + num_bytes > budget:
            self._next_count = time.monotonic() + RECOUNT_SECONDS
            inventory = self.inventory()
            holdings = Holdings(inventory.kept, inventory.origins)
            excess = holdings.num_bytes + num_bytes - budget
            # Some more than needed, so that not every checkpoint starts a search.
            slack = budget // 20 if excess > 0 else 0
            gone = holdings.give_up(excess + slack, pinned=pinned(holdings, inventory))
            if holdings.num_bytes + num_bytes > budget:
                holdings = Holdings(inventory.kept, inventory.origins)
                remove(holdings.give_up(excess - num_bytes, pinned=pinned(holdings, inventory)))
                self._warn_once(num_bytes)
                return False
            remove(gone)
            self._num_bytes = holdings.num_bytes
        self._num_bytes += num_bytes
        return True

    def _warn_once(self, num_bytes: int) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "a checkpoint of %d bytes does not fit into the checkpoint budget of %d bytes, so departing trials "
                "repeat more steps; raise the budget",
                num_bytes,
                self._budget,
            )

    def _header(self, stage: StageKey, folder: Path) -> Header | None:
        if stage not in self._headers:
            try:
                self._headers[stage] = read_header(folder)
            except (OSError, DamagedError):
                return None
        return self._headers[stage]

    def _is_running(self, stage: StageKey) -> bool:
        if stage in self._ended:
            return False
        if is_locked(self.root / stage[0] / STAGES_FOLDER / stage[1] / STEPS_FILE):
            return True
        self._ended.add(stage)
        return False


def pinned(holdings: Holdings, inventory: Inventory) -> set[tuple[StageKey, int]]:
    """Return the checkpoints that running trials go back to if they are broken off: the latest on each one's path."""
    latest = (holdings.latest(stage) for stage in inventory.running)
    return {each for each in latest if each is not None}


def remove(checkpoints: Iterable[Kept]) -> None:
    """Remove checkpoints from the disk; another process may have been faster, and what cannot be removed stays."""
    for each in checkpoints:
        remove_file(each.path)


def _origins(headers: Mapping[StageKey, Header]) -> dict[StageKey, Origin]:
    """Return where the stages come from, without those whose ancestors are lost."""
    origins: dict[StageKey, Origin] = {}
    # A stage starts after its parent did, so parents come first.
    for stage, header in sorted(headers.items(), key=lambda item: item[1].first):
        parent = None if header.parent is None else (stage[0], header.parent)
        if parent is None or parent in origins:
            origins[stage] = Origin(parent, header.first)
    return origins
