"""A schedule cut anywhere, its state written as JSON and read back, goes on bit for bit."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import UserError
from tuner.schedulers.registry import names, resolve

TOTAL_STEPS = 120
SETTINGS = {
    "fastface": {"ema_decay": 0.8, "haar_window": 6, "patience": 3, "threshold": 0.1, "rebound": 3, "warmup": 4},
    "haar": {"haar_window": 7, "average_window": 5, "patience": 2, "threshold": 0.2, "warmup": 3},
    "plateau": {"interval": 4, "patience": 1, "cooldown": 1, "factor": 0.5, "warmup": 5},
}


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(names()),
    st.lists(st.floats(-1e3, 1e3), max_size=TOTAL_STEPS),
    st.lists(st.integers(0, TOTAL_STEPS), max_size=4),
)
def test_any_cut_and_resume_is_bit_identical(name, losses, cuts):
    schedule = resolve(name, SETTINGS.get(name, {}), total_steps=TOTAL_STEPS)
    whole, factor = schedule.start()
    pieces = whole
    for step, loss in enumerate(losses):
        if step in cuts:
            pieces = resolve(name, SETTINGS.get(name, {}), total_steps=TOTAL_STEPS).load(
                json.loads(json.dumps(schedule.dump(pieces), allow_nan=False))
            )
        whole, factor = schedule.advance(whole, loss)
        pieces, same = schedule.advance(pieces, loss)
        assert same == factor
        assert schedule.response(pieces) == schedule.response(whole)
        assert schedule.threshold(pieces) == schedule.threshold(whole)
    assert schedule.dump(pieces) == schedule.dump(whole)


@pytest.mark.parametrize("name", names())
def test_a_damaged_or_foreign_state_is_an_error(name):
    schedule = resolve(name, {}, total_steps=1000)
    dumped = schedule.dump(schedule.advance(schedule.start()[0], 3.0)[0])
    other = next(other for other in names() if other != name)
    for damaged in (
        {},
        {**dumped, "scheduler": other},
        {**dumped, "extra": 1},
        {key: value for key, value in dumped.items() if key != "step"},
        {**dumped, "step": "3"},
        {**dumped, "step": True},
        {**dumped, "step": -1},
        {**dumped, "step": 1.5},
    ):
        with pytest.raises(UserError, match=f"a whole state of the scheduler `{name}` is needed"):
            schedule.load(damaged)


def test_a_haar_state_of_other_windows_is_an_error():
    dumped = resolve("haar", {"haar_window": 6}, total_steps=TOTAL_STEPS)
    other = resolve("haar", {"haar_window": 8}, total_steps=TOTAL_STEPS)
    with pytest.raises(UserError, match="has windows of 6 and 6 steps, not those of this run"):
        other.load(dumped.dump(dumped.start()[0]))
    with pytest.raises(UserError, match="losses"):
        other.load({**other.dump(other.start()[0]), "losses": ["a"] * 8})
