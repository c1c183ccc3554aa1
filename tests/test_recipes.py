"""Recipes: the shipped ones are the published runs, and a run, a proxy of it and a search on that take one command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

import tuner
from tuner.cli.main import app
from tuner.config.run import RunConfig
from tuner.config.run_file import load_run, run_text, shipped_recipes
from tuner.config.space_file import load_space
from tuner.errors import UserError
from tuner.schedulers import registry
from tuner.search.plan import make_plan, references, run_config
from tuner.sweep import begin
from tuner.sweep.asked import Asked, asked_space
from tuner.sweep.begin import new_sweep
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepFolder
from tuner.sweep.resume import check_same

STEPS = {"ms1mv3": 202_320, "webface4m": 165_435, "webface8m": 330_675, "webface12m": 496_875}
TINY = {
    "total_steps": 24,
    "workload": {
        "data": {"image_size": 32, "identities": 16, "images_per_identity": 6},
        "model": {"embedding_size": 32},
        "optimizer": {"batch_size": 16, "base_lr": 0.05},
        "evaluation": {"pairs": 120, "times": 1},
    },
}


@pytest.mark.parametrize("layers", [50, 100])
@pytest.mark.parametrize("dataset", STEPS)
def test_the_published_runs(dataset: str, layers: int) -> None:
    recipe = load_run(f"{dataset}_r{layers}")
    config, workload = recipe.config, recipe.config.workload
    assert config.total_steps == STEPS[dataset]
    assert workload.model.backbone == f"iresnet{layers}"
    assert (workload.data.image_size, workload.model.embedding_size) == (112, 512)
    optimizer = workload.optimizer
    assert (optimizer.batch_size, optimizer.base_lr) == (128, 0.02)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 5e-4)
    margins = (1.0, 0.5, 0.0) if dataset == "ms1mv3" else (1.0, 0.0, 0.4)
    assert (workload.head.m1, workload.head.m2, workload.head.m3, workload.head.scale) == (*margins, 64)
    assert config.schedule() == registry.resolve("fastface", {}, total_steps=STEPS[dataset])
    assert recipe.description.startswith(workload.data.source)


def test_the_published_setting_of_the_scheduler_is_that_of_its_own_length() -> None:
    params: Any = load_run("ms1mv3_r100").config.schedule().params
    assert params.a == pytest.approx(1e-3, rel=0.01)
    assert params.b == pytest.approx(1e-3, rel=0.01)
    assert params.threshold_scale * 46 == pytest.approx(5e-5, rel=0.01)
    assert (params.rule.patience, params.rule.max_decays) == (202_320 // 20, 8)


def test_the_list_of_recipes_is_complete_and_each_comes_with_the_package() -> None:
    names = sorted(f"{dataset}_r{layers}" for dataset in STEPS for layers in (50, 100))
    assert [recipe.name for recipe in shipped_recipes()] == names
    assert all(Path(tuner.__file__).parent in recipe.path.parents for recipe in shipped_recipes())
    listed = CliRunner().invoke(app, ["recipes"]).output.splitlines()
    assert [line.split()[0] for line in listed] == names
    found = json.loads(CliRunner().invoke(app, ["recipes", "--json"]).output)["recipes"]
    assert [RunConfig.model_validate(each["config"]).total_steps for each in found] == [
        load_run(name).config.total_steps for name in names
    ]


def test_a_file_says_only_what_differs_from_its_base(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("base: ms1mv3_r100\ntotal_steps: 1000\nworkload: {data: {source: faces}, head: {m2: 0.3}}\n")
    (tmp_path / "next.yaml").write_text("base: own.yaml\nscheduler: {name: cosine}\n")
    base, config = load_run("ms1mv3_r100").config, load_run(tmp_path / "next.yaml").config
    assert (config.total_steps, config.workload.data.source, config.scheduler.name) == (1000, "faces", "cosine")
    assert config.workload.head == base.workload.head.model_copy(update={"m2": 0.3})
    assert config.workload.optimizer == base.workload.optimizer


def test_another_scheduler_does_not_inherit_the_settings_of_the_bases(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("scheduler: {name: cosine, settings: {final_factor: 0.1}}\n")
    (tmp_path / "other.yaml").write_text("base: base.yaml\nscheduler: {name: constant}\n")
    (tmp_path / "same.yaml").write_text("base: base.yaml\nscheduler: {settings: {final_factor: 0.2}}\n")
    assert load_run(tmp_path / "other.yaml").config.scheduler.settings == {}
    assert load_run(tmp_path / "same.yaml").config.scheduler.settings == {"final_factor": 0.2}


def test_a_mistake_is_told_of_the_file_that_makes_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("workload: {head: {m9: 1}}\n")
    (tmp_path / "own.yaml").write_text("base: base.yaml\nseed: 1\n")
    with pytest.raises(UserError, match=r"base\.yaml: unknown key `workload\.head\.m9`"):
        load_run(tmp_path / "own.yaml")
    (tmp_path / "one.yaml").write_text("base: two.yaml\n")
    (tmp_path / "two.yaml").write_text("base: one.yaml\n")
    with pytest.raises(UserError, match="must not be its own base"):
        load_run(tmp_path / "one.yaml")


def test_a_run_is_written_so_that_it_is_read_back_the_same(tmp_path: Path) -> None:
    for recipe in shipped_recipes():
        path = tmp_path / "again.yaml"
        path.write_text(run_text(recipe.config))
        assert load_run(path).config == recipe.config


@pytest.mark.parametrize("words", [["train", "ms1mv3_r50"], ["sweep", "fastface", "--recipe", "ms1mv3_r50"]])
def test_a_recipe_wants_to_know_where_its_data_is(words: list[str]) -> None:
    with pytest.raises(UserError, match="the recipe ms1mv3_r50 is for MS1MV3; say with --data where that is"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_a_sweep_on_a_recipe_trains_its_workload_with_the_schedulers_of_the_space() -> None:
    recipe = load_run("webface4m_r50").config
    asked = Asked(recipe="webface4m_r50", data="faces", max_identities=2000, steps=3000)
    plan = make_plan(asked_space(asked, load_space("fastface")), steps=3000, data="/faces")
    config = run_config(plan, references(plan)[0])
    expected = recipe.to_dict()["workload"]
    expected["data"] |= {"source": "/faces", "max_identities": 2000}
    assert config.to_dict()["workload"] == expected
    assert config.total_steps == 3000
    params: Any = config.schedule().params
    whole: Any = recipe.schedule().params
    assert params.a * 3000 == pytest.approx(whole.a * recipe.total_steps)  # the same share of the run


def test_named_sets_judge_a_sweep_on_a_recipe_wherever_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sets").mkdir()
    for name in ("lfw.bin", "agedb_30.bin", "README.txt"):
        (tmp_path / "sets" / name).touch()
    asked = Asked(recipe="ms1mv3_r50", data="faces", sets=("sets", "own.txt"))
    workload = asked_space(asked, load_space("fastface")).workload
    assert workload.data.held_out == 0
    assert workload.evaluation.sets == tuple(
        str(tmp_path / path) for path in ("sets/agedb_30.bin", "sets/lfw.bin", "own.txt")
    )
    assert workload.head == load_run("ms1mv3_r50").config.workload.head
    space = load_space("fastface").model_copy(update={"workload": workload})
    monkeypatch.chdir(tmp_path / "sets")
    assert asked_space(Asked(), space) == space
    with pytest.raises(UserError, match=r"--sets: .*must have names of their own"):
        asked_space(Asked(sets=("lfw.bin", "../sets/lfw.bin")), load_space("fastface"))


def test_a_sweep_on_a_recipe_goes_on_only_with_the_same_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: Callable[[Path], str]
) -> None:
    mlflow_store(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    monkeypatch.setattr(begin, "run_trials", lambda *_, **__: None)
    asked = Asked(space="smoke", recipe="tiny.yaml", max_identities=8, name="first")
    ledger = new_sweep(asked, console=Console(quiet=True), ending=Ending())
    assert ledger.plan.space.workload.optimizer.base_lr == 0.05
    assert ledger.plan.space.workload.data.max_identities == 8
    description = SweepFolder(Path("sweeps/first")).read()
    for same in (asked, Asked(), Asked(recipe="tiny.yaml", max_identities=8)):
        check_same(same, ledger.plan, description)
    for other in (Asked(space="smoke"), Asked(recipe="tiny.yaml"), Asked(max_images=60)):
        with pytest.raises(UserError, match="must be the one that was begun"):
            check_same(other, ledger.plan, description)
