"""One setting for runs of any length: the same decays at the same shares of the run."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import UserError
from tuner.schedulers.registry import Setting, defaults, names, resolve
from tuner.schedulers.scale import rescale

STEPS = 3000
Curve = Callable[[float], float]
"""Loss as a function of the share of the run."""


def smooth(u: float) -> float:
    """Return a loss that falls ever more slowly."""
    return 2 + 40 * math.exp(-6 * u)


def stairs(u: float) -> float:
    """Return a loss that falls three times and lies flat in between."""
    return 45 - 12 * sum(1 / (1 + math.exp(-(u - centre) / 0.01)) for centre in (0.05, 0.35, 0.6))


def waves(u: float) -> float:
    """Return a falling loss with waves of a twentieth of the run."""
    return 3 + 30 * (1 - u) ** 4 + 0.04 * math.sin(40 * math.pi * u)


def changes(name: str, setting: dict[str, Setting], curve: Curve, total_steps: int) -> list[tuple[float, float]]:
    """Return (share of the run, new factor) of each LR change."""
    schedule = resolve(name, setting, total_steps=total_steps)
    state, before = schedule.start()
    found = []
    for step in range(total_steps):
        state, factor = schedule.advance(state, curve(step / total_steps))
        if factor != before:
            found.append((step / total_steps, factor))
        before = factor
    return found


def assert_same_shares(short: list[tuple[float, float]], long: list[tuple[float, float]]) -> None:
    """Assert the same changes at the same shares of the run, as exactly as steps allow.

    A change takes patience + 1 steps, and the 1 does not scale: each change of a streak adds up to one step of the
    short run. Two EMAs, each lagging its window less one step, add two, and rounding to whole steps two more.
    """
    assert [factor for _, factor in short] == [factor for _, factor in long]
    for index, ((ours, _), (theirs, _)) in enumerate(zip(short, long, strict=True)):
        assert abs(ours - theirs) <= (index + 4) / STEPS


@pytest.mark.parametrize("curve", [smooth, stairs, waves])
@pytest.mark.parametrize("name", ["fastface", "haar"])
@pytest.mark.parametrize("times", [2, 5.3, 12])
def test_a_stretched_curve_gives_the_same_decays_stretched(name, curve, times):
    short = changes(name, {}, curve, STEPS)
    assert short
    assert_same_shares(short, changes(name, {}, curve, int(STEPS * times)))


@pytest.mark.parametrize("name", ["fastface", "haar"])
def test_a_curve_held_for_k_steps_each_gives_the_same_decays_k_times_later(name):
    def held(u: float) -> float:
        return waves(math.floor(u * STEPS + 1e-9) / STEPS)

    assert_same_shares(changes(name, {}, held, STEPS), changes(name, {}, held, 7 * STEPS))


@pytest.mark.parametrize("name", ["fastface", "haar"])
def test_decays_follow_the_scale_of_the_loss(name):
    small = changes(name, {}, waves, STEPS)
    large = changes(name, {}, lambda u: 64 * waves(u), STEPS)
    assert small == large


in_steps = {
    "fastface": {"ema_decay": 0.99, "haar_window": 150, "threshold": 1e-3, "patience": 210},
    "haar": {"haar_window": 140, "average_window": 100, "threshold": 0.05, "patience": 210},
}


@pytest.mark.parametrize("curve", [smooth, stairs, waves])
@pytest.mark.parametrize("name", ["fastface", "haar"])
def test_a_setting_in_steps_is_carried_to_a_longer_run(name, curve):
    short = changes(name, in_steps[name], curve, STEPS)
    assert short
    for initial_loss in (None, curve(0)):
        rescaled = rescale(name, in_steps[name], from_steps=STEPS, to_steps=6 * STEPS, initial_loss=initial_loss)
        for setting in (rescaled.scale_free, rescaled.resolved):
            long = changes(name, setting, curve, 6 * STEPS)
            assert_same_shares(short, long)


@settings(deadline=None)
@given(st.sampled_from(names()), st.integers(1, 10**6), st.integers(1, 10**6), st.none() | st.floats(0.1, 100))
def test_both_forms_of_the_defaults_mean_the_defaults_at_any_length(name, from_steps, to_steps, initial_loss):
    rescaled = rescale(name, {}, from_steps=from_steps, to_steps=to_steps, initial_loss=initial_loss)
    assert rescaled.scale_free == defaults(name)
    expected = resolve(name, {}, total_steps=to_steps)
    found = resolve(name, rescaled.resolved, total_steps=to_steps)
    loss = initial_loss or 10.0
    ours, theirs = (schedule.advance(schedule.start()[0], loss)[0] for schedule in (found, expected))
    assert found.dump(ours) == expected.dump(theirs)
    assert found.threshold(ours) == expected.threshold(theirs)


@settings(deadline=None)
@given(st.sampled_from(["fastface", "haar"]), st.integers(500, 10**5))
def test_there_and_back_is_where_it_began(name, to_steps):
    start = resolve(name, in_steps[name], total_steps=500)
    there = rescale(name, in_steps[name], from_steps=500, to_steps=to_steps)
    back = rescale(name, there.scale_free, from_steps=to_steps, to_steps=500)
    again = resolve(name, back.resolved, total_steps=500)
    assert again.params.rule == start.params.rule
    assert again.family.reach(again.params) == start.family.reach(start.params)


def test_milestones_and_intervals_are_carried_too():
    rescaled = rescale("multi_step", {"milestones": "100,250"}, from_steps=500, to_steps=2000)
    assert rescaled.scale_free["milestones_fraction"] == "0.2,0.5"
    assert rescaled.resolved["milestones"] == "400,1000"
    plateau = rescale("plateau", {"interval": 5, "patience": 7}, from_steps=500, to_steps=2000)
    assert (plateau.resolved["interval"], plateau.resolved["patience"]) == (20, 7)
    assert (plateau.scale_free["interval_fraction"], plateau.scale_free["patience"]) == (0.01, 7)


@pytest.mark.parametrize(
    ("setting", "initial_loss", "message"),
    [
        ({}, 0.0, "`initial_loss > 0` must hold, but got 0.0"),
        ({}, float("nan"), "`initial_loss > 0` must hold, but got nan"),
        ({"patience": 900}, None, "`0 <= patience_fraction <= 1` must hold, but got 1.8"),
        ({"patiense": 900}, None, "did you mean `patience`"),
    ],
)
def test_what_cannot_be_scaled_is_an_error(setting, initial_loss, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        rescale("fastface", setting, from_steps=500, to_steps=5000, initial_loss=initial_loss)
