"""FastFace with a cooldown: the detector's LR, times a straight fall to 0 over the end of the run."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import UserError
from tuner.schedulers.registry import defaults, resolve
from tuner.schedulers.scale import rescale

TOTAL_STEPS = 90
DETECTOR = {"ema_window": 3, "haar_window": 4, "threshold": 0.5, "patience": 5}


def factors(name: str, losses: list[float], **more: float) -> list[float]:
    """Return the factor of each step of a run with these losses."""
    schedule = resolve(name, {**DETECTOR, **more}, total_steps=TOTAL_STEPS)
    state, factor = schedule.start()
    found = [factor]
    for loss in losses[:-1]:
        state, factor = schedule.advance(state, loss)
        found.append(factor)
    return found


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 50), min_size=TOTAL_STEPS, max_size=TOTAL_STEPS), st.integers(0, TOTAL_STEPS))
def test_the_lr_is_the_detectors_until_the_cooldown_and_falls_straight_to_0_in_it(
    losses: list[float], cooldown: int
) -> None:
    plain = factors("fastface", losses)
    cooled = factors("fastface_cooldown", losses, cooldown=cooldown)
    begin = TOTAL_STEPS - cooldown
    assert cooled[:begin] == plain[:begin]
    for step in range(begin, TOTAL_STEPS):
        assert cooled[step] == pytest.approx(plain[step] * (TOTAL_STEPS - step) / cooldown)
    if cooldown:
        assert cooled[-1] == pytest.approx(plain[-1] / cooldown)


def test_a_cooldown_over_the_whole_run_of_a_silent_detector_is_a_straight_line() -> None:
    falling = [50.0 - step / 2 for step in range(TOTAL_STEPS)]
    line = factors("fastface_cooldown", falling, cooldown_fraction=1.0, threshold=0.0)
    assert line == pytest.approx([1 - step / TOTAL_STEPS for step in range(TOTAL_STEPS)])


def test_losses_after_the_end_leave_the_lr_at_0() -> None:
    schedule = resolve("fastface_cooldown", {}, total_steps=8)
    state, factor = schedule.start()
    for _ in range(8):
        assert factor > 0.0
        state, factor = schedule.advance(state, 1.0)
    assert factor == schedule.advance(state, 1.0)[1] == 0.0


def test_it_has_the_detectors_settings_and_scales_as_they_do() -> None:
    assert defaults("fastface_cooldown") == {**defaults("fastface"), "cooldown_fraction": 0.25}
    longer = rescale("fastface_cooldown", {"cooldown": 30, "patience": 10}, from_steps=100, to_steps=1000)
    assert (longer.resolved["cooldown"], longer.resolved["patience"]) == (300, 100)
    with pytest.raises(UserError, match="cooldown_fraction <= 1"):
        resolve("fastface_cooldown", {"cooldown_fraction": 1.5}, total_steps=10)
