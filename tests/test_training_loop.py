"""The loop: which loss decides which LR, and that a run may be cut anywhere without a trace."""

import copy
import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tuner.errors import DivergedError, UserError
from tuner.schedulers.registry import Schedule, names, resolve
from tuner.training.loop import StepReport, TrainingRun, train

TOTAL = 60
JUMPY: Mapping[str, Mapping[str, Any]] = {
    "fastface": {"ema_window": 2.0, "haar_window": 4.0, "patience": 2, "threshold_fraction": 1.0, "warmup": 3}
}
"""Settings under which a scheduler changes the LR often, so that a mistake of one step shows."""


class Valley:
    """Momentum descent on a noisy parabola: weight and velocity are its state, losses depend on (seed, step)."""

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.weight, self.velocity, self.launched = seed, 2.0, 0.0, 0

    def training_step(self, step: int, lr: float) -> Tensor:
        assert step == self.launched
        self.launched += 1
        noise = math.sin(12.9898 * (self.seed + 1) * (step + 1))
        loss = (self.weight - 0.3 * noise) ** 2
        self.velocity = 0.9 * self.velocity + 2 * (self.weight - 0.3 * noise)
        self.weight -= lr * self.velocity
        return torch.tensor(loss)

    def evaluate(self) -> Mapping[str, float]:
        return {"accuracy": -abs(self.weight)}

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight, "velocity": self.velocity, "launched": self.launched}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weight, self.velocity, self.launched = state["weight"], state["velocity"], state["launched"]

    def fingerprint(self) -> Mapping[str, Any]:
        return {"seed": self.seed}


def schedule(name: str) -> Schedule:
    return resolve(name, JUMPY.get(name, {}), total_steps=TOTAL)


def fresh(name: str, *, delay: int, seed: int = 0) -> TrainingRun:
    return TrainingRun(
        workload=Valley(seed), schedule=schedule(name), base_lr=0.05, total_steps=TOTAL, loss_delay=delay
    )


def weights(run: TrainingRun) -> dict[str, Any]:
    return run.workload.state_dict()


def stored(run: TrainingRun) -> dict[str, Any]:
    """Return the state after a way through JSON, and detached from the run that goes on."""
    state = run.state_dict()
    return {"loop": json.loads(json.dumps(state["loop"])), "workload": copy.deepcopy(state["workload"])}


def expected_lrs(name: str, losses: list[float], *, delay: int) -> list[float]:
    """Return what a slow reference says: the loss of step t decides step t + 1 + delay; without reading, t + 1."""
    scheduler = schedule(name)
    state, factor = scheduler.start()
    factors = [factor] * (1 + (delay if scheduler.reads_loss else 0))
    for loss in losses:
        state, factor = scheduler.advance(state, loss)
        factors.append(factor)
    return [0.05 * factor for factor in factors[:TOTAL]]


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("name", names())
def test_each_loss_decides_the_right_lr(name: str, delay: int) -> None:
    reports = list(train(fresh(name, delay=delay)))
    assert [report.step for report in reports] == list(range(TOTAL))
    assert [report.lr for report in reports] == expected_lrs(name, [r.loss for r in reports], delay=delay)


def test_the_jumpy_settings_do_change_the_lr() -> None:
    assert len({report.lr for report in train(fresh("fastface", delay=1))}) >= 4


@given(
    name=st.sampled_from(names()),
    delay=st.integers(0, 1),
    seed=st.integers(0, 99),
    cuts=st.lists(st.integers(1, TOTAL), max_size=4, unique=True).map(sorted),
)
@settings(max_examples=150, deadline=None)
def test_a_run_saved_rebuilt_and_continued_is_the_same_run(name: str, delay: int, seed: int, cuts: list[int]) -> None:
    whole = fresh(name, delay=delay, seed=seed)
    expected = list(train(whole))
    run, reports = fresh(name, delay=delay, seed=seed), list[StepReport]()
    for cut in [*cuts, TOTAL]:
        for report in train(run):
            reports.append(report)
            if report.step + 1 == cut:
                break
        state, run = stored(run), fresh(name, delay=delay, seed=99 - seed)
        run.workload = Valley(seed)
        run.load_state_dict(state)
    assert reports == expected
    assert weights(run) == weights(whole)


@given(
    name=st.sampled_from(names()),
    delay=st.integers(0, 1),
    stops=st.lists(st.integers(0, TOTAL), max_size=5).map(sorted),
)
@settings(max_examples=60, deadline=None)
def test_stops_leave_no_trace_and_launch_nothing_beyond(name: str, delay: int, stops: list[int]) -> None:
    whole = fresh(name, delay=delay)
    expected = list(train(whole))
    run, reports = fresh(name, delay=delay), list[StepReport]()
    for stop in [*stops, TOTAL]:
        reports += train(run, stop=stop)
        assert run.step == run.steps_launched == stop
    assert reports == expected
    assert weights(run) == weights(whole)


@pytest.mark.parametrize("delay", [0, 1])
def test_the_next_step_is_launched_before_a_loss_is_read(delay: int) -> None:
    run = fresh("fastface", delay=delay)
    for report in train(run, stop=20):
        assert run.steps_launched == weights(run)["launched"] == min(20, report.step + 1 + delay)


class Cliff(Valley):
    """Its loss is not finite from `edge` on."""

    def __init__(self, value: float, *, edge: int) -> None:
        super().__init__()
        self.value, self.edge = value, edge

    def training_step(self, step: int, lr: float) -> Tensor:
        loss = super().training_step(step, lr)
        return torch.tensor(self.value) if step >= self.edge else loss


@pytest.mark.parametrize("name", ["constant", "fastface"])
@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(name: str, delay: int, value: float) -> None:
    run = TrainingRun(
        workload=Cliff(value, edge=7), schedule=schedule(name), base_lr=0.05, total_steps=TOTAL, loss_delay=delay
    )
    reports: list[StepReport] = []
    for _ in range(2):
        with pytest.raises(DivergedError, match=f"finite, but is {value} at step 7, LR 0.05"):
            reports += train(run)
    assert run.step == 7


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda loop: loop["settings"].update(base_lr=0.1), "must have base_lr 0.05, but got 0.1"),
        (lambda loop: loop["settings"].update(scheduler="cosine"), "must have scheduler fastface .*, but got cosine"),
        (lambda loop: loop["settings"].pop("total_steps"), "must have total_steps 60, but got None"),
        (lambda loop: loop["factors"].append(1.0), "LR factors, but got"),
        (lambda loop: loop.pop("factors"), "LR factors, but got None"),
        (lambda loop: loop.pop("schedule"), "scheduler's state, but got None"),
        (lambda loop: loop["schedule"].pop("level"), "fastface"),
    ],
)
def test_a_damaged_or_foreign_state_is_refused_and_changes_nothing(delay: int, damage: Any, message: str) -> None:
    saved = fresh("fastface", delay=delay)
    list(train(saved, stop=30))
    state = stored(saved)
    damage(state["loop"])
    run = fresh("fastface", delay=delay)
    with pytest.raises(UserError, match=message):
        run.load_state_dict(state)
    assert list(train(run)) == list(train(fresh("fastface", delay=delay)))


def test_a_stop_outside_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="stop=61, total_steps=60"):
        next(train(fresh("constant", delay=0), stop=61))
