"""The cost-aware search: what is forecast of a run, which candidate wins, and what the ledger makes of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stages_toy import BASE_LR, alone, common, decaying, lrs, plans
from test_stages_tree import record, stage

from tuner.config.run import RunConfig
from tuner.config.space_file import space_from_text
from tuner.config.space_model import SamplerName
from tuner.search.cost_aware import (
    FEWEST_TRIALS,
    SEGMENTS,
    Prospect,
    choose,
    expected_improvement,
    lr_profile,
)
from tuner.search.ledger import Ledger
from tuner.search.plan import Plan, make_plan
from tuner.stages.forecast import Forecaster
from tuner.stages.tree import Plan as Trial
from tuner.stages.tree import Tree

SPACE = """
question: q
steps: 400
schedulers:
  - name: multi_step
    parameters:
      first_milestone_fraction: {low: 0.05, high: 0.95}
      gamma: {choices: [0.1, 0.5]}
"""


@given(st.lists(plans, min_size=1, max_size=5), plans)
@settings(max_examples=60, deadline=None)
def test_a_forecast_is_exact_on_known_ground_and_whole_beyond(trials: list[Trial], candidate: Trial) -> None:
    tree = Tree()
    for number, trial in enumerate(trials):
        record(tree, trial, f"{number:02d}")
    expected = Forecaster(tree).forecast(candidate)
    wanted = lrs(alone(candidate))
    known = max(common(wanted, lrs(alone(trial))) for trial in trials)
    assert expected.known == known
    assert len(expected.lrs) == candidate.total_steps
    exact = candidate.total_steps if not candidate.schedule.reads_loss else known + 1
    assert list(expected.lrs[:exact]) == wanted[:exact]


def test_beyond_known_ground_losses_are_those_of_the_run_that_did_most_alike() -> None:
    """The run that the candidate leaves stands still for ever, which would make it decay again and again."""
    candidate, steps = decaying(patience=8), 60
    tree = Tree([stage("still", [(BASE_LR, 5.0)] * steps, parent=None, first=0)])
    leaves = tree.walk(candidate).stop
    assert 1 < leaves < steps - 20
    falls = [(BASE_LR / 2, 5.0 - 0.1 * step) for step in range(1, steps - leaves + 2)]
    tree.add(stage("decayed", falls, parent="still", first=leaves - 1))
    expected = Forecaster(tree).forecast(candidate)
    assert expected.known == leaves
    assert expected.lrs == (BASE_LR,) * leaves + (BASE_LR / 2,) * (steps - leaves)


def test_a_forecast_does_not_depend_on_the_order_in_which_stages_were_found() -> None:
    trials = [decaying(patience) for patience in (2, 5, 9, 14)]
    tree = Tree()
    for number, trial in enumerate(trials):
        record(tree, trial, f"{number:02d}")
    turned = Tree(reversed(tree.stages.values()))
    for candidate in (decaying(7), decaying(3, factor=3.0), decaying(11, factor=1.5)):
        assert Forecaster(turned).forecast(candidate) == Forecaster(tree).forecast(candidate)


def test_without_known_ground_a_schedule_that_ignores_the_loss_is_known_all_the_same() -> None:
    space = space_from_text(SPACE, file="x")
    config = RunConfig.model_validate({"scheduler": {"name": "cosine"}, "total_steps": space.steps})
    trial = Trial(schedule=config.schedule(), base_lr=1.0, total_steps=config.total_steps)
    expected = Forecaster(Tree()).forecast(trial)
    assert expected.known == 0
    assert expected.lrs[0] == 1.0
    assert expected.lrs[200] == pytest.approx(0.5, abs=0.01)
    assert expected.lrs[-1] < 0.001


def test_a_profile_says_how_often_the_lr_was_halved_in_each_twelfth() -> None:
    halved = [0.2] * 60 + [0.1] * 60
    assert lr_profile(halved, reference=0.2) == (0.0,) * 6 + (-1.0,) * 6
    assert lr_profile([0.4] * 3, reference=0.2) == (1.0,) * SEGMENTS
    assert lr_profile([0.0] * 24, reference=0.2) == (-10.0,) * SEGMENTS  # no LR is not infinitely far from a small one


def prospect(share: float, level: float) -> Prospect:
    return Prospect(share, (level,) * SEGMENTS)


PAST = [(prospect(0.0, level), -((level + 3) ** 2)) for level in (0.0, -1.0, -2.0, -4.0, -5.0, -6.0)]


def test_of_two_that_promise_the_same_the_cheaper_one_is_run_until_the_budget_is_spent() -> None:
    twins = [prospect(1.0, -3.0), prospect(0.1, -3.0)]
    assert choose(twins, PAST, spent=0.0) == 1
    better = [prospect(1.0, -3.0), prospect(0.9, -0.1)]
    assert choose(better, PAST, spent=0.0) == 0
    dear = [prospect(1.0, -3.0), prospect(0.02, -2.2)]
    assert choose(dear, PAST, spent=1.0) == 0  # in the end only the promise counts


def test_what_was_run_already_is_not_run_again() -> None:
    known = prospect(0.0, -2.0)
    assert choose([known, prospect(1.0, -0.5)], PAST, spent=0.0) == 1
    # Known from another sweep, but not to this one: free, and worth to be told.
    assert choose([prospect(1.0, -0.5), prospect(0.0, -3.0)], PAST, spent=0.0) == 1


def test_a_candidate_whose_next_step_another_trial_trains_waits_where_there_is_another() -> None:
    claimed = replace(prospect(1.0, -3.0), claimed=True)
    assert choose([claimed, prospect(1.0, -0.5)], PAST, spent=0.0) == 1
    assert choose([claimed], PAST, spent=0.0) == 0


def test_without_enough_values_candidates_are_taken_as_they_come() -> None:
    assert choose([prospect(1.0, -3.0), prospect(0.1, -3.0)], PAST[: FEWEST_TRIALS - 1], spent=0.0) == 0


def test_one_ruined_run_does_not_hide_which_of_the_good_ones_is_best() -> None:
    points = np.array([[level] * SEGMENTS for level in (0.0, -1.0, -2.0, -4.0, -5.0, -9.0)])
    values = np.array([0.80, 0.82, 0.83, 0.83, 0.82, -1000.0])
    near, far = expected_improvement(points, values, np.array([[-3.0] * SEGMENTS, [-0.5] * SEGMENTS]))
    assert near > far


def simulated(plan: Plan, path: Path, *, cost_aware: bool, budget: int, reopen: bool = False) -> tuple[list, list]:
    """Run a sweep whose value depends on where the LR decays; return its parameters and values against steps."""
    ledger, tree, executed = Ledger.create(path, plan=plan), Tree(), 0
    tried, found = [], []

    def trial_of(config: RunConfig) -> Trial:
        return Trial(schedule=config.schedule(), base_lr=0.2, total_steps=config.total_steps)

    def look_up(config: RunConfig) -> Prospect:
        known = Forecaster(tree).forecast(trial_of(config))
        return Prospect(1 - known.known / plan.steps, lr_profile(known.lrs, reference=0.2))

    while executed < budget:
        if reopen:
            ledger = Ledger.open(path)
        suggestion = ledger.ask(forecast=look_up if cost_aware else None, spent=executed / budget)
        assert suggestion is not None
        known = Forecaster(tree).forecast(trial_of(suggestion.config))
        profile = np.array(lr_profile(known.lrs, reference=0.2))
        value = -float(np.abs(profile - np.repeat([0.0, -1.0, -2.0], [8, 2, 2])).sum())
        rows = [(lr, 1.0) for lr in known.lrs]
        if known.known < plan.steps:
            path_known = tree.walk(trial_of(suggestion.config))
            parent = path_known.stage_before(path_known.stop)
            name = f"{suggestion.number:04d}"
            tree.add(stage(name, rows[known.known :], parent=parent.id if parent else None, first=known.known))
        executed += plan.steps - known.known
        ledger.tell(suggestion.number, value=value)
        tried.append(suggestion.params)
        found.append((executed, value))
    return tried, found


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_it_finds_better_settings_in_the_same_number_of_steps(tmp_path: Path, sampler: SamplerName) -> None:
    best = {True: 0.0, False: 0.0}
    for seed in range(3):
        plan = make_plan(space_from_text(SPACE, file="x"), sampler=sampler, seed=seed)
        for mode in best:
            _, found = simulated(plan, tmp_path / f"{seed}{mode}", cost_aware=mode, budget=8 * plan.steps)
            best[mode] += max(value for _, value in found)
    assert best[True] > best[False]


@pytest.mark.parametrize("first", [[], [{"first_milestone_fraction": 0.7, "gamma": 0.5}]])
def test_a_cost_aware_sweep_that_is_cut_suggests_what_the_whole_one_does(
    tmp_path: Path, first: list[dict[str, float]]
) -> None:
    plan = make_plan(space_from_text(f"{SPACE}    first: {first}\n", file="x"))
    whole, _ = simulated(plan, tmp_path / "whole", cost_aware=True, budget=6 * plan.steps)
    cut, _ = simulated(plan, tmp_path / "cut", cost_aware=True, budget=6 * plan.steps, reopen=True)
    assert cut == whole
    assert whole[1 : 1 + len(first)] == first
    assert len(whole) > FEWEST_TRIALS
