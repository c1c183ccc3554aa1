"""Which checkpoints go when there is no room, and that running trials keep theirs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stages_toy import FINGERPRINT, Toy, alone, decaying, plan, quick_disk, shared  # noqa: F401

from tuner.stages.budget import Holdings, Kept, Origin, StageKey
from tuner.stages.files import put
from tuner.stages.runner import SharedRun
from tuner.stages.store import StageStore


def kept(stage: str, step: int, num_bytes: int = 10) -> Kept:
    return Kept(("shelf", stage), step, num_bytes, Path(f"{stage}-{step}"))


def cost(each: Kept, left: set[Kept], origins: Mapping[StageKey, Origin]) -> int:
    """Return, the slow and obvious way, the steps to repeat for the state of `each` with only `left` there."""
    stage, limit = each.stage, each.step
    while True:
        before = [other.step for other in left if other.stage == stage and other.step <= limit and other != each]
        if before:
            return each.step - max(before)
        origin = origins[stage]
        if origin.parent is None:
            return each.step
        stage, limit = origin.parent, origin.first


@st.composite
def forests(draw: st.DrawFn) -> tuple[set[Kept], dict[StageKey, Origin]]:
    """Return a random tree of stages with random checkpoints."""
    origins: dict[StageKey, Origin] = {}
    stops: dict[StageKey, int] = {}
    checkpoints = set()
    for number in range(draw(st.integers(1, 5))):
        parent = draw(st.sampled_from([None, *origins]))
        first = 0 if parent is None else draw(st.integers(origins[parent].first + 1, stops[parent]))
        key = ("shelf", str(number))
        origins[key], stops[key] = Origin(parent, first), first + draw(st.integers(1, 30))
        for step in draw(st.sets(st.integers(first + 1, stops[key]), max_size=6)):
            checkpoints.add(kept(str(number), step, draw(st.sampled_from([10, 25]))))
    return checkpoints, origins


@given(forests(), st.integers(0, 200))
def test_each_that_goes_is_the_cheapest_to_replace_per_byte(
    forest: tuple[set[Kept], dict[StageKey, Origin]], excess: int
) -> None:
    checkpoints, origins = forest
    pinned = {(each.stage, each.step) for each in sorted(checkpoints)[::3]}
    gone = Holdings(checkpoints, origins).give_up(excess, pinned=pinned)
    left = set(checkpoints)
    for each in gone:
        prices = {
            other: cost(other, left, origins) / other.num_bytes
            for other in left
            if (other.stage, other.step) not in pinned
        }
        assert prices[each] == min(prices.values())
        left.remove(each)
    freed = sum(each.num_bytes for each in gone)
    assert freed >= excess or left == {each for each in checkpoints if (each.stage, each.step) in pinned}
    assert sum(each.num_bytes for each in gone[:-1]) < max(1, excess)


def test_a_dense_grid_is_thinned_out_and_the_only_checkpoint_of_a_stretch_stays() -> None:
    origins = {("shelf", "a"): Origin(None, 0), ("shelf", "b"): Origin(("shelf", "a"), 20)}
    holdings = Holdings([*(kept("a", step) for step in range(2, 21, 2)), kept("b", 50)], origins)
    holdings.give_up(80)
    assert max((each.stage[1], each.step) for each in holdings.kept) == ("b", 50)


def test_what_no_walk_can_reach_goes_first() -> None:
    holdings = Holdings([kept("a", 1), kept("lost", 500)], {("shelf", "a"): Origin(None, 0)})
    assert holdings.give_up(1) == [kept("lost", 500)]


def checkpoint_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.pt"))


@pytest.mark.parametrize("budget", [1, 5_000, 12_000, 40_000])
def test_the_store_never_exceeds_its_budget_and_results_stay_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    sizes = [0]

    def measured(*args: Any, **settings: Any) -> Path | None:
        path = put(*args, **settings)
        sizes.append(checkpoint_bytes(tmp_path))
        return path

    monkeypatch.setattr("tuner.stages.shelf.put", measured)
    store = StageStore(tmp_path, checkpoint_budget=budget)
    for milestone in (50, 30, 40, 10, 35):
        trial = plan("multi_step", {"milestones": str(milestone)})
        assert shared(trial, store.shelf(FINGERPRINT), (60,), checkpoint_every=4)[0] == alone(trial, (60,))
    assert max(sizes) <= budget
    assert max(sizes) > budget / 2 or budget == 1


def test_one_checkpoint_larger_than_the_budget_is_told_and_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared(decaying(), StageStore(tmp_path, checkpoint_budget=100).shelf(FINGERPRINT))
    assert caplog.text.count("does not fit into the checkpoint budget of 100 bytes") == 1
    assert checkpoint_bytes(tmp_path) == 0


@pytest.mark.parametrize("checkpoints", [0, 0.5, 2.5])
def test_a_budget_smaller_than_before_is_kept_though_nothing_more_fits(tmp_path: Path, checkpoints: float) -> None:
    store, size = tmp_path / "store", _size_of_one(tmp_path / "measure")
    shared(plan("constant"), StageStore(store).shelf(FINGERPRINT), checkpoint_every=10)
    budget = int(checkpoints * size)
    assert checkpoint_bytes(store) > max(budget, size)
    trial = plan("multi_step", {"milestones": "35"})
    smaller = StageStore(store, checkpoint_budget=budget).shelf(FINGERPRINT)
    assert shared(trial, smaller, checkpoint_every=10)[0] == alone(trial)
    assert checkpoint_bytes(store) <= max(budget, size)  # one may be what the running trial needed


def test_what_a_running_trial_would_resume_from_is_never_given_up(tmp_path: Path) -> None:
    size = _size_of_one(tmp_path / "measure")
    folder = tmp_path / "store"
    victim = SharedRun(
        plan("multi_step", {"milestones": "58"}),
        build=Toy,
        shelf=StageStore(folder).shelf(FINGERPRINT),
        checkpoint_every=1,
    )
    events = victim.events()
    for _ in range(10):
        next(events)
    # Another process with room for three checkpoints fills the store with ones that are dearer to replace.
    other = StageStore(folder, checkpoint_budget=3 * size + size // 2)
    shared(plan("multi_step", {"milestones": "5"}), other.shelf(FINGERPRINT), checkpoint_every=25)
    assert checkpoint_bytes(folder) <= 3 * size + size // 2
    seen = StageStore(folder).shelf(FINGERPRINT)
    path = seen.tree.walk(plan("multi_step", {"milestones": "58"}))
    assert max(step for _, step in path.checkpoints(until=60)) >= 9
    events.close()


def test_trials_of_several_processes_keep_one_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.stages.store.RECOUNT_SECONDS", 0.0)
    size, most = _size_of_one(tmp_path / "measure"), 0
    trials = [plan("multi_step", {"milestones": str(first)}) for first in (1, 2, 3)]
    folder = tmp_path / "store"
    budget = 12 * size
    shelves = [StageStore(folder, checkpoint_budget=budget).shelf(FINGERPRINT) for _ in trials]
    living = [
        SharedRun(trial, build=Toy, shelf=shelf, checkpoint_every=4).events()
        for trial, shelf in zip(trials, shelves, strict=True)
    ]
    while living:
        living = [events for events in living if next(events, None) is not None]
        most = max(most, checkpoint_bytes(folder))
    # Each may put one there at the moment at which another one counts.
    assert most <= budget + 2 * size


def _size_of_one(folder: Path) -> int:
    shared(plan("constant"), StageStore(folder).shelf(FINGERPRINT), checkpoint_every=60)
    return checkpoint_bytes(folder)
