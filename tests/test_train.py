"""`fastface-tuner train`: one run from its file to its weights, the same as a trial's, broken off anywhere."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mirrored import histories, read_mirrored_curve
from mlflow import MlflowClient
from rich.console import Console
from typer.testing import CliRunner

from tuner.cli.main import app
from tuner.config.run import RunConfig
from tuner.config.run_file import load_run
from tuner.curves import read_curve
from tuner.errors import UserError
from tuner.evaluations import read_evaluations
from tuner.models.backbones import build_backbone
from tuner.models.weights import load_weights
from tuner.names import EXPERIMENT, TAG_FOLDER, TAG_KIND
from tuner.stages.store import StageStore
from tuner.stages.trial import run_trial
from tuner.sweep.ending import Ending
from tuner.sweep.folder import find_sweep
from tuner.sweep.run_folder import RunFolder, RunRecord
from tuner.sweep.single import AskedRun, train_run
from tuner.sweep.single_session import Session
from tuner.tracking.environment import num_cores

STEPS = 24
TINY: dict[str, Any] = {
    "total_steps": STEPS,
    "workload": {
        "data": {"image_size": 32, "identities": 16, "images_per_identity": 6},
        "model": {"embedding_size": 32},
        "optimizer": {"batch_size": 16},
        "evaluation": {"pairs": 120, "times": 2},
    },
}


@pytest.fixture(autouse=True)
def uri(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> str:
    torch.set_num_threads(num_cores())  # as a run sets it: it decides the last bits
    return mlflow_store(tmp_path)


def written(name: str = "tiny", **changes: Any) -> str:
    """Write the file of a run into the working folder; return its path."""
    path = Path(f"{name}.yaml")
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return str(path)


def train(config: str, **asked: Any) -> tuple[RunFolder, RunRecord, str]:
    """Train as the command does; return what it returns and what it says."""
    console = Console(file=io.StringIO(), markup=False)
    with Ending() as ending:
        folder, record = train_run(AskedRun(config=config, **asked), console=console, ending=ending)
    return folder, record, console.file.getvalue()  # type: ignore[attr-defined]


def broken_off(at: int, monkeypatch: pytest.MonkeyPatch, config: str, **asked: Any) -> str:
    """Interrupt the run by Ctrl-C at a step; return what it says."""
    console = Console(file=io.StringIO(), markup=False)
    hear = Session.hear

    def interrupting(self: Session, last: Any) -> None:
        hear(self, last)
        if last.steps == at and not last.metrics:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "hear", interrupting)
        with pytest.raises(KeyboardInterrupt), Ending() as ending:
            train_run(AskedRun(config=config, **asked), console=console, ending=ending)
    return console.file.getvalue()  # type: ignore[attr-defined]


def command(*words: str) -> Any:
    return CliRunner().invoke(app, ["train", *words])


def sync(*words: str) -> Any:
    return CliRunner().invoke(app, ["sync", *words])


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("curve.csv", "evaluations.jsonl")}


def test_a_run_leaves_what_a_trial_of_the_same_configuration_leaves_and_its_weights(tmp_path: Path) -> None:
    folder, record, said = train(written())
    assert folder.path == tmp_path / "runs" / "tiny"
    final: list[dict[str, Any]] = []
    trial = tmp_path / "trial"
    config = RunConfig.model_validate(TINY)
    *_, last = run_trial(config, trial, device=torch.device("cpu"), store=None, at_end=final.append)
    assert files(folder.path) == files(trial)
    assert record.metrics == dict(last.metrics)
    assert (record.state, record.steps, record.steps_executed) == ("finished", STEPS, STEPS)
    backbone = build_backbone("iresnet_small", image_size=32, embedding_size=32)
    load_weights(backbone, folder.weights)
    assert all(torch.equal(value, final[0]["backbone"][name]) for name, value in backbone.state_dict().items())
    assert load_run(folder.config).config == config
    evaluations = [line for line in said.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in evaluations] == ["step 12", "step 24"]
    assert f"accuracy {record.metrics['accuracy']:.4f}" in said


@pytest.mark.parametrize("share", [None, False])
def test_broken_off_it_goes_on_bit_for_bit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, share: bool | None) -> None:
    whole, _, _ = train(written(), share=False, out=tmp_path / "whole")
    said = broken_off(7, monkeypatch, "tiny.yaml", share=share)
    assert "interrupted after 7 of 24 steps; go on with: fastface-tuner train runs/tiny/config.yaml" in said
    assert RunFolder(Path("runs/tiny")).read().state == "unfinished"
    broken_off(17, monkeypatch, "tiny.yaml")
    folder, record, said = train("tiny.yaml")
    assert "was not finished; it goes on from its last recorded step" in said
    assert files(folder.path) == files(whole.path)
    assert (record.steps_executed, record.steps_repeated, record.steps_shared) == (STEPS, 0, 0)
    one, other = (torch.load(each.weights, weights_only=True) for each in (folder, whole))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not (folder.path / "stages").exists()


def test_a_finished_run_is_shown_and_not_run_again() -> None:
    folder, record, _ = train(written())
    before = {path: path.stat().st_mtime_ns for path in folder.path.iterdir()}
    for config in ("tiny.yaml", str(folder.config)):
        again = command(config)
        assert again.exit_code == 0
        assert f"is finished: accuracy {record.metrics['accuracy']:.4f}" in again.output
    assert before == {path: path.stat().st_mtime_ns for path in folder.path.iterdir()}


def test_what_another_run_has_trained_costs_nothing_unless_its_last_checkpoint_is_gone(tmp_path: Path) -> None:
    first, _, _ = train(written())
    second, record, _ = train(str(first.config), name="second")
    assert (record.steps_executed, record.steps_shared) == (0, STEPS)
    assert record.shared_with == {first.read().run_id: STEPS}
    for kept in StageStore(tmp_path / "stages").inventory().kept:
        if kept.step > STEPS // 2:
            kept.path.unlink()
    third, record, _ = train(str(first.config), name="third")
    assert record.steps_repeated == STEPS // 2
    for other in (second, third):
        assert files(other.path) == files(first.path)
        assert other.weights.read_bytes() == first.weights.read_bytes()


def test_mlflow_has_one_run_with_curve_settings_data_and_artifacts(uri: str) -> None:
    folder, record, _ = train(written(scheduler={"name": "cosine"}), seed=3)
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert [run.info.run_id for run in runs] == [record.run_id]
    run = runs[0]
    assert (run.info.run_name, run.info.status) == ("tiny", "FINISHED")
    assert run.data.tags[TAG_KIND] == "run"
    assert run.data.tags[TAG_FOLDER] == str(folder.path)
    assert "mlflow.parentRunId" not in run.data.tags
    expected = {"scheduler": "cosine", "final_factor": "0.0", "base_lr": "0.2", "total_steps": "24", "seed": "3"}
    assert expected.items() <= run.data.params.items()
    assert read_mirrored_curve(client, record.run_id) == read_curve(folder.path / "curve.csv")
    evaluations = read_evaluations(folder.path / "evaluations.jsonl")
    accuracy = [(steps - 1, metrics["accuracy"]) for steps, metrics in evaluations.items()]
    assert histories(client, record.run_id, "accuracy")["accuracy"] == accuracy
    assert run.data.metrics["steps_executed"] == STEPS
    assert run.inputs.dataset_inputs[0].dataset.name == "synthetic faces"
    artifacts = {file.path for file in client.list_artifacts(record.run_id)}
    assert artifacts == {"config.yaml", "environment.json"}
    assert record.mirrored


def test_a_store_that_is_away_holds_nothing_up_and_gets_the_rest_later(
    monkeypatch: pytest.MonkeyPatch, uri: str, tmp_path: Path
) -> None:
    from tuner.sweep import single_session, single_view

    broken_off(7, monkeypatch, written())
    with pytest.raises(UserError, match=r"unfinished; go on with it: fastface-tuner train runs/tiny/config\.yaml"):
        raise sync("runs/tiny").exception
    with pytest.raises(UserError, match=r"single run; .*: fastface-tuner train runs/tiny/config\.yaml"):
        find_sweep("runs/tiny")
    run_id = RunFolder(Path("runs/tiny")).read().run_id
    assert MlflowClient(uri).get_run(run_id).info.status == "KILLED"
    database, aside = tmp_path / "mlflow.db", tmp_path / "aside.db"
    database.rename(aside)
    monkeypatch.setattr(single_session, "LAST_SENDING_SECONDS", 0.2)
    folder, record, said = train("tiny.yaml")
    assert (record.state, record.mirrored) == ("finished", False)
    assert "send it with: fastface-tuner train runs/tiny/config.yaml" in said
    with monkeypatch.context() as patch:
        patch.setattr(single_view, "LAST_SENDING_SECONDS", 0.2)
        assert sync("runs/tiny").exit_code == 1
    aside.rename(database)
    assert sync("runs/tiny").exit_code == 0
    record = folder.read()
    assert (record.mirrored, record.run_id) == (True, run_id)
    assert sync("runs/tiny").stdout == "nothing to send\n"
    assert MlflowClient(uri).get_run(run_id).info.status == "FINISHED"
    assert read_mirrored_curve(MlflowClient(uri), record.run_id) == read_curve(folder.path / "curve.csv")


def test_a_run_that_diverges_fails_with_its_reason(uri: str) -> None:
    workload = {**TINY["workload"], "optimizer": {"batch_size": 16, "base_lr": 1e38}}
    done = command(written(workload=workload), "--json")
    assert done.exit_code == 1
    outcome = json.loads(done.stdout)
    assert outcome["state"] == "failed"
    assert outcome["weights"] is None
    assert "the loss must stay finite" in outcome["reason"]
    run = MlflowClient(uri).get_run(outcome["run_id"])
    assert run.info.status == "FAILED"
    assert run.data.tags["reason"] == outcome["reason"]


def test_epochs_are_passes_over_the_training_images_without_the_last_partial_batch() -> None:
    _, record, said = train(written(), epochs=2.5)  # 60 images in batches of 16: 3 steps an epoch
    assert record.config.total_steps == 7
    assert "7 steps, 1.87 epochs of 60 images of 10 identities" in said


def test_options_override_the_file_and_a_part_of_the_set_is_enough() -> None:
    _, record, _ = train(written(), steps=3, seed=5, max_identities=8, name="other")
    assert record.name == "other"
    config = record.config
    assert (config.total_steps, config.seed, config.workload.data.max_identities) == (3, 5, 8)


@pytest.mark.parametrize(
    ("changes", "words", "expected"),
    [
        ({}, ["--seed", "1"], "holds another run (seed is 1, but 0 there); choose another --name"),
        ({}, ["--no-share"], "sharing of steps is False and True there"),
        ({"workload": {"head": {"m2": 0.5}}}, [], "workload.data.image_size is 48, but 32 there"),
    ],
)
def test_another_run_does_not_take_a_folder(changes: Any, words: list[str], expected: str) -> None:
    train(written(), steps=3)
    with pytest.raises(UserError) as refused:
        CliRunner().invoke(app, ["train", written(**changes), "--steps", "3", *words], catch_exceptions=False)
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("total_step: 5\n", "x.yaml: unknown key `total_step`; did you mean `total_steps`?"),
        ("workload: {head: {m4: 1}}\n", "x.yaml: unknown key `workload.head.m4`"),
        ("workload: {optimizer: {batch_size: 1}}\n", "x.yaml: workload.optimizer.batch_size: "),
        ("scheduler: {name: fastfac}\n", "x.yaml: scheduler: "),
        ("scheduler: {settings: {patience: -1}}\n", "x.yaml: scheduler: "),
        ("seed: 1\nseed: 2\n", "x.yaml: `seed` is given twice"),
        ("base: [1]\n", "x.yaml: base: a word or sentence is needed, but got [1]"),
        ("base: ms1mv3_r5\n", "x.yaml: base: ms1mv3_r5: no such file, and no shipped recipe of this name"),
        ("base: x.yaml\n", "x.yaml: base: a file must not be its own base"),
        ("", "x.yaml: the file is empty"),
        ("seed: [\n", "x.yaml: not readable as YAML"),
    ],
)
def test_a_mistake_in_a_file_is_told_in_one_line_with_file_and_place(text: str, expected: str) -> None:
    Path("x.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        load_run("x.yaml")
    assert str(refused.value).startswith(expected)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nothing.yaml"], "nothing.yaml: no such file"),
        (["tiny.yaml", "--steps", "3", "--epochs", "1"], "--steps and --epochs"),
        (["tiny.yaml", "--name", "../x"], "a run's name must be the name of a folder"),
        (["tiny.yaml", "--out", "."], "a run's folder must be new or empty"),
        (["tiny.yaml", "--data", "nowhere"], "nowhere` does not exist"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_made(words: list[str], expected: str) -> None:
    written()
    with pytest.raises(UserError) as refused:
        CliRunner().invoke(app, ["train", *words], catch_exceptions=False)
    assert expected in str(refused.value)
    assert not Path("runs").exists()


def test_sigterm_leaves_a_checkpoint_and_says_how_to_go_on() -> None:
    command = [sys.executable, "-m", "tuner.cli.main", "train", written(), "--steps", "100000"]
    curve = Path("runs/tiny/curve.csv")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ) as run:
        while run.poll() is None and not (curve.exists() and curve.stat().st_size > 1000):
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        said, _ = run.communicate(timeout=60)
    assert run.returncode == 143, said
    assert "go on with: fastface-tuner train runs/tiny/config.yaml" in said
    record = RunFolder(Path("runs/tiny")).read()
    assert record.state == "unfinished"
    kept = [each.step for each in StageStore(Path("stages")).inventory().kept]
    assert max(kept) >= record.steps
