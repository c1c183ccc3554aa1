"""Which checkpoints to give up when they exceed the disk budget; pure Python.

What a checkpoint is worth is the training that it saves: without it, whoever needs that state starts at the one before
it on its path, or at step 0, and repeats the steps between. So those with the fewest such steps per byte go first. That
thins out a dense grid evenly, and keeps the only checkpoint of a long stretch.
"""

import heapq
import math
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

StageKey = tuple[str, str]
"""Key of the fingerprint, id of the stage."""


@dataclass(frozen=True, slots=True, order=True)
class Kept:
    """A checkpoint on the disk: the state before `step`, kept by `stage`."""

    stage: StageKey
    step: int
    num_bytes: int
    path: Path


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a stage comes from: its `parent` (None: the start of training) and its first step."""

    parent: StageKey | None
    first: int


class Holdings:
    """Checkpoints, and the stages that they belong to.

    Args:
        kept: the checkpoints.
        origins: of every stage that can be reached from step 0; a checkpoint of any other stage is worth nothing.
    """

    def __init__(self, kept: Iterable[Kept], origins: Mapping[StageKey, Origin]) -> None:
        self.kept = set(kept)
        self._origins = origins
        self._steps: dict[StageKey, list[int]] = {}
        for each in self.kept:
            self._steps.setdefault(each.stage, []).append(each.step)
        for steps in self._steps.values():
            steps.sort()

    @property
    def num_bytes(self) -> int:
        """Bytes of all checkpoints."""
        return sum(each.num_bytes for each in self.kept)

    def latest(self, stage: StageKey) -> tuple[StageKey, int] | None:
        """Return stage and step of the latest checkpoint on the path to a stage's end; None where there is none."""
        return self._before(stage, math.inf)

    def steps_saved(self, each: Kept) -> int:
        """Return the steps that would be repeated without this checkpoint."""
        if each.stage not in self._origins:
            return 0
        before = self._before(each.stage, each.step)
        return each.step - (0 if before is None else before[1])

    def give_up(self, excess: int, *, pinned: Collection[tuple[StageKey, int]] = ()) -> list[Kept]:
        """Remove and return checkpoints of `excess` bytes or more in all, the cheapest to replace first.

        Those `pinned`, by stage and step, stay; so it may be fewer bytes.
        """
        heap = [(self._price(each), each) for each in self.kept if (each.stage, each.step) not in pinned]
        heapq.heapify(heap)
        gone: list[Kept] = []
        while heap and excess > 0:
            price, each = heapq.heappop(heap)
            now = self._price(each)
            if now > price:  # The one before it went in the meantime.
                heapq.heappush(heap, (now, each))
                continue
            gone.append(each)
            excess -= each.num_bytes
            self.kept.remove(each)
            self._steps[each.stage].remove(each.step)
        return gone

    def _price(self, each: Kept) -> float:
        return self.steps_saved(each) / max(1, each.num_bytes)

    def _before(self, stage: StageKey, limit: float) -> tuple[StageKey, int] | None:
        """Return the latest checkpoint, on a stage's path, of a state before a step < `limit`."""
        while stage in self._origins:
            steps = self._steps.get(stage, [])
            if cut := bisect_left(steps, limit):
                return stage, steps[cut - 1]
            origin = self._origins[stage]
            if origin.parent is None:
                return None
            stage, limit = origin.parent, origin.first + 1
        return None
