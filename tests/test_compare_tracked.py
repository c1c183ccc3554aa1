"""Sweeps that lie in an MLflow store only: those of this tool, and those that others made in their own way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_sweep import FakeSweep
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from typer.testing import CliRunner

from tuner.cli.main import app
from tuner.errors import UserError

PARENT = "mlflow.parentRunId"


def compare(*words: str) -> Any:
    result = CliRunner().invoke(app, ["compare", *words, "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout)


def foreign_sweep(uri: str) -> tuple[MlflowClient, str]:
    """Make an experiment "theirs" with a parent run "grid" and three children; return client and the parent's id."""
    client = MlflowClient(uri)
    experiment = client.create_experiment("theirs")
    parent = client.create_run(experiment, run_name="grid").info.run_id
    for number, (lr, last) in enumerate([(0.1, 0.5), (0.01, 0.7), (1.0, float("nan"))]):
        run = client.create_run(experiment, tags={PARENT: parent}, start_time=1000 * number, run_name=f"run {number}")
        losses = [1 - step * (1 - last) / 39 for step in range(40)] if number < 2 else [last] * 3
        metrics = [Metric("val_loss", loss, 1000 * number + step, step) for step, loss in enumerate(losses)]
        client.log_batch(run.info.run_id, metrics=metrics, params=[Param("lr", str(lr)), Param("optimizer", "sgd")])
        client.set_terminated(run.info.run_id, "FINISHED" if number < 2 else "FAILED", 1000 * number + 500)
    return client, str(parent)


@pytest.mark.parametrize("name", ["grid", "theirs", "id of the run", "id of the experiment"])
def test_a_sweep_of_others_is_found_by_name_or_id_of_run_and_experiment(
    tmp_path: Path, mlflow_store: Callable[[Path], str], name: str
) -> None:
    client, parent = foreign_sweep(mlflow_store(tmp_path))
    experiment = client.get_experiment_by_name("theirs").experiment_id
    found = compare({"id of the run": parent, "id of the experiment": experiment}.get(name, name))
    assert [(row["params"]["lr"], row["value"], row["state"]) for row in found["trials"]] == [
        (0.1, 0.5, "COMPLETE"), (0.01, 0.7, "COMPLETE"), (1.0, None, "FAIL"),
    ]  # fmt: skip
    summary = found["sweeps"][0]
    assert (summary["metric"], summary["maximize"], summary["median"]) == ("val_loss", False, 0.6)
    assert [row["steps_executed"] for row in found["trials"]] == [40, 40, 3]
    assert found["trials"][0]["base_lr"] is None


def test_targets_are_found_in_the_histories(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> None:
    foreign_sweep(mlflow_store(tmp_path))
    found = compare("grid", "--target", "val_loss=0.75")["trials"]
    assert [row["target_steps"] for row in found] == [21, 34, None]


def test_a_metric_must_be_named_where_it_is_not_plain(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> None:
    client = MlflowClient(mlflow_store(tmp_path))
    experiment = client.create_experiment("theirs")
    run = client.create_run(experiment).info.run_id
    client.log_batch(run, metrics=[Metric("top1", 0.5, 0, 0), Metric("top5", 0.9, 0, 0)])
    client.set_terminated(run)
    with pytest.raises(UserError, match=r"say with --metric .* top1, top5"):
        compare("theirs")
    assert compare("theirs", "--metric", "top5")["trials"][0]["value"] == 0.9


def test_runs_of_one_name_must_be_told_apart_by_id(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> None:
    client, parent = foreign_sweep(mlflow_store(tmp_path))
    client.create_run(client.get_run(parent).info.experiment_id, run_name="grid")
    with pytest.raises(UserError, match=f"2 runs are called 'grid'; give the id of one: .*{parent}"):
        compare("grid")


def test_a_store_without_it_is_named(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> None:
    mlflow_store(tmp_path)
    with pytest.raises(UserError, match=r"no sweep 'nope'.* nor has the tracking store sqlite:///.* a run"):
        compare("nope")
    with pytest.raises(UserError, match=r"other\.db is not there"):
        compare("nope", "--tracking-uri", f"sqlite:///{tmp_path}/other.db")
    assert not (tmp_path / "other.db").exists()


def test_a_sweep_of_this_tool_says_the_same_from_its_folder_and_from_its_runs(
    tmp_path: Path, mlflow_store: Callable[[Path], str]
) -> None:
    sweep = FakeSweep(tmp_path / "elsewhere", mlflow_store(tmp_path))
    sweep.run()
    sweep.view.close("FINISHED", timeout=20)
    words = ["--target-loss", "0.6"]
    ours, theirs = compare("elsewhere", *words), compare(sweep.parent, *words)
    for row in (*ours["trials"], *theirs["trials"]):
        # A run has the settings as its parameters, and a step is timed by the run.
        row["params"] = {**row.pop("settings"), **row["params"]}
        for name in ("seconds", "target_seconds", "run_id"):
            del row[name]
    assert theirs["trials"] == ours["trials"]
    for found in (ours, theirs):
        for name in ("seconds", "search_seconds"):
            del found["sweeps"][0]["target"][name]
    for name in ("metric", "maximize", "trials", "complete", "failed", "repeats", "best", "median", "steps", "target"):
        assert theirs["sweeps"][0][name] == ours["sweeps"][0][name], name
