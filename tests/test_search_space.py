"""From a space to runs: what is drawn lies in the file's ranges, and means the run that the file says."""

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.config.space_file import SpaceFile, load_space, space_from_text
from tuner.errors import UserError
from tuner.names import Setting
from tuner.schedulers import registry
from tuner.search.plan import (
    Assignment,
    assignment,
    first_trials,
    in_space,
    make_plan,
    recorded_distributions,
    reference_params,
    references,
    run_config,
    run_key,
)
from tuner.search.space import parameters, points, suggest

SEVERAL = """
question: q
base_lr: {low: 0.01, high: 1, log: true}
schedulers:
  - name: cosine
    parameters: {final_factor: {low: 0, high: 0.1}}
  - name: fastface
    parameters:
      max_decays: {low: 1, high: 7, step: 2}
      decay_factor: {choices: [4, 10]}
    fixed: {start: released}
  - name: constant
"""


def one(parameters: str, *, fixed: str = "", extra: str = "") -> SpaceFile:
    text = f"question: q\n{extra}\nschedulers: [{{name: fastface, parameters: {{{parameters}}}, fixed: {{{fixed}}}}}]"
    return space_from_text(text, file="x")


def draw(space: SpaceFile, seed: int) -> dict[str, Setting]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return suggest(space, study.ask())


def test_one_scheduler_has_plain_names_and_several_have_their_own() -> None:
    assert [entry.name for entry in parameters(one("patience: {low: 1, high: 9}"), "fastface")] == ["patience"]
    space = space_from_text(SEVERAL, file="x")
    assert [entry.name for entry in parameters(space, "fastface")] == [
        "base_lr",
        "fastface.max_decays",
        "fastface.decay_factor",
    ]
    assert [entry.name for entry in parameters(space, "constant")] == ["base_lr"]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_drawn_lies_in_the_ranges_and_can_run(seed: int) -> None:
    space = space_from_text(SEVERAL, file="x")
    plan = make_plan(space)
    params = draw(space, seed)
    assert all(entry.holds(params[entry.name]) for entry in parameters(space, str(params["scheduler"])))
    config = run_config(plan, assignment(plan, params))
    assert config.scheduler.name == params["scheduler"]
    assert config.workload.optimizer.base_lr == params["base_lr"]
    if config.scheduler.name == "fastface":
        assert config.scheduler.settings["max_decays"] in (1, 3, 5, 7)
        assert type(params["fastface.max_decays"]) is int
        assert config.scheduler.settings["decay_factor"] in (4, 10)
        assert config.scheduler.settings["start"] == "released"
    recorded = recorded_distributions(plan, params)
    assert recorded.keys() == params.keys()


@pytest.mark.parametrize("name", ["fastface", "haar", "baselines", "smoke"])
def test_any_draw_of_a_shipped_space_can_run(name: str) -> None:
    space = load_space(name)
    plan = make_plan(space)
    for seed in range(20):
        run_config(plan, assignment(plan, draw(space, seed)))


def test_a_float_setting_stays_a_float_where_the_file_writes_whole_numbers() -> None:
    params = draw(one("decay_factor: {low: 2, high: 9}"), 0)
    assert type(params["decay_factor"]) is float


def test_the_plan_decides_data_length_and_seed_of_every_run() -> None:
    space = load_space("smoke")
    plan = make_plan(space, steps=70, seed=5, data="faces")
    config = run_config(plan, references(plan)[0])
    assert (config.total_steps, config.seed, config.workload.data.source) == (70, 5, "faces")
    assert config.workload.data.image_size == 32
    assert config.workload.head == space.workload.head


def test_the_reference_is_as_published_whatever_is_fixed_or_searched() -> None:
    plan = make_plan(one("patience: {low: 1, high: 9}", fixed="decay_factor: 10", extra="base_lr: 0.3"))
    (first,) = references(plan)
    assert first == Assignment("fastface", registry.defaults("fastface"), 0.3)
    assert not in_space(plan, "fastface")  # it runs with decay_factor 2, which no point of the space does


def test_on_a_grid_every_detector_decides_at_its_points_only_the_reference_too() -> None:
    space = load_space("baselines")
    plan = make_plan(space, steps=500, decision_grid=20)
    runs = [run_config(plan, first).schedule() for first in references(plan)]
    runs += [run_config(plan, assignment(plan, draw(space, seed))).schedule() for seed in range(20)]
    grids = {schedule.name: getattr(getattr(schedule.params, "rule", None), "grid", None) for schedule in runs}
    assert grids["fastface"] == 25
    assert set(grids.values()) == {25, None}  # schedules that do not watch the loss have none


def test_the_grid_of_the_space_holds_unless_another_is_asked_for_and_a_schedulers_own_goes_first() -> None:
    space = one("decay_factor: {choices: [2, 10]}", extra="decision_grid: 10")
    grid = lambda plan: run_config(plan, assignment(plan, draw(plan.space, 0))).schedule().params.rule.grid  # noqa: E731
    assert grid(make_plan(space, steps=100)) == 10
    assert grid(make_plan(space, steps=100, decision_grid=0)) == 1
    assert grid(make_plan(space, steps=100, decision_grid=25)) == 4
    own = one("decay_factor: {choices: [2, 10]}", fixed="decision_every: 7", extra="decision_grid: 10")
    assert grid(make_plan(own, steps=100)) == 7
    with pytest.raises(UserError, match="decision_grid >= 0"):
        make_plan(space, decision_grid=-1)


@settings(max_examples=40, deadline=None)
@given(seeds=st.lists(st.integers(0, 2**32 - 1), max_size=4, unique=True))
def test_any_points_of_the_space_can_be_tried_first_and_each_run_is_tried_once(seeds: list[int]) -> None:
    plain = make_plan(space_from_text(SEVERAL, file="x"))
    wanted = [draw(plain.space, seed) for seed in seeds]
    entries = [entry.model_dump() for entry in plain.space.schedulers]
    for params in wanted:
        entry = next(entry for entry in entries if entry["name"] == params["scheduler"])
        own = {name.split(".")[-1]: value for name, value in params.items() if name != "scheduler"}
        entry["first"] = (*entry["first"], own)
    given_first = {**plain.space.model_dump(exclude={"workload"}), "schedulers": entries}
    plan = make_plan(SpaceFile.model_validate(given_first))
    trials = first_trials(plan)
    assert [first.chosen for first in trials if first.reference] == [*references(plan)]
    assert [first.reference for first in trials] == sorted((first.reference for first in trials), reverse=True)
    rest = [first for first in trials if not first.reference]
    order = [entry.name for entry in plan.space.schedulers]
    assert [first.params for first in rest] == sorted(wanted, key=lambda params: order.index(str(params["scheduler"])))
    assert all(first.chosen == assignment(plan, first.params) for first in rest)
    keys = [run_key(run_config(plan, first.chosen)) for first in trials]
    assert len(set(keys)) == len(keys)


def test_what_is_the_same_run_as_a_reference_or_another_is_not_tried_again() -> None:
    first = "first: [{patience_fraction: 0.05}, {patience_fraction: 0.1}, {patience_fraction: 0.1001}]"
    searched = "parameters: {patience_fraction: {low: 0, high: 1}}"
    space = space_from_text(f"question: q\nschedulers: [{{name: fastface, {searched}, {first}}}]", file="x")
    assert [trial.params for trial in first_trials(make_plan(space))][1:] == [{"patience_fraction": 0.1}]
    assert len(first_trials(make_plan(space, steps=100_000))) == 3  # where 0.1001 of the run is another patience


def test_values_to_try_first_are_those_that_the_space_has() -> None:
    parameters_of = "patience_fraction: {low: 0.1, high: 0.5, step: 0.1}, decay_factor: {choices: [2, 4]}"
    first = "first: [{decay_factor: 4.0, patience_fraction: 0.3}]"
    text = f"question: q\nschedulers: [{{name: fastface, parameters: {{{parameters_of}}}, {first}}}]"
    space = space_from_text(text, file="x")
    every = points(space)
    assert every is not None
    assert first_trials(make_plan(space))[1].params in [*every]  # although 0.1 + 2 * 0.1 is not 0.3


def test_references_take_the_workloads_base_lr_where_it_is_searched() -> None:
    text = SEVERAL + "workload: {optimizer: {base_lr: 0.07}}\n"
    plan = make_plan(space_from_text(text, file="x"))
    assert [(first.scheduler, first.base_lr) for first in references(plan)] == [
        ("cosine", 0.07),
        ("fastface", 0.07),
        ("constant", 0.07),
    ]


@pytest.mark.parametrize(
    ("parameter", "name", "expected"),
    [
        ("patience: {low: 1, high: 99}", "patience", 30),
        ("haar_window: {low: 2, high: 99}", "haar_window", 600 * 2 / 202),
        ("ema_decay: {low: 0, high: 0.99}", "ema_decay", 1 - 202 / 600),
        ("patience_fraction: {low: 0.01, high: 0.2}", "patience_fraction", 0.05),
    ],
)
def test_the_reference_is_told_in_the_words_of_the_space(parameter: str, name: str, expected: float) -> None:
    plan = make_plan(one(parameter))
    assert reference_params(plan, "fastface")[name] == pytest.approx(expected)
    assert in_space(plan, "fastface")


def test_a_reference_without_words_or_out_of_range_is_not_in_the_space() -> None:
    for parameter in (
        "threshold: {low: 1e-5, high: 1e-3}",  # in loss per step: the published one depends on the first loss
        "patience_fraction: {low: 0.1, high: 0.2}",
        "decay_factor: {choices: [4, 10]}",
        "max_decays: {low: 1, high: 7, step: 2}",
    ):
        assert not in_space(make_plan(one(parameter)), "fastface")


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("patience_fraction: {low: 0.1, high: 0.2, log: true}", 0.05),
        ("decay_factor: {choices: [4, 10]}", 2.0),
        ("max_decays: {low: 1, high: 7, step: 2}", 8),
        ("max_decays: {low: 10, high: 20}", 8),
        ("max_decays: {low: 2, high: 8, step: 2}", 8),
    ],
)
def test_the_journal_keeps_a_distribution_that_holds_draws_and_reference(parameter: str, value: Setting) -> None:
    plan = make_plan(one(parameter))
    params = reference_params(plan, "fastface")
    ((name, recorded),) = recorded_distributions(plan, params).items()
    assert params[name] == value
    drawn = [draw(plan.space, seed)[name] for seed in range(20)]
    assert all(recorded_distributions(plan, {name: point}) == {name: recorded} for point in drawn)
    assert all(recorded._contains(recorded.to_internal_repr(point)) for point in [*drawn, value])
    assert value not in drawn or "step: 2}" in parameter  # but the sampler draws from the file's own range


def test_equal_runs_have_equal_keys_and_different_ones_do_not() -> None:
    plan = make_plan(one("patience_fraction: {low: 0.01, high: 0.2}"))

    def key(params: dict[str, Setting], base_lr: float = 0.1, **overrides: int) -> str:
        chosen = make_plan(plan.space, **overrides)  # type: ignore[arg-type]
        return run_key(run_config(chosen, Assignment("fastface", params, base_lr)))

    same = key({"patience_fraction": 0.05})
    assert key({"patience_fraction": 0.0501}) == same  # 30 steps of 600 either way
    assert key({"patience": 30}) == same
    assert key({"patience": 30, "decay_factor": 2}) == same
    others = [
        key({"patience": 31}),
        key({"patience": 30, "decay_factor": 4}),
        key({"patience": 30}, base_lr=0.2),
        key({"patience": 30}, seed=1),
        key({"patience_fraction": 0.05}, steps=599),
    ]
    assert len({same, *others}) == 6


def test_points_are_every_combination_of_each_scheduler() -> None:
    space = space_from_text(
        """
question: q
schedulers:
  - name: fastface
    parameters: {max_decays: {low: 1, high: 3}, decay_factor: {choices: [2, 4]}}
  - name: cosine
    parameters: {final_factor: {low: 0, high: 0.2, step: 0.1}}
  - name: constant
""",
        file="x",
    )
    found = points(space)
    assert found is not None
    every = list(found)
    assert len(every) == 3 * 2 + 3 + 1
    assert len({tuple(point.items()) for point in every}) == len(every)
    assert {"scheduler": "constant"} in every
    assert points(one("patience_fraction: {low: 0.01, high: 0.2}")) is None
    nothing = points(one(""))
    assert nothing is not None
    assert list(nothing) == [{}]
