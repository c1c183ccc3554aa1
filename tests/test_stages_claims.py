"""Trials at the same time: what one of them trains the others wait for, so that no step is trained twice."""

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stages_toy import FINGERPRINT, Toy, alone, common, decaying, lrs, plan, plans, quick_disk, shared  # noqa: F401
from torch import Tensor

from tuner.errors import DivergedError
from tuner.stages.events import Evaluation, Event, Waiting
from tuner.stages.forecast import Forecaster
from tuner.stages.runner import SharedRun
from tuner.stages.shelf import Shelf
from tuner.stages.store import StageStore, shelf_key
from tuner.stages.tree import Plan
from tuner.stages.upkeep import prune
from tuner.training.loop import StepReport

HALF_AND_END = (30, 60)


@pytest.fixture(scope="module", autouse=True)
def quick_looks() -> Iterator[None]:
    """Look again at once: here all trials take turns in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuner.stages.runner.LOOK_SECONDS", 0.0)
        yield


def open_shelf(folder: Path) -> Shelf:
    """Return the shelf as another process finds it, which holds locks of its own."""
    return StageStore(folder, checkpoint_budget=None).shelf(FINGERPRINT)


def no_build() -> Toy:
    raise AssertionError("a trial that only follows needs no workload")


class Trial:
    """One of several trials that take turns; what it has reported until now."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        evaluate_at: Collection[int] = (),
        *,
        label: str = "",
        build: Callable[[], Toy] = Toy,
    ) -> None:
        self.plan, self.evaluate_at = plan, evaluate_at
        self.run = SharedRun(
            plan, build=build, shelf=open_shelf(folder), evaluate_at=evaluate_at, checkpoint_every=10, label=label
        )
        self.events = self.run.events()
        self.reports: list[StepReport] = []
        self.metrics: dict[int, Mapping[str, float]] = {}
        self.waits: list[Waiting] = []
        self.ended = False

    def turn(self) -> Event | None:
        """Take one event; None at the end."""
        event = next(self.events, None)
        if isinstance(event, StepReport):
            self.reports.append(event)
        elif isinstance(event, Evaluation):
            self.metrics[event.steps] = event.metrics
        elif isinstance(event, Waiting):
            self.waits.append(event)
        self.ended = event is None
        return event

    def until(self, steps: int) -> "Trial":
        """Take turns until so many steps are reported."""
        while len(self.reports) < steps:
            assert self.turn() is not None
        return self

    def until_it_waits(self) -> Waiting:
        before = len(self.waits)
        while len(self.waits) == before:
            assert self.turn() is not None
        return self.waits[-1]

    @property
    def new_steps(self) -> int:
        return self.run.counts.executed - self.run.counts.repeated

    @property
    def is_right(self) -> bool:
        return (self.reports, self.metrics) == alone(self.plan, self.evaluate_at)


def take_turns(trials: Sequence[Trial], order: Iterator[int]) -> None:
    """Run all trials to their ends; where all wait for one another, fail."""
    waiting = 0
    while living := [trial for trial in trials if not trial.ended]:
        moved = False
        for _ in living:
            living[next(order) % len(living)].turn()
        for trial in living:
            moved |= not isinstance(None if trial.ended else trial.turn(), Waiting)
        waiting = 0 if moved else waiting + 1
        # Whoever waits for files that a thread writes does so while their trial goes on.
        assert waiting < 3, "all trials wait for one another"


def distinct_steps(trials: Sequence[Plan]) -> int:
    histories = [lrs(alone(trial)) for trial in trials]
    return len({tuple(history[:stop]) for history in histories for stop in range(1, len(history) + 1)})


@given(
    st.lists(st.tuples(plans, st.sets(st.integers(1, 40), max_size=2)), min_size=2, max_size=4),
    st.randoms(use_true_random=False),
)
@settings(max_examples=20, deadline=None)
def test_no_step_is_trained_twice_whoever_comes_first(
    chosen: list[tuple[Plan, set[int]]], shuffler: random.Random
) -> None:
    with TemporaryDirectory() as folder:
        trials = [Trial(each, Path(folder), evaluate_at) for each, evaluate_at in chosen]
        take_turns(trials, iter(lambda: shuffler.randrange(100), None))
        assert all(trial.is_right for trial in trials)
        assert sum(trial.new_steps for trial in trials) == distinct_steps([each for each, _ in chosen])


@given(
    st.lists(plans, min_size=2, max_size=4),
    st.lists(st.integers(0, 80), min_size=4, max_size=4),
    st.randoms(use_true_random=False),
)
@settings(max_examples=15, deadline=None)
def test_trials_that_are_stopped_anywhere_hold_nobody_up(
    chosen: list[Plan], cuts: list[int], shuffler: random.Random
) -> None:
    with TemporaryDirectory() as folder:
        stopped = [Trial(each, Path(folder)) for each in chosen]
        for _ in range(max(cuts)):
            for trial, cut in zip(stopped, cuts, strict=False):
                if not trial.ended and len(trial.waits) + len(trial.reports) < cut:
                    trial.turn()
        later = [Trial(each, Path(folder)) for each in chosen]
        for trial in stopped:
            trial.events.close()
        take_turns(later, iter(lambda: shuffler.randrange(100), None))
        assert all(trial.is_right for trial in later)
        assert sum(trial.new_steps for trial in [*stopped, *later]) == distinct_steps(chosen)


def test_of_two_equal_trials_one_trains_and_the_other_follows(tmp_path: Path) -> None:
    first = Trial(decaying(), tmp_path, HALF_AND_END, label="first")
    second = Trial(decaying(), tmp_path, HALF_AND_END, label="second", build=no_build)
    first.until(5)
    assert second.until_it_waits() == Waiting(5, "first")
    take_turns([first, second], iter(int, 1))
    assert first.is_right
    assert second.is_right
    assert (first.new_steps, second.run.counts.executed, second.run.counts.shared) == (60, 0, 60)
    assert second.run.shared_with == {"first": 60}


def test_a_lone_trial_never_waits(tmp_path: Path) -> None:
    for trial in (decaying(3), decaying(9), decaying(3)):
        lone = Trial(trial, tmp_path, HALF_AND_END)
        take_turns([lone], iter(int, 1))
        assert lone.waits == []


def test_a_step_is_claimed_before_it_is_trained(tmp_path: Path) -> None:
    """Between a claim and the first new step there may be many that are repeated."""
    shared(plan("constant"), open_shelf(tmp_path), checkpoint_every=1000)
    trial = plan("multi_step", {"milestones": "30"})
    first, second = Trial(trial, tmp_path, label="first"), Trial(trial, tmp_path, build=no_build)
    first.until(30).turn()
    assert first.new_steps == 0
    assert second.until_it_waits() == Waiting(30, "first")
    take_turns([first, second], iter(int, 1))
    assert second.is_right


def test_trials_follow_for_as_long_as_their_lrs_are_the_same(tmp_path: Path) -> None:
    late, early = decaying(9), decaying(3)
    parted = common(lrs(alone(late)), lrs(alone(early)))
    assert 0 < parted < 60
    trials = [Trial(each, tmp_path, label=str(number)) for number, each in enumerate((late, early, early, late))]
    take_turns(trials, iter(int, 1))
    assert all(trial.is_right for trial in trials)
    assert [trial.new_steps for trial in trials] == [60, 60 - parted, 0, 0]
    assert trials[2].run.shared_with == {"0": parted, "1": 60 - parted}


def test_where_a_shorter_trial_ends_one_of_its_followers_goes_on(tmp_path: Path) -> None:
    short = Trial(plan("constant", total_steps=40), tmp_path)
    followers = [Trial(plan("constant"), tmp_path) for _ in range(3)]
    take_turns([short, *followers], iter(int, 1))
    assert all(trial.is_right for trial in (short, *followers))
    assert sorted(trial.new_steps for trial in followers) == [0, 0, 20]


def test_where_a_trial_is_stopped_a_follower_takes_over(tmp_path: Path) -> None:
    first, *others = (Trial(decaying(), tmp_path, HALF_AND_END) for _ in range(3))
    first.until(25)
    for other in others:
        other.until_it_waits()
    first.events.close()
    take_turns(others, iter(int, 1))
    assert all(other.is_right for other in others)
    assert sorted(other.new_steps for other in others) == [0, 60 - first.new_steps]
    assert sum(other.run.counts.repeated for other in others) == 0


def test_a_trial_that_waits_can_be_stopped_and_leaves_nothing(tmp_path: Path) -> None:
    first, second = Trial(decaying(), tmp_path), Trial(decaying(), tmp_path, build=no_build)
    first.until(20)
    second.until_it_waits()
    second.events.close()
    first.until(60)
    assert first.is_right
    assert len(list(tmp_path.rglob("steps.bin"))) == 1


def test_a_trial_stopped_before_its_first_new_step_leaves_no_claim(tmp_path: Path) -> None:
    shared(plan("constant"), open_shelf(tmp_path), checkpoint_every=1000)
    trial = plan("multi_step", {"milestones": "30"})
    first, second = Trial(trial, tmp_path), Trial(trial, tmp_path)
    first.until(30).turn()
    second.until_it_waits()
    first.events.close()
    take_turns([second], iter(int, 1))
    assert second.is_right
    assert len(list(tmp_path.rglob("steps.bin"))) == 2


class Diverging(Toy):
    """Its loss is infinite from a step on."""

    def training_step(self, step: int, lr: float) -> Tensor:
        loss = super().training_step(step, lr)
        return loss if step < 25 else loss * math.inf


def test_who_follows_a_trial_that_diverges_does_so_without_training(tmp_path: Path) -> None:
    first = Trial(plan("constant"), tmp_path, build=Diverging)
    second = Trial(plan("constant"), tmp_path, build=no_build)
    first.until(20)
    second.until_it_waits()
    with pytest.raises(DivergedError) as told:
        first.until(60)
    with pytest.raises(DivergedError) as heard:
        second.until(60)
    assert str(heard.value) == str(told.value)


def test_an_evaluation_that_another_trial_is_about_to_make_is_waited_for(tmp_path: Path) -> None:
    first, second = (
        Trial(decaying(), tmp_path, (30,), label="first"),
        Trial(decaying(), tmp_path, (30,), build=no_build),
    )
    first.until(30)  # trained, but not evaluated
    second.until(30)
    assert second.until_it_waits() == Waiting(30, "first")
    take_turns([first, second], iter(int, 1))
    assert second.is_right


class Evaluated(Toy):
    """Counts how often it is evaluated."""

    times = 0

    def evaluate(self) -> Mapping[str, float]:
        Evaluated.times += 1
        return super().evaluate()


def test_an_evaluation_that_is_missing_is_made_by_one_of_those_who_want_it(tmp_path: Path) -> None:
    shared(decaying(), open_shelf(tmp_path), checkpoint_every=1000)
    Evaluated.times = 0
    trials = [Trial(decaying(), tmp_path, (40,), build=Evaluated) for _ in range(3)]
    take_turns(trials, iter(int, 1))
    assert all(trial.is_right for trial in trials)
    assert Evaluated.times == 1
    assert list(tmp_path.rglob("evaluations/*.lock")) == []


def test_who_looks_for_a_trial_to_run_learns_what_is_being_trained(tmp_path: Path) -> None:
    trial, other = decaying(9), decaying(3)
    store = StageStore(tmp_path)
    assert not Forecaster(store.shelf(FINGERPRINT).tree).forecast(trial).claimed
    running = Trial(trial, tmp_path).until(5)
    assert Forecaster(store.tree(shelf_key(FINGERPRINT))).forecast(trial).claimed
    assert not Forecaster(store.tree(shelf_key(FINGERPRINT))).forecast(plan("cosine")).claimed
    running.until(60)
    assert not Forecaster(store.tree(shelf_key(FINGERPRINT))).forecast(trial).claimed
    assert not Forecaster(store.tree(shelf_key(FINGERPRINT))).forecast(other).claimed
    departing = Trial(other, tmp_path).until(common(lrs(alone(trial)), lrs(alone(other))))
    departing.turn()
    assert Forecaster(store.tree(shelf_key(FINGERPRINT))).forecast(other).claimed
    departing.events.close()
    assert not Forecaster(store.tree(shelf_key(FINGERPRINT))).forecast(other).claimed


def test_a_shelf_stays_while_a_trial_replays_it(tmp_path: Path) -> None:
    shared(decaying(), open_shelf(tmp_path))
    replaying = Trial(decaying(), tmp_path).until(1)
    for dry_run in (True, False):
        report = prune(StageStore(tmp_path), unused_seconds=0, dry_run=dry_run)
        assert (report.shelves, report.skipped) == ((), (shelf_key(FINGERPRINT),))
    take_turns([replaying], iter(int, 1))
    assert replaying.is_right
    assert prune(StageStore(tmp_path), unused_seconds=0).shelves == (shelf_key(FINGERPRINT),)


def test_a_shelf_removed_before_a_trial_begins_is_made_again(tmp_path: Path) -> None:
    shared(decaying(), open_shelf(tmp_path))
    trial = Trial(decaying(), tmp_path)
    prune(StageStore(tmp_path), unused_seconds=0)
    take_turns([trial], iter(int, 1))
    assert trial.is_right
    assert trial.new_steps == 60


@pytest.mark.parametrize(
    "damage", [b'{"stage": "unfin', b"\x00" * 40, b"[1]\n{}\nnull\n", None], ids=["cut", "zeros", "other", "gone"]
)
def test_a_damaged_register_lets_nobody_train_what_is_known_or_wait_for_ever(
    tmp_path: Path, damage: bytes | None
) -> None:
    shared(plan("constant"), open_shelf(tmp_path))
    register = next(tmp_path.rglob("register.jsonl"))
    if damage is None:
        register.unlink()
    else:
        register.write_bytes(register.read_bytes() + damage)
    trials = [Trial(plan("multi_step", {"milestones": "30"}), tmp_path) for _ in range(2)]
    take_turns(trials, iter(int, 1))
    assert all(trial.is_right for trial in trials)
    assert [trial.new_steps for trial in trials] == [30, 0]
