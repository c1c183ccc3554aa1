"""Trials that share steps give what they would give alone, bit for bit, and are counted honestly."""

import math
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stages_toy import FINGERPRINT, Toy, alone, common, decaying, lrs, plan, plans, quick_disk, shared  # noqa: F401
from torch import Tensor

from tuner.errors import DivergedError, UserError
from tuner.stages.events import Repetition
from tuner.stages.runner import SharedRun
from tuner.stages.shelf import Shelf
from tuner.stages.store import StageStore
from tuner.stages.tree import Plan

HALF_AND_END = (20, 40)


def open_shelf(folder: Path) -> Shelf:
    """Return the shelf as a process finds it that has just started."""
    return StageStore(folder, checkpoint_budget=None).shelf(FINGERPRINT)


def no_build() -> Toy:
    raise AssertionError("a trial on known ground needs no workload")


@given(
    st.lists(st.tuples(plans, st.sets(st.integers(1, 40), max_size=3), st.integers(2, 30), st.booleans()), max_size=6)
)
@settings(max_examples=25, deadline=None)
def test_sharing_changes_nothing_and_executed_and_shared_steps_add_up(
    trials: list[tuple[Plan, set[int], int, bool]],
) -> None:
    with TemporaryDirectory() as folder:
        shelf = open_shelf(Path(folder))
        before: list[list[float]] = []
        for trial, evaluate_at, every, restart in trials:
            if restart:
                shelf = open_shelf(Path(folder))
            shelf.refresh()
            expected = alone(trial, evaluate_at)
            result, counts = shared(trial, shelf, evaluate_at, checkpoint_every=every)
            assert result == expected
            known = max((common(lrs(expected), other) for other in before), default=0)
            assert counts.shared == known
            assert counts.executed - counts.repeated + counts.shared == trial.total_steps
            before.append(lrs(expected))


def test_without_a_shelf_all_is_trained_and_nothing_written(tmp_path: Path) -> None:
    for _ in range(2):
        result, counts = shared(decaying(), None, HALF_AND_END)
        assert result == alone(decaying(), HALF_AND_END)
        assert (counts.executed, counts.repeated, counts.shared) == (60, 0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_is_wholly_known_builds_no_workload(tmp_path: Path) -> None:
    shared(decaying(), open_shelf(tmp_path), HALF_AND_END)
    result, counts = shared(decaying(), open_shelf(tmp_path), HALF_AND_END, build=no_build)
    assert result == alone(decaying(), HALF_AND_END)
    assert (counts.executed, counts.repeated, counts.shared) == (0, 0, 60)


def test_a_missing_evaluation_is_made_from_the_nearest_checkpoint_and_then_known(tmp_path: Path) -> None:
    shared(decaying(), open_shelf(tmp_path), HALF_AND_END, checkpoint_every=10)
    more = (13, 33, 60)
    result, counts = shared(decaying(), open_shelf(tmp_path), more, checkpoint_every=10)
    assert result == alone(decaying(), more)
    assert counts.shared == 60
    assert counts.executed == counts.repeated <= 2 * 3
    result, counts = shared(decaying(), open_shelf(tmp_path), (*more, *HALF_AND_END), build=no_build)
    assert result == alone(decaying(), (*more, *HALF_AND_END))


def test_no_more_is_repeated_than_one_interval_of_the_grid(tmp_path: Path) -> None:
    shared(plan("constant"), open_shelf(tmp_path), checkpoint_every=7)
    for milestone in reversed(range(1, 60, 3)):
        trial = plan("multi_step", {"milestones": str(milestone)})
        result, counts = shared(trial, open_shelf(tmp_path), checkpoint_every=7)
        assert result == alone(trial)
        assert (counts.shared, counts.repeated) == (milestone, milestone % 7)


def test_where_the_lr_changes_and_where_a_trial_departs_there_are_checkpoints(tmp_path: Path) -> None:
    for delay in (0, 1):
        shelf = StageStore(tmp_path / str(delay)).shelf(FINGERPRINT)
        shared(plan("multi_step", {"milestones": "20,43"}, delay=delay), shelf, checkpoint_every=1000)
        (first,) = shelf.tree.stages.values()
        assert sorted(first.checkpoints) == [20, 43, 60]
        shared(plan("multi_step", {"milestones": "31"}, delay=delay), shelf, checkpoint_every=1000)
        _, counts = shared(plan("constant", delay=delay), shelf, checkpoint_every=1000)
        assert (counts.shared, counts.repeated) == (31, 0)


def test_a_smooth_schedule_leaves_checkpoints_on_the_grid_only(tmp_path: Path) -> None:
    shelf = open_shelf(tmp_path)
    shared(plan("cosine"), shelf)
    (stage,) = shelf.tree.stages.values()
    assert sorted(stage.checkpoints) == list(range(3, 61, 3))


def test_a_longer_run_finds_what_a_shorter_one_left(tmp_path: Path) -> None:
    shared(decaying(total_steps=40), open_shelf(tmp_path))
    result, counts = shared(decaying(total_steps=61), open_shelf(tmp_path))
    assert result == alone(decaying(total_steps=61))
    assert (counts.shared, counts.repeated, counts.executed) == (40, 0, 21)


@given(st.integers(0, 59), st.sampled_from([0, 1]), st.integers(5, 60))
@settings(max_examples=25, deadline=None)
def test_a_trial_broken_off_anywhere_goes_on_without_a_repeated_step(cut: int, delay: int, every: int) -> None:
    trial = decaying(delay=delay)
    with TemporaryDirectory() as folder:
        run = SharedRun(trial, build=Toy, shelf=open_shelf(Path(folder)), checkpoint_every=every)
        events = run.events()
        for _ in range(cut):
            next(events)
        events.close()
        recorded = run.counts.executed
        assert cut <= recorded <= cut + delay
        result, counts = shared(trial, open_shelf(Path(folder)), HALF_AND_END, checkpoint_every=every)
        assert result == alone(trial, HALF_AND_END)
        assert counts.shared == recorded
        if recorded < min(HALF_AND_END):
            assert counts.repeated == 0


def test_what_another_process_adds_is_seen_by_the_next_trial(tmp_path: Path) -> None:
    events = SharedRun(decaying(), build=Toy, shelf=open_shelf(tmp_path), checkpoint_every=20).events()
    shelf = open_shelf(tmp_path)
    for steps in (10, 35):
        while len(shelf.tree.stages) == 0 or shelf.tree.walk(decaying()).stop < steps:
            next(events)
            shelf.refresh()
        assert shelf.tree.walk(decaying()).stop == steps
    assert [step for _, step in shelf.tree.walk(decaying()).checkpoints(until=60)][-1] <= 20
    events.close()


def test_repetitions_are_told_one_by_one(tmp_path: Path) -> None:
    shared(plan("constant"), open_shelf(tmp_path), checkpoint_every=1000)
    run = SharedRun(plan("multi_step", {"milestones": "30"}), build=Toy, shelf=open_shelf(tmp_path))
    events = list(run.events())
    assert [event.step for event in events if isinstance(event, Repetition)] == list(range(30))
    assert events[30] == Repetition(0)
    assert run.counts.repeated == 30


class Diverging(Toy):
    """Its loss is infinite from a step on."""

    def training_step(self, step: int, lr: float) -> Tensor:
        loss = super().training_step(step, lr)
        return loss if step < 25 else loss * math.inf


@pytest.mark.parametrize("delay", [0, 1])
def test_a_divergence_is_known_to_all_who_come_that_way(tmp_path: Path, delay: int) -> None:
    with pytest.raises(DivergedError) as first:
        shared(plan("constant", delay=delay), open_shelf(tmp_path), build=Diverging)
    run = SharedRun(plan("multi_step", {"milestones": "40"}, delay=delay), build=no_build, shelf=open_shelf(tmp_path))
    with pytest.raises(DivergedError) as second:
        list(run.events())
    assert str(second.value) == str(first.value)
    assert "step 25" in str(first.value)
    # Whoever decays before that may be spared.
    spared = plan("multi_step", {"milestones": "20"}, delay=delay)
    assert shared(spared, open_shelf(tmp_path))[0] == alone(spared)


class Drifted(Toy):
    """The same fingerprint, but other numbers from a step on: a library was changed, say."""

    def training_step(self, step: int, lr: float) -> Tensor:
        loss = super().training_step(step, lr)
        return loss if step < 17 else loss + 1e-15


def test_a_repeated_step_with_another_loss_is_an_error_and_its_record_distrusted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared(plan("constant"), open_shelf(tmp_path), checkpoint_every=15)
    other = plan("multi_step", {"milestones": "20"})
    with pytest.raises(UserError, match="step 17 was recorded with loss"):
        shared(other, open_shelf(tmp_path), build=Drifted)
    result, counts = shared(other, open_shelf(tmp_path), build=Toy)
    assert result == alone(other)
    assert counts.shared == 0
    assert "is dropped" in caplog.text


def test_a_device_that_is_not_deterministic_shares_without_the_check(tmp_path: Path) -> None:
    shared(plan("constant"), open_shelf(tmp_path), checkpoint_every=15)
    other = plan("multi_step", {"milestones": "20"})
    _, counts = shared(other, open_shelf(tmp_path), build=Drifted, deterministic=False)
    assert (counts.shared, counts.repeated) == (20, 5)


class Unsaveable(Toy):
    """Holds a state that could only be read back as a pickled object."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "rng": {"generator": torch.Generator()}}


def test_a_state_that_cannot_be_read_back_as_data_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state_dict\(\)\['rng'\]\['generator'\] is a Generator"):
        shared(decaying(), open_shelf(tmp_path), build=Unsaveable)


class InPlace(Toy):
    """Updates the tensors that its state holds, as torch's optimizers do."""

    def training_step(self, step: int, lr: float) -> Tensor:
        weight, velocity = self.weight, self.velocity
        loss = super().training_step(step, lr)
        weight.copy_(self.weight)
        velocity.copy_(self.velocity)
        self.weight, self.velocity = weight, velocity
        return loss

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(dict(state))


def test_a_checkpoint_does_not_change_while_training_goes_on(tmp_path: Path) -> None:
    shared(plan("constant"), open_shelf(tmp_path), build=InPlace, checkpoint_every=1)
    for milestone in (1, 30, 59):
        trial = plan("multi_step", {"milestones": str(milestone)})
        result, counts = shared(trial, open_shelf(tmp_path), build=InPlace)
        assert result == alone(trial)
        assert counts.repeated == 0
