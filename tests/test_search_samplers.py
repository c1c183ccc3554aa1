"""A sweep cut anywhere goes on as it would have: suggestions depend on seed, number and history alone."""

import json
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest

from tuner.config.space_file import SpaceFile, space_from_text
from tuner.config.space_model import SamplerName
from tuner.names import Setting
from tuner.search.samplers import Past, Suggester, trial_seed

ONE = """
question: q
schedulers:
  - name: fastface
    parameters:
      ema_window_fraction: {low: 0.01, high: 0.1, log: true}
      patience_fraction: {low: 0.01, high: 0.2}
      max_decays: {low: 1, high: 8}
      decay_factor: {choices: [2, 4, 10]}
"""
SEVERAL = """
question: q
base_lr: {low: 0.01, high: 1, log: true}
schedulers:
  - name: fastface
  - name: cosine
    parameters: {final_factor: {low: 0, high: 0.1}}
  - name: polynomial
    parameters: {power: {low: 0.5, high: 3}, final_factor: {low: 0, high: 0.1}}
"""
GRID = """
question: q
schedulers:
  - name: fastface
    parameters:
      patience_fraction: {low: 0.05, high: 0.2, step: 0.05}
      decay_factor: {choices: [2, 4, 10]}
  - name: constant
"""
CASES: list[tuple[SamplerName, str]] = [
    ("tpe", ONE),
    ("tpe", SEVERAL),
    ("random", ONE),
    ("grid", GRID),
    ("cmaes", ONE),
    ("cmaes", SEVERAL),
    ("gp", ONE),
]


def space_of(text: str) -> SpaceFile:
    return space_from_text(text, file="x")


def value_of(params: Mapping[str, Setting]) -> float:
    """Stand in for a training run: smooth in the numbers, so that samplers have something to follow."""
    return -sum((float(value) - 0.05) ** 2 for value in params.values() if not isinstance(value, str))


def finish(number: int, params: Mapping[str, Setting]) -> Past:
    """Finish a trial; every fifth fails, and the first is a reference out of the space."""
    if number == 0:
        return Past(0, None, 0.5, drawn=False)
    return Past(number, params, None if number % 5 == 4 else value_of(params), drawn=True)


def sweep(text: str, sampler: SamplerName, *, num_trials: int, seed: int = 3, every: int | None = None) -> list[Past]:
    """Run a sweep; with `every`, each so many trials everything is thrown away but the history."""
    history: list[Past] = []
    suggester = Suggester(space_of(text), sampler=sampler, seed=seed)
    for number in range(num_trials):
        if every is not None and number % every == 0:
            suggester = Suggester(space_of(text), sampler=sampler, seed=seed)
        params = suggester.draw(number, history) if number else {}
        if params is None:
            break
        history.append(finish(number, params))
    return history


@pytest.mark.parametrize(("sampler", "text"), CASES)
def test_a_cut_sweep_suggests_what_the_whole_one_does(sampler: SamplerName, text: str) -> None:
    num_trials = 15 if sampler == "gp" else 30  # the GP draws from its eleventh success on
    whole = sweep(text, sampler, num_trials=num_trials)
    assert sweep(text, sampler, num_trials=num_trials, every=1) == whole
    assert sweep(text, sampler, num_trials=num_trials, every=7) == whole


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_seeds_give_other_trials(sampler: SamplerName) -> None:
    text = GRID if sampler == "grid" else ONE
    assert sweep(text, sampler, num_trials=8) == sweep(text, sampler, num_trials=8)
    assert sweep(text, sampler, num_trials=8) != sweep(text, sampler, num_trials=8, seed=4)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_fresh_process_suggests_the_same(sampler: SamplerName, tmp_path: Path) -> None:
    history = sweep(ONE, sampler, num_trials=25)
    script = """
import json, sys
from tuner.config.space_file import space_from_text
from tuner.search.samplers import Past, Suggester
text, sampler, history = json.load(open(sys.argv[1]))
space = space_from_text(text, file="x")
past = [Past(*entry) for entry in history]
print(json.dumps(Suggester(space, sampler=sampler, seed=3).draw(len(past), past)))
"""
    file = tmp_path / "history.json"
    file.write_text(json.dumps([ONE, sampler, [[p.number, p.params, p.value, p.drawn] for p in history]]))
    output = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=True)
    assert json.loads(output.stdout) == sweep(ONE, sampler, num_trials=26)[25].params
    assert output.stderr == ""


@pytest.mark.parametrize(("sampler", "text"), CASES)
def test_asking_twice_changes_nothing(sampler: SamplerName, text: str) -> None:
    history = sweep(text, sampler, num_trials=12)
    suggester = Suggester(space_of(text), sampler=sampler, seed=3)
    first = suggester.draw(12, history)
    assert suggester.draw(12, history) == first


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp"])
def test_samplers_learn(sampler: SamplerName) -> None:
    """The later draws are better than the random ones in the beginning."""
    text = """
question: q
schedulers:
  - name: fastface
    parameters:
      ema_window_fraction: {low: 0.01, high: 0.9}
      patience_fraction: {low: 0.01, high: 0.9}
"""
    num_trials = 17 if sampler == "gp" else 60
    history = sweep(text, sampler, num_trials=num_trials)
    drawn = [value_of(past.params) for past in history if past.params]
    assert sum(drawn[-6:]) > sum(drawn[:6])


def test_the_grid_is_walked_once_in_an_order_of_the_seed_and_then_ends() -> None:
    history = sweep(GRID, "grid", num_trials=100)
    points = [past.params for past in history if past.params is not None]
    assert len(points) == 4 * 3 + 1
    assert len({json.dumps(point, sort_keys=True) for point in points}) == len(points)
    other = [past.params for past in sweep(GRID, "grid", num_trials=100, seed=4) if past.params is not None]
    assert other != points
    assert sorted(map(str, other)) == sorted(map(str, points))


def test_a_grid_skips_a_reference_that_is_one_of_its_points() -> None:
    space = space_of(GRID)
    point: dict[str, Setting] = {
        "scheduler": "fastface",
        "fastface.patience_fraction": 0.05,
        "fastface.decay_factor": 2,
    }
    history = [Past(0, point, 0.5, drawn=False)]
    suggester = Suggester(space, sampler="grid", seed=0)
    while (params := suggester.draw(len(history), history)) is not None:
        assert params != point
        history.append(Past(len(history), params, None, drawn=True))  # a failed point is not tried again either
    assert len(history) == 13


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_any_sampler_ends_when_a_finite_space_has_been_tried(sampler: SamplerName) -> None:
    text = "question: q\nschedulers: [{name: fastface, parameters: {decay_factor: {choices: [2, 4]}}}]"
    seen = {str(past.params) for past in sweep(text, sampler, num_trials=60) if past.params}
    assert len(seen) == 2
    assert len(sweep(text, sampler, num_trials=200)) < 60


def test_a_space_that_searches_nothing_ends_after_its_one_point() -> None:
    space = space_of("question: q\nschedulers: [{name: fastface}]")
    assert Suggester(space, sampler="tpe", seed=0).draw(1, [Past(0, {}, 0.5, drawn=False)]) is None


def test_a_history_with_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the 3 trials before it"):
        Suggester(space_of(ONE), sampler="random", seed=0).draw(3, [])


def test_trial_seeds_do_not_repeat() -> None:
    assert len({trial_seed(seed, number) for seed in range(30) for number in range(100)}) == 3000


def test_sampling_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sampler, text in CASES:
            sweep(text, sampler, num_trials=14)
    assert capfd.readouterr() == ("", "")
