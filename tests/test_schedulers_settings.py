"""Settings by name: forms, defaults, ranges, and the one line a person gets who is wrong about them."""

import subprocess
import sys

import pytest

from tuner.errors import UserError
from tuner.schedulers.registry import defaults, names, resolve, setting_names

PUBLISHED_STEPS = 202_000


def test_every_default_is_accepted_and_changes_nothing():
    for name in names():
        assert resolve(name, defaults(name), total_steps=5000).params == resolve(name, {}, total_steps=5000).params


def test_defaults_are_the_published_setting_at_the_published_length():
    fastface = resolve("fastface", {}, total_steps=PUBLISHED_STEPS).params
    assert fastface.a == pytest.approx(1e-3)
    assert fastface.b == pytest.approx(1e-3)
    assert fastface.threshold_scale * 46 == pytest.approx(5e-5)
    assert (fastface.rule.patience, fastface.rule.decay_factor, fastface.rule.max_decays) == (10_100, 2, 8)
    assert fastface.rule.rebound == 0
    haar = resolve("haar", {}, total_steps=165_435).params
    assert (haar.haar_window, haar.average_window) == (2481, 2481)
    assert (haar.rule.rebound, haar.rule.rebound_after) == (4, 4)


def test_every_scheduler_runs_at_every_length_with_its_defaults():
    for name in names():
        for total_steps in (1, 2, 7, 50, 300):
            schedule = resolve(name, {}, total_steps=total_steps)
            state, factor = schedule.start()
            for step in range(total_steps):
                assert 0 <= factor <= 1
                state, factor = schedule.advance(state, 10.0 - 0.01 * step)


def test_either_form_replaces_the_default_and_both_mean_the_same():
    for name in names():
        for key, spec in setting_names(name).items():
            if spec.unit != "fraction" or not isinstance(spec.default, float):
                continue
            steps = key.removesuffix("_fraction")
            for count in (2, 29, 58, 997):
                in_steps = resolve(name, {steps: count}, total_steps=1000).params
                assert in_steps == resolve(name, {key: count / 1000}, total_steps=1000).params


def test_ema_forms_mean_the_same():
    by_decay = resolve("fastface", {"ema_decay": 0.75}, total_steps=1000).params
    assert resolve("fastface", {"ema_window": 4}, total_steps=1000).params == by_decay
    assert resolve("fastface", {"ema_window_fraction": 0.004}, total_steps=1000).params == by_decay


def test_milestones_in_each_form():
    expected = (400, 600, 800)
    for setting in (
        {"milestones": "400, 600,800"},
        {"milestones_fraction": "0.4,0.6,0.8"},
        {"first_milestone": 400, "num_milestones": 3},
        {"first_milestone_fraction": 0.4},
    ):
        assert resolve("multi_step", setting, total_steps=1000).params.milestones == expected


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("fastfaec", {}, "`fastfaec` is not a scheduler; did you mean `fastface`?"),
        ("sgd", {}, "`sgd` is not a scheduler; known are constant, cosine,"),
        (
            "fastface",
            {"patiance": 3},
            "`patiance` is not a setting of the scheduler `fastface`; did you mean",
        ),
        ("constant", {"gamma": 3}, "`gamma` is not a setting of the scheduler `constant`; known are warmup,"),
        ("fastface", {"decay_factor": 0.5}, "`decay_factor > 1` must hold, but got 0.5; the default is 2"),
        ("fastface", {"ema_decay": 1.0}, "`0 <= ema_decay < 1` must hold, but got 1.0"),
        ("fastface", {"patience_fraction": 5}, "`0 <= patience_fraction <= 1` must hold, but got 5"),
        ("fastface", {"haar_window": 1}, "`haar_window >= 2` must hold, but got 1"),
        ("fastface", {"threshold": float("nan")}, "`threshold finite` must hold, but got nan"),
        (
            "fastface",
            {"start": "zero"},
            "`start in {matched, released}` must hold, but got 'zero'; the",
        ),
        ("fastface", {"patience": 2.5}, "`patience` must be a whole number, but got 2.5"),
        ("fastface", {"patience": "many"}, "`patience` must be a number, but got 'many'"),
        ("fastface", {"patience": True}, "`patience` must be a number, but got True"),
        (
            "haar",
            {"haar_window": 9, "haar_window_fraction": 0.1},
            "`haar_window` and `haar_window_fraction` set",
        ),
        (
            "fastface",
            {"ema_decay": 0.9, "ema_window_fraction": 0.1},
            "`ema_decay` and `ema_window_fraction` set",
        ),
        ("multi_step", {"milestones": "0.5,0.75"}, "`milestones` must be whole numbers joined by commas"),
        ("multi_step", {"milestones_fraction": "0.5,1.75"}, "each with 0 <= milestones_fraction <= 1"),
        ("multi_step", {"num_milestones": 3}, "`num_milestones` needs `first_milestone_fraction`"),
        ("plateau", {"factor": 1.0}, "`0 < factor < 1` must hold, but got 1.0"),
    ],
)
def test_a_wrong_setting_gets_one_line_with_rule_value_and_way_out(name, setting, message):
    with pytest.raises(UserError) as caught:
        resolve(name, setting, total_steps=1000)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_without_steps_is_an_error():
    with pytest.raises(UserError, match="`total_steps >= 1` must hold, but got 0"):
        resolve("constant", {}, total_steps=0)


def test_the_pure_schedulers_import_no_heavy_library():
    code = (
        "import sys, tuner.schedulers.registry, tuner.schedulers.scale; "
        "print(sorted({'torch', 'numpy', 'pydantic', 'numba'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
