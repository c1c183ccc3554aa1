"""Search-space files: the shipped ones load, and each mistake gets one line with the file, the path and the way out."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tuner.cli.main import app
from tuner.config import space_file
from tuner.config.space_file import (
    SpaceFile,
    load_space,
    shipped_spaces,
    space_from_record,
    space_from_text,
    space_record,
)
from tuner.config.space_model import Domain
from tuner.errors import UserError
from tuner.schedulers import registry
from tuner.search.plan import in_space, make_plan, references, run_config

HEAD = "question: q\n"
FASTFACE = HEAD + "schedulers:\n  - name: fastface\n    parameters:\n"
PATIENCE = FASTFACE + "      patience_fraction: "
FIRST = (
    FASTFACE + "      decay_factor: {choices: [2, 4, 10]}\n      max_decays: {low: 1, high: 7, step: 2}\n    first: "
)
PLAIN = HEAD + "schedulers: [{name: fastface}]\n"
SHIPPED = ["baselines", "classification", "fastface", "fastface_cooldown", "haar", "smoke"]


def test_the_spaces_on_the_page_of_other_tasks_load() -> None:
    page = (Path(__file__).parents[1] / "docs" / "other_tasks.md").read_text("utf-8")
    pictures, masked = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert space_from_text(pictures, file="x.yaml").workload.source == "flowers"
    assert space_from_text(masked, file="x.yaml").objective.maximize


def message(tmp_path: Path, text: str) -> str:
    file = tmp_path / "x.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_space(file)
    line = str(caught.value)
    assert line.startswith(f"{file}: ")
    assert "\n" not in line
    return line.removeprefix(f"{file}: ")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_space_loads_and_its_first_trials_can_run(name: str) -> None:
    space = load_space(name)
    assert space.question.endswith("?")
    assert space.source
    assert "#" in space.text  # a reason for each range
    plan = make_plan(space)
    for first in references(plan):
        assert run_config(plan, first).schedule().name == first.scheduler


def test_the_list_of_shipped_spaces_is_complete() -> None:
    assert [name for name, _ in shipped_spaces()] == SHIPPED
    assert dict(shipped_spaces())["fastface"] == load_space("fastface").question


@pytest.mark.parametrize("name", ["classification", "fastface", "fastface_cooldown", "haar", "smoke"])
def test_the_published_setting_lies_in_the_shipped_ranges(name: str) -> None:
    plan = make_plan(load_space(name))
    assert in_space(plan, plan.space.schedulers[0].name)


def test_baselines_begin_with_fastface_as_published_and_hold_every_usual_schedule() -> None:
    space = load_space("baselines")
    assert space.schedulers[0].name == "fastface"
    assert not space.schedulers[0].parameters
    assert {entry.name for entry in space.schedulers} == {
        "constant",
        "multi_step",
        "cosine",
        "polynomial",
        "plateau",
        "fastface",
    }
    assert isinstance(space.base_lr, Domain)


def test_a_shipped_space_can_be_printed_to_begin_ones_own_with() -> None:
    printed = CliRunner().invoke(app, ["spaces", "fastface"]).stdout
    assert space_from_text(printed, file="mine.yaml").model_dump() == load_space("fastface").model_dump()
    as_json = json.loads(CliRunner().invoke(app, ["spaces", "fastface", "--json"]).stdout)
    assert SpaceFile.model_validate(as_json).model_dump() == load_space("fastface").model_dump()


def test_shipped_spaces_are_found_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "tuner" / "search_spaces"
    inside.mkdir(parents=True)
    (inside / "mine.yaml").write_text(PLAIN)
    monkeypatch.setattr(space_file, "__file__", str(tmp_path / "tuner" / "config" / "space_file.py"))
    assert shipped_spaces() == [("mine", "q")]
    assert load_space("mine").schedulers[0].name == "fastface"


def test_a_file_of_the_users_own_works_the_same(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(load_space("fastface").text)
    mine, shipped = load_space(file), load_space("fastface")
    assert mine.model_dump() == shipped.model_dump()
    assert mine.file == str(file)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_space_survives_being_recorded(name: str) -> None:
    space = load_space(name)
    back = space_from_record(space_record(space))
    assert back == space
    assert (back.text, back.file) == (space.text, space.file)


def test_settings_to_try_first_are_recorded_and_a_record_from_before_there_were_any_has_none() -> None:
    space = space_from_text(FIRST + "[{decay_factor: 2, max_decays: 3}]\n", file="x")
    record = json.loads(json.dumps(space_record(space)))
    assert space_from_record(record) == space
    del record["space"]["schedulers"][0]["first"]
    assert space_from_record(record).schedulers[0].first == ()


def test_a_record_of_another_version_is_refused_with_its_reason() -> None:
    record = space_record(load_space("smoke"))
    record["space"]["colour"] = "blue"
    with pytest.raises(UserError, match="unknown key `colour`"):
        space_from_record(record)


def test_numbers_are_read_as_people_write_them() -> None:
    text = HEAD + (
        "base_lr: {low: 1e-3, high: 1E-1, log: true}\n"
        "schedulers:\n  - name: fastface\n    parameters:\n"
        "      patience: {low: 010, high: 20}\n"
        "      threshold: {low: -1e-5, high: +.5}\n"
        "      max_decays: {choices: [1, 2]}\n"
    )
    space = space_from_text(text, file="x")
    assert isinstance(space.base_lr, Domain)
    assert space.base_lr.ends() == (0.001, 0.1)
    parameters = space.schedulers[0].parameters
    assert parameters["patience"].ends() == (10, 20)
    assert all(type(end) is int for end in parameters["patience"].ends())
    assert parameters["threshold"].ends() == (-1e-5, 0.5)


def test_yaml_1_1_surprises_are_gone() -> None:
    space = space_from_text("question: on\nsource: 1:30\n" + "schedulers: [{name: no}]\n", file="x")
    assert (space.question, space.source, space.schedulers[0].name) == ("on", "1:30", "no")


def test_anchors_and_merge_keys_work() -> None:
    text = (
        FASTFACE
        + "      ema_window_fraction: &a {low: 0.01, high: 0.1}\n      haar_window_fraction: {<<: *a, high: 0.2}\n"
    )
    parameters = space_from_text(text, file="x").schedulers[0].parameters
    assert parameters["haar_window_fraction"].ends() == (0.01, 0.2)


def test_a_bomb_of_aliases_is_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    with pytest.raises(UserError, match="unknown key"):
        space_from_text("\n".join(lines), file="x")


BAD_FILES = [
    ("", "the file is empty"),
    ("# only a comment\n", "the file is empty"),
    ("- a\n", "a mapping (`key: value`) must stand at the top, but got a list"),
    ("a: [1,\n", "not readable as YAML at line 2"),
    (HEAD + "steps: 1\nsteps: 2\n", "`steps` is given twice; keep one of them"),
    (
        FASTFACE + "      decay_factor: {low: 2, high: 4, low: 3}\n",
        "`schedulers[0].parameters.decay_factor.low` is given twice",
    ),
    ("a: &a [*a]\n", "an anchor must not contain itself"),
    ("? [a]\n: 3\n", "a key must be a word"),
    (HEAD, "`schedulers` is required, but is missing"),
    ("question: q\nschedulrs: []\n", "unknown key `schedulrs`; did you mean `schedulers`?"),
    ("question: ''\nschedulers: [{name: fastface}]\n", "question: must not be empty"),
    (HEAD + "schedulers: []\n", "schedulers: at least one scheduler must be listed"),
    (HEAD + "schedulers: {name: x}\n", "schedulers: a list is needed"),
    (HEAD + "step: 10\nschedulers: [{name: fastface}]\n", "unknown key `step`; did you mean `steps`?"),
    (
        FASTFACE + "      decay_factor: {lo: 2, high: 4}\n",
        "unknown key `schedulers[0].parameters.decay_factor.lo`; did you mean `low`?",
    ),
    (
        PLAIN + "workload: {data: {imagesize: 32}}\n",
        "unknown key `workload.data.imagesize`; did you mean `image_size`?",
    ),
    (
        PLAIN + "workload: {data: {image_size: 33}}\n",
        "workload.data.image_size: input should be a multiple of 16, but got 33",
    ),
    (
        HEAD + "schedulers: [{name: fastfac}]\n",
        "schedulers[0].name: `fastfac` is not a scheduler; did you mean `fastface`?",
    ),
    (
        HEAD + "schedulers: [{name: cosine}, {name: cosine}]\n",
        "each scheduler may stand once, but `cosine` stands 2 times",
    ),
    (FASTFACE + "      patience_fractio: {low: 0.1, high: 0.2}\n", "did you mean `patience_fraction`?"),
    (PATIENCE + "{low: 0.2, high: 0.1}\n", "`low < high` must hold, but got low=0.2, high=0.1"),
    (PATIENCE + "{low: 0.2, high: 0.2}\n", "a single value belongs under `fixed`"),
    (PATIENCE + "{low: 0, high: 0.1, log: true}\n", "`low > 0` must hold with `log: true`, but got low=0"),
    (PATIENCE + "{low: 0.1, high: 0.2, log: true, step: 0.1}\n", "`step` and `log: true` exclude each other"),
    (PATIENCE + "{low: 0.1, high: 0.2, step: 0}\n", "`step > 0` must hold, but got step=0"),
    (PATIENCE + "{low: 0.1, high: 0.25, step: 0.1}\n", "try high=0.2"),
    (PATIENCE + "{choices: []}\n", "at least two `choices` must be given, but got []"),
    (PATIENCE + "{choices: [0.1]}\n", "a single value belongs under `fixed`"),
    (PATIENCE + "{choices: [0.1, 0.1]}\n", "`choices` must differ from each other"),
    (PATIENCE + "{choices: [0.1, 0.2], low: 0.1}\n", "not both"),
    (PATIENCE + "{low: 0.1}\n", "both `low` and `high` must be given, or a list of `choices`"),
    (PATIENCE + "0.1\n", "schedulers[0].parameters.patience_fraction: a mapping (`key: value`) is needed, but got 0.1"),
    (PATIENCE + "{low: a, high: 1}\n", "schedulers[0].parameters.patience_fraction.low: must be a number, but got 'a'"),
    (PATIENCE + "{low: true, high: 2}\n", "patience_fraction.low: must be a number, but got True"),
    (PATIENCE + "{low: 0.1, high: .inf}\n", "patience_fraction.high: must be finite, but got inf"),
    (
        PATIENCE + "{low: -0.1, high: 0.2}\n",
        "patience_fraction.low: `0 <= patience_fraction <= 1` must hold, but got -0.1",
    ),
    (
        FASTFACE + "      decay_factor: {choices: [2, 0.5]}\n",
        "decay_factor.choices[1]: `decay_factor > 1` must hold, but got 0.5",
    ),
    (FASTFACE + "      start: {choices: [matched, releasd]}\n", "start.choices[1]: "),
    (FASTFACE + "      start: {low: 0, high: 1}\n", "needs `choices`, but got a range"),
    (
        FASTFACE + "      max_decays: {low: 1.5, high: 8}\n",
        "max_decays.low: `max_decays` counts whole numbers, but got 1.5; write 2",
    ),
    (
        FASTFACE + "      patience: {low: 1, high: 20}\n      patience_fraction: {low: 0.1, high: 0.2}\n",
        "`patience` and `patience_fraction` set the same thing in two forms",
    ),
    (FASTFACE + "      patience: {low: 1, high: 20}\n    fixed: {patience_fraction: 0.1}\n", "in two forms"),
    (
        FASTFACE + "      patience: {low: 1, high: 20}\n    fixed: {patience: 3}\n",
        "must be searched or fixed, not both",
    ),
    (
        HEAD + "schedulers: [{name: fastface, fixed: {decay_factor: 1}}]\n",
        "schedulers[0].fixed.decay_factor: `decay_factor > 1`",
    ),
    (
        HEAD + "schedulers: [{name: fastface, fixed: {decay: 1}}]\n",
        "schedulers[0].fixed.decay: `decay` is not a setting",
    ),
    (
        PLAIN + "objective: {metric: acuracy}\n",
        "objective.metric: must be a metric of the workload (did you mean `accuracy`?)",
    ),
    (
        PLAIN + "objective: {metric: tar_lfv}\nworkload: {evaluation: {sets: [sets/lfw.bin]}}\n",
        "objective.metric: must be a metric of the workload (did you mean `tar_lfw`?), but got 'tar_lfv'",
    ),
    (
        PLAIN + "objective: {metric: accuracy_lfw}\n",
        "objective.metric: must be a metric of the workload (did you mean `accuracy`?), but got 'accuracy_lfw'",
    ),
    (
        PLAIN + "objective: {metric: accuracy_lfw, direction: minimize}\nworkload: {evaluation: {sets: [lfw.bin]}}\n",
        "the direction of `accuracy_lfw` must be maximize",
    ),
    (
        PLAIN + "workload: {data: {held_out: 0}}\n",
        "workload: `data.held_out > 0` must hold without `evaluation.sets`, but got 0; name sets",
    ),
    (
        PLAIN + "workload: {evaluation: {sets: [a/lfw.bin, b/lfw.bin]}}\n",
        "workload.evaluation.sets: each set's metrics must have names of their own, but those of `b/lfw.bin` are taken",
    ),
    (
        PLAIN + "workload: {evaluation: {sets: [std.bin]}}\n",
        "those of `std.bin` are taken; rename the file",
    ),
    (
        PLAIN + "workload: {evaluation: {sets: ['l%w.bin']}}\n",
        "workload.evaluation.sets: a set's file must be named with letters, digits, spaces, '.', '-' and '_', but `l%w",
    ),
    (PLAIN + "workload: {evaluation: {sets: lfw.bin}}\n", "workload.evaluation.sets: a list is needed"),
    (
        PLAIN + "objective: {metric: final_loss, direction: maximize}\n",
        "the direction of `final_loss` must be minimize",
    ),
    (PLAIN + "sampler: tpee\n", "sampler: input should be 'tpe', 'random', 'grid', 'cmaes' or 'gp', but got 'tpee'"),
    (PLAIN + "steps: 0\n", "steps: input should be greater than 0, but got 0"),
    (PLAIN + "trials: many\n", "trials: a whole number is needed, but got 'many'"),
    (PLAIN + "base_lr: -1\n", "base_lr: `base_lr > 0` must hold, but got -1"),
    (PLAIN + "base_lr: {low: 0, high: 1}\n", "base_lr.low: `base_lr > 0` must hold, but got 0"),
    (PLAIN + "base_lr: {low: 0.1, hig: 1}\n", "unknown key `base_lr.hig`; did you mean `high`?"),
    (PLAIN + "base_lr: 0.1\nworkload: {optimizer: {base_lr: 0.2}}\n", "say the same thing; keep one"),
    (
        PATIENCE + "{low: 0.1, high: 0.2}\nsampler: grid\n",
        "patience_fraction: the grid sampler needs `step` or `choices`",
    ),
    (
        FASTFACE
        + "      patience: {low: 1, high: 500}\n      haar_window: {low: 2, high: 500, step: 1}\nsampler: grid\n",
        "a grid may have 100000 points, but this one has 249500",
    ),
    (FASTFACE + "      decay_factor: {choices: [2, 4]}\nsampler: cmaes\n", "`cmaes` needs a range (`low`, `high`)"),
    (
        FIRST + "[{decay_factor: 2}]\n",
        "schedulers[0].first[0]: must give a value for all that is searched, but lacks `max_",
    ),
    (
        FIRST + "[{decay_factor: 3, max_decays: 2}]\n",
        "first[0].decay_factor: must be a value that is searched (2, 4 or 10), but got 3; change it, or",
    ),
    (
        FIRST + "[{decay_factor: 2, max_decays: 9}]\n",
        "max_decays: must be a value that is searched (1 to 7 in steps of 2)",
    ),
    (FIRST + "[{decay_factor: 2, max_decays: 4}]\n", "(1 to 7 in steps of 2), but got 4"),
    (FIRST + "[{decay_factor: 2, max_decays: no}]\n", "(1 to 7 in steps of 2), but got 'no'"),
    (FIRST + "[{decay_factor: 2, max_decays: .nan}]\n", "first[0].max_decays: must be finite"),
    (
        FIRST + "[{decay_factor: 2, max_decay: 1}]\n",
        "`max_decay` is not a setting of `fastface`; did you mean `max_decays`?",
    ),
    (
        FIRST + "[{decay_factor: 2, max_decays: 1, patience: 3}]\n",
        "only what is searched can be tried first, but `patience`",
    ),
    (FIRST + "[{decay_factor: 2, max_decays: 1, base_lr: 1}]\n", "`base_lr` is not; give it `low` and `high`"),
    (FIRST + "[{decay_factor: 2, max_decays: 1}]\nbase_lr: {low: 1, high: 2}\n", "lacks `base_lr`; add one of 1 to 2"),
    (
        FIRST + "[{decay_factor: 2, max_decays: 1}, {max_decays: 1, decay_factor: 2.0}]\n",
        "first[1]: each setting must stand once",
    ),
    (FIRST + "{decay_factor: 2}\n", "schedulers[0].first: a list is needed"),
    (FIRST + "[2]\n", "schedulers[0].first[0]: a mapping (`key: value`) is needed, but got 2"),
]


@pytest.mark.parametrize(("text", "expected"), BAD_FILES, ids=[expected[:40] for _, expected in BAD_FILES])
def test_a_mistake_gets_one_line_that_says_where_and_what(tmp_path: Path, text: str, expected: str) -> None:
    line = message(tmp_path, text)
    assert expected in line
    assert "more)" not in line or "schedulrs" in line  # one mistake, one finding


def test_several_mistakes_are_counted(tmp_path: Path) -> None:
    assert "(and 1 more)" in message(tmp_path, PLAIN + "steps: 0\ntrials: 0\n")


def test_a_length_that_the_command_line_asks_for_is_checked_too(tmp_path: Path) -> None:
    space = space_from_text(PLAIN, file="x")
    with pytest.raises(UserError, match="`steps >= 1` must hold, but got 0"):
        make_plan(space, steps=0)
    with pytest.raises(UserError, match="`seed >= 0` must hold, but got -1"):
        make_plan(space, seed=-1)
    with pytest.raises(UserError, match="the grid sampler needs"):
        make_plan(load_space("fastface"), sampler="grid")


def test_what_is_no_readable_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"question: caf\xe9\n")
    for name, expected in [
        ("latin.yaml", "UTF-8 text is needed, but byte 13 is not"),
        (".", "this is a folder"),
        ("fastfac", "did you mean `fastface`?"),
        ("nothing.yaml", "known are baselines, classification, fastface, fastface_cooldown, haar, smoke"),
    ]:
        with pytest.raises(UserError) as caught:
            load_space(name)
        assert expected in str(caught.value)


def test_a_stray_file_does_not_hide_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fastface").mkdir()
    assert load_space("fastface").schedulers[0].name == "fastface"


def test_every_scheduler_can_stand_in_a_space_with_its_defaults() -> None:
    for name in registry.names():
        space = SpaceFile.model_validate({"question": "q", "schedulers": [{"name": name}]})
        plan = make_plan(space)
        assert in_space(plan, name)
