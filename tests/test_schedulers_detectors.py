"""Both detectors against slow references written from the paper's equations."""

import csv
import json
import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tuner.errors import DivergedError
from tuner.schedulers.registry import Schedule, State, resolve

TOTAL_STEPS = 200
LOG = Path(__file__).parents[1].parent / "shared" / "data" / "loss_logs" / "webface4m_r100.csv"

curves = st.lists(st.floats(-5, 50, allow_subnormal=False), min_size=1, max_size=90)
rules = st.fixed_dictionaries(
    {
        "patience": st.integers(0, 6),
        "decision_every": st.integers(1, 7),
        "decay_factor": st.sampled_from([1.5, 2, 3.0]),
        "max_decays": st.integers(0, 9),
        "rebound": st.sampled_from([0, 1.5, 4]),
        "rebound_after": st.integers(1, 5),
        "floor": st.sampled_from([0, 0.05, 0.6]),
        "warmup": st.integers(0, 12),
    }
)
fastface_settings = st.builds(
    dict,
    rules,
    ema_decay=st.floats(0, 0.95),
    haar_window=st.floats(2, 30),
    threshold=st.floats(-0.5, 0.5),
)
haar_settings = st.builds(
    dict,
    rules,
    haar_window=st.integers(2, 12),
    average_window=st.integers(1, 12),
    threshold=st.floats(-1, 1),
)


def run(schedule: Schedule, losses: Sequence[float]) -> tuple[list[float | None], list[float]]:
    """Return the responses, one per loss, and the factors: of step 0, and after each loss."""
    state, factor = schedule.start()
    responses, factors = [], [factor]
    for loss in losses:
        state, factor = schedule.advance(state, loss)
        responses.append(schedule.response(state))
        factors.append(factor)
    return responses, factors


def two_stage_responses(losses: Sequence[float], a: float, b: float) -> list[Fraction | None]:
    """Return the EMA of the loss, its first difference and a second EMA, exactly; both start consistently."""
    exact_a, exact_b = Fraction(a), Fraction(b)
    difference = smoothed = Fraction(0)
    responses: list[Fraction | None] = [None]
    for older, newer in pairwise(losses):
        difference = (1 - exact_a) * difference + exact_a * (Fraction(older) - Fraction(newer))
        smoothed = exact_b * difference + (1 - exact_b) * smoothed
        responses.append(smoothed)
    return responses


def haar_responses(losses: Sequence[float], average_window: int, haar_window: int) -> list[float | None]:
    """Means over the windows, written out; for an odd window the average in the middle belongs to neither half."""
    responses: list[float | None] = []
    for t in range(len(losses)):
        if t + 1 < average_window + haar_window:
            responses.append(None)
            continue
        ends = range(t - haar_window + 2, t + 2)
        averages = [math.fsum(losses[end - average_window : end]) / average_window for end in ends]
        half = haar_window // 2
        responses.append(0.5 * (math.fsum(averages[:half]) / half - math.fsum(averages[-half:]) / half))
    return responses


def reference_factors(responses: Sequence[Fraction | float | None], rule: dict[str, float]) -> list[float]:
    """Apply the rule in words: the LR changes after patience + 1 stationary decision steps in a row, on the grid."""
    level, row, decays, streak = 1.0, 0, 0, 0
    warmup = rule["warmup"]
    factors = [1 / max(1, warmup)]
    for t, response in enumerate(responses):
        if t >= warmup and response is not None:
            row = row + 1 if response < rule["threshold"] else 0
            streak = streak if row else 0
            if row > rule["patience"] and (t + 1) % rule["decision_every"] == 0:
                row = 0
                if decays < rule["max_decays"]:
                    streak += 1
                    if rule["rebound"] and streak == rule["rebound_after"]:
                        level, streak = min(1.0, level * rule["rebound"]), 0
                    else:
                        level, decays = max(rule["floor"], level / rule["decay_factor"]), decays + 1
        factors.append((t + 2) / warmup if t + 2 < warmup else level)
    return factors


def assert_close(responses: Sequence[float | None], expected: Sequence[Fraction | float | None]) -> None:
    for ours, reference in zip(responses, expected, strict=True):
        if ours is not None:
            assert reference is not None
            assert ours == pytest.approx(float(reference), rel=1e-9, abs=1e-10)


@settings(deadline=None, max_examples=150)
@given(curves, fastface_settings)
def test_fastface_equals_the_two_stage_form(losses, setting):
    responses, factors = run(resolve("fastface", setting, total_steps=TOTAL_STEPS), losses)
    expected = two_stage_responses(losses, 1 - setting["ema_decay"], 2 / setting["haar_window"])
    assert_close(responses, expected)
    # A response within a rounding error of the threshold may fall on either side of it.
    assume(all(response is None or abs(response - Fraction(setting["threshold"])) > 1e-9 for response in expected))
    assert factors == reference_factors(expected, setting)


@settings(deadline=None, max_examples=150)
@given(curves, haar_settings)
def test_haar_equals_the_means_written_out(losses, setting):
    responses, factors = run(resolve("haar", setting, total_steps=TOTAL_STEPS), losses)
    expected = haar_responses(losses, setting["average_window"], setting["haar_window"])
    assert_close(responses, expected)
    assume(all(response is None or abs(response - setting["threshold"]) > 1e-9 for response in expected))
    assert factors == reference_factors(expected, setting)


@settings(deadline=None, max_examples=50)
@given(curves, fastface_settings)
def test_released_start_is_the_released_recurrence_bit_for_bit(losses, setting):
    a, b = 1 - setting["ema_decay"], 2 / setting["haar_window"]
    newest, older = 0.0, 0.0
    expected: list[float | None] = [None]
    for t in range(1, len(losses)):
        fall = losses[t - 1] - losses[t]
        following = a * fall if t == 1 else (2 - a - b) * newest - (1 - a) * (1 - b) * older + a * b * fall
        newest, older = following, newest
        expected.append(newest)
    responses, factors = run(resolve("fastface", {**setting, "start": "released"}, total_steps=TOTAL_STEPS), losses)
    first = max(1, setting["warmup"])
    assert responses == [None] * min(first, len(losses)) + expected[first:]
    assert factors == reference_factors(expected, setting)


@pytest.mark.parametrize("name", ["fastface", "haar"])
def test_a_nonfinite_loss_is_an_error_and_leaves_the_state_as_it_was(name):
    schedule = resolve(name, {}, total_steps=2000)
    state, _ = schedule.start()
    for step in range(70):
        before = json.dumps(schedule.dump(state))
        for loss in (math.nan, math.inf, -math.inf):
            with pytest.raises(DivergedError, match=f"{loss} at step {step};"):
                schedule.advance(state, loss)
        assert json.dumps(schedule.dump(state)) == before
        state, _ = schedule.advance(state, 40.0 - step)


def short_run(seed: int) -> list[float]:
    """Return a loss that falls at many times the published threshold for 2,000 to 5,000 steps, with noise."""
    generator = np.random.default_rng(seed)
    total_steps = int(generator.integers(2000, 5001))
    falling = 5 + 41 * np.exp(-4 * np.arange(total_steps) / total_steps)
    return list((falling + generator.normal(0, 1, total_steps)).tolist())


def test_released_start_decays_early_on_short_runs_and_matched_does_not():
    published = {"ema_decay": 0.999, "haar_window": 2000, "threshold": 5e-5}
    decayed = {"released": 0, "matched": 0}
    for seed in range(40):
        losses = short_run(seed)
        for start in decayed:
            schedule = resolve("fastface", {**published, "start": start}, total_steps=len(losses))
            _, factors = run(schedule, losses)
            decayed[start] += factors[-1] < 1
    assert decayed["released"] >= 15  # wherever the loss rises in the very first step
    assert decayed["matched"] == 0


def test_scale_free_defaults_decay_on_short_runs_only_once_the_loss_is_flat():
    for seed in range(10):
        falling = short_run(seed)
        flat = np.random.default_rng(seed).normal(falling[-1], 0.1, len(falling)).tolist()
        _, factors = run(resolve("fastface", {}, total_steps=2 * len(falling)), falling + flat)
        assert min(factors[: len(falling)]) == 1
        assert factors[-1] < 1


@pytest.mark.parametrize(("average_window", "haar_window"), [(7, 7), (10, 10), (3, 8), (8, 3)])
def test_the_first_haar_decision_falls_at_the_step_with_the_last_loss_of_both_windows(average_window, haar_window):
    setting = {"average_window": average_window, "haar_window": haar_window, "threshold": 1, "patience": 0}
    responses, factors = run(resolve("haar", setting, total_steps=TOTAL_STEPS), [2.0] * 40)
    assert responses.index(0.0) == factors.index(0.5) - 1 == average_window + haar_window - 1


def test_a_falling_loss_gives_a_quarter_of_the_window_times_the_pace():
    losses = [50 - 0.25 * t for t in range(80)]
    responses, _ = run(resolve("haar", {"haar_window": 20}, total_steps=TOTAL_STEPS), losses)
    assert responses[-1] == pytest.approx(0.25 * 20 / 4)


def test_running_sums_do_not_drift_over_a_million_steps():
    window = 100
    schedule = resolve("haar", {"haar_window": window}, total_steps=10**6)
    generator = np.random.default_rng(0)
    losses = (generator.uniform(0, 50, 5000) * 10.0 ** generator.integers(-6, 7, 5000)).tolist()
    # The losses at the end are so small that the rounding errors left by the large ones before would drown them.
    tail = generator.uniform(0, 1e-3, 4 * window).tolist()
    state, _ = schedule.start()
    for loss in losses * 200 + tail:
        state, _ = schedule.advance(state, loss)
    assert schedule.response(state) == pytest.approx(haar_responses(tail, window, window)[-1], rel=1e-9)
    # An error that stays in the sums cancels in the response, so look at them too.
    dumped = schedule.dump(state)
    averages = [math.fsum(tail[end - window : end]) / window for end in range(window, len(tail) + 1)]
    assert dumped["loss_sum"] == pytest.approx(math.fsum(tail[-window:]), rel=1e-12)
    assert dumped["averages"] == pytest.approx(averages[-window // 2 :], rel=1e-12)
    assert dumped["half_sum"] == pytest.approx(math.fsum(averages[-window // 2 :]), rel=1e-12)


def test_older_haar_states_stay_valid_when_newer_ones_are_made_from_them():
    schedule = resolve("haar", {"haar_window": 6}, total_steps=TOTAL_STEPS)
    generator = np.random.default_rng(1)
    states: list[tuple[State, list[float]]] = [(schedule.start()[0], [])]
    for _ in range(300):
        state, losses = states[generator.integers(len(states))]
        loss = float(generator.uniform(0, 9))
        states.append((schedule.advance(state, loss)[0], [*losses, loss]))
    for state, losses in states:
        fresh, _ = schedule.start()
        for loss in losses:
            fresh, _ = schedule.advance(fresh, loss)
        assert schedule.dump(state) == schedule.dump(fresh)


@pytest.mark.skipif(not LOG.exists(), reason="the published loss logs lie beside the repository, not in it")
@pytest.mark.parametrize(
    ("setting", "total_steps"),
    [
        ({"haar_window": 2481, "threshold": 0.0615, "patience": 4962, "decay_factor": 2, "rebound": 4}, 165_430),
        ({}, 165_435),  # the scale-free defaults are that setting
    ],
)
def test_haar_reproduces_the_lr_changes_of_the_published_run(setting, total_steps):
    with LOG.open(encoding="ascii", newline="") as file:
        rows = [(int(row["step"]), float(row["loss"]), float(row["lr"])) for row in csv.DictReader(file)]
    recorded = [(step, old, new) for (_, _, old), (step, _, new) in pairwise(rows) if old != new]
    losses = [rows[0][1]] * 10 + [loss for _, loss, _ in rows for _ in range(10)]
    _, factors = run(resolve("haar", setting, total_steps=total_steps), losses)
    lrs = [round(0.02 * factor, 6) for factor in factors]  # the log has six decimals
    changes = [(step, lrs[step - 1], lrs[step]) for step in range(1, len(lrs)) if lrs[step] != lrs[step - 1]]
    assert len(recorded) == 18
    assert [change[1:] for change in changes] == [change[1:] for change in recorded]
    assert max(abs(ours[0] - theirs[0]) for ours, theirs in zip(changes, recorded, strict=True)) <= 100
