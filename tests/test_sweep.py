"""A sweep from the command line to MLflow: what it leaves behind, what it repeats, what it refuses."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from plain_executor import stand_in
from typer.main import get_command

from tuner.cli.main import app, main
from tuner.curves import read_curve
from tuner.names import CACHE_VARIABLE, EXPERIMENT, TRACKING_URI_VARIABLE

SMOKE_WORKLOAD = {
    "data": {"image_size": 32, "identities": 16, "images_per_identity": 6},
    "model": {"embedding_size": 32},
    "optimizer": {"batch_size": 16},
    "evaluation": {"pairs": 120, "times": 2},
}
# Two of the three base LRs cannot train; the two patiences are the same number of steps of 20.
TROUBLED = {
    "question": "What becomes of trials that fail or repeat each other?",
    "steps": 20,
    "trials": 6,
    "sampler": "grid",
    "workload": SMOKE_WORKLOAD,
    "base_lr": {"choices": [0.1, 1e38]},
    "schedulers": [{"name": "fastface", "parameters": {"patience_fraction": {"choices": [0.1, 0.1001]}}}],
}


@dataclass(frozen=True)
class Outcome:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def trials(self) -> list[dict[str, Any]]:
        return json.loads(self.out)["trials"]


@dataclass(frozen=True)
class Finished:
    """A sweep that ran once for several tests."""

    folder: Path
    uri: str
    out: str
    trials: list[dict[str, Any]]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def runs(self) -> list[Run]:
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        return list(self.client.search_runs([experiment.experiment_id]))

    def children(self) -> list[Run]:
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        return self.client.search_runs([experiment.experiment_id], "tags.`mlflow.parentRunId` != ''")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["fastface-tuner", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            main()
        captured = capsys.readouterr()
        return Outcome(ending.value.code or 0, captured.out, captured.err)

    return run


def _sweep(workplace: Path, uri: str, cache: Path, *arguments: str) -> Finished:
    """Run a sweep in a process of its own, as a user would, and read its table in another."""
    environment = {**os.environ, TRACKING_URI_VARIABLE: uri, CACHE_VARIABLE: str(cache)}

    def tool(*words: str) -> str:
        command = [sys.executable, "-m", "tuner.cli.main", *words]
        done = subprocess.run(command, cwd=workplace, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    out = tool("sweep", *arguments, "--name", "first")
    trials = json.loads(tool("compare", "first", "--json"))["trials"]
    return Finished(workplace / "sweeps" / "first", uri, out, trials)


@pytest.fixture(scope="module")
def smoke(
    tmp_path_factory: pytest.TempPathFactory, session_cache: Path, mlflow_store: Callable[[Path], str]
) -> Finished:
    workplace = tmp_path_factory.mktemp("smoke")
    return _sweep(workplace, mlflow_store(workplace), session_cache, "smoke", "--seed", "3")


@pytest.fixture(scope="module")
def troubled(
    tmp_path_factory: pytest.TempPathFactory, session_cache: Path, mlflow_store: Callable[[Path], str]
) -> Finished:
    workplace = tmp_path_factory.mktemp("troubled")
    (workplace / "space.yaml").write_text(yaml.safe_dump(TROUBLED))
    return _sweep(workplace, mlflow_store(workplace), session_cache, "space.yaml")


def test_every_trial_has_a_value_and_stands_in_the_table_best_first(smoke: Finished) -> None:
    values = [trial["value"] for trial in smoke.trials]
    assert len(values) == 3
    assert values == sorted(values, reverse=True)
    assert {trial["state"] for trial in smoke.trials} == {"COMPLETE"}
    assert {trial["trial"] for trial in smoke.trials} == {0, 1, 2}
    first = next(trial for trial in smoke.trials if trial["trial"] == 0)
    assert (first["steps_executed"], first["steps_shared"]) == (40, 0)
    # What was neither shared nor trained before is trained; a few known steps may be repeated from a checkpoint.
    assert all(trial["steps_executed"] + trial["steps_shared"] >= 40 for trial in smoke.trials)
    assert all(trial["steps_shared"] > 0 for trial in smoke.trials if trial["trial"] != 0)


def test_trial_0_is_the_published_setting(smoke: Finished) -> None:
    first = next(trial for trial in smoke.trials if trial["trial"] == 0)
    assert first["settings"]["patience_fraction"] == pytest.approx(0.05)
    assert first["settings"]["ema_window_fraction"] == pytest.approx(1 / 202)


def test_progress_and_ending_are_told_in_plain_lines_without_a_terminal(smoke: Finished) -> None:
    assert "trial 1 of 3" in smoke.out
    assert "trial 3 of 3: accuracy" in smoke.out
    assert "best: trial" in smoke.out
    assert "fastface-tuner compare first" in smoke.out
    assert "\x1b" not in smoke.out


def test_mlflow_holds_a_parent_and_a_child_per_trial(smoke: Finished) -> None:
    runs = {run.info.run_id: run for run in smoke.children()}
    assert set(runs) == {trial["run_id"] for trial in smoke.trials}
    parents = {run.data.tags["mlflow.parentRunId"] for run in runs.values()}
    parent = smoke.client.get_run(parents.pop())
    assert not parents
    assert {run.info.status for run in (parent, *runs.values())} == {"FINISHED"}
    assert parent.info.run_name == "first"
    assert parent.data.metrics["best_accuracy"] == max(trial["value"] for trial in smoke.trials)
    assert {file.path for file in smoke.client.list_artifacts(parent.info.run_id)} == {"space.yaml", "environment.json"}


def test_mlflow_holds_each_trials_whole_curve_at_its_true_steps(smoke: Finished) -> None:
    for trial in smoke.trials:
        curve = read_curve(smoke.folder / "trials" / f"{trial['trial']:04d}" / "curve.csv")
        assert [point.step for point in curve] == list(range(40))
        for key, expected in (("loss", [p.loss for p in curve]), ("lr", [p.lr for p in curve])):
            history = sorted(smoke.client.get_metric_history(trial["run_id"], key), key=lambda metric: metric.step)
            assert [metric.step for metric in history] == list(range(40))
            assert [metric.value for metric in history] == expected


def test_mlflow_holds_settings_metrics_config_and_dataset(smoke: Finished) -> None:
    for trial in smoke.trials:
        run = smoke.client.get_run(trial["run_id"])
        assert float(run.data.params["patience_fraction"]) == trial["settings"]["patience_fraction"]
        assert run.data.params["scheduler"] == "fastface"
        assert run.data.metrics["accuracy"] == trial["value"]
        assert run.data.metrics["steps_executed"] == trial["steps_executed"]
        assert math.isfinite(run.data.metrics["final_loss"])
        assert {file.path for file in smoke.client.list_artifacts(run.info.run_id)} == {"config.yaml"}
        assert run.inputs.dataset_inputs[0].dataset.name == "synthetic faces"


def test_a_sweep_without_sharing_in_a_fresh_process_gives_the_same_bits(
    smoke: Finished, tmp_path: Path, session_cache: Path, mlflow_store: Callable[[Path], str]
) -> None:
    alone = _sweep(tmp_path, mlflow_store(tmp_path), session_cache, "smoke", "--seed", "3", "--no-share")
    keep = ("trial", "params", "value", "metrics")
    assert [{key: trial[key] for key in keep} for trial in alone.trials] == [
        {key: trial[key] for key in keep} for trial in smoke.trials
    ]
    assert {(trial["steps_executed"], trial["steps_shared"]) for trial in alone.trials} == {(40, 0)}
    assert not (tmp_path / "stages").exists()
    for trial in smoke.trials:
        file = Path("trials") / f"{trial['trial']:04d}" / "curve.csv"
        assert (smoke.folder / file).read_bytes() == (alone.folder / file).read_bytes()


def test_a_trial_trained_again_by_itself_costs_nothing_and_gives_the_same_curve(
    smoke: Finished, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    shutil.copytree(smoke.folder.parents[1] / "stages", tmp_path / "stages")
    best = smoke.trials[0]
    trial = smoke.folder / "trials" / f"{best['trial']:04d}"
    outcome = json.loads(command("train", str(trial / "config.yaml"), "--name", "best", "--json").out)
    assert (outcome["steps_executed"], outcome["steps_shared"]) == (0, 40)
    assert outcome["metrics"] == best["metrics"]
    for name in ("curve.csv", "evaluations.jsonl"):
        assert (Path("runs/best") / name).read_bytes() == (trial / name).read_bytes()
    assert Path(outcome["weights"]).stat().st_size > 0


def test_mlflow_says_what_was_shared_and_with_whom(smoke: Finished) -> None:
    ids = {trial["run_id"] for trial in smoke.trials}
    for trial in smoke.trials:
        run = smoke.client.get_run(trial["run_id"])
        assert run.data.metrics["steps_shared"] == trial["steps_shared"]
        assert ("shared_with" in run.data.tags) == (trial["steps_shared"] > 0)
        if trial["steps_shared"]:
            assert run.data.tags["shared_with"].split()[0] in ids
    parent = smoke.client.get_run(smoke.children()[0].data.tags["mlflow.parentRunId"])
    assert parent.data.metrics["steps_executed"] == sum(trial["steps_executed"] for trial in smoke.trials)


def test_the_report_is_made_of_the_sweeps_folder_and_goes_to_mlflow(
    smoke: Finished, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    outcome = command("report", str(smoke.folder), "-o", str(tmp_path / "report.html"))
    assert (outcome.code, outcome.err) == (0, "")
    page = (tmp_path / "report.html").read_text()
    assert f"(trial {smoke.trials[0]['trial']})" in outcome.out.splitlines()[0]
    assert f"torch {version('torch')}" in page
    assert "--seed 3" in page
    (parent,) = [run for run in smoke.runs() if "mlflow.parentRunId" not in run.data.tags]
    assert "report.html" in {entry.path for entry in smoke.client.list_artifacts(parent.info.run_id)}


def test_stages_can_be_listed_and_pruned(
    smoke: Finished, tmp_path: Path, command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no stages here" in command("stages", "list").out
    shutil.copytree(smoke.folder.parents[1] / "stages", tmp_path / "stages")
    shelf = json.loads(command("stages", "list", "--json").out)["shelves"][0]
    assert shelf["counts"]["shared"] == sum(trial["steps_shared"] for trial in smoke.trials)
    assert command("stages", "prune").code == 2
    assert command("stages", "prune", "--keep", "a lot").code == 2
    assert f"took over {shelf['counts']['shared']}\n" in command("stages", "list").out
    planned = json.loads(command("stages", "prune", shelf["key"][:8], "--dry-run", "--json").out)
    assert (planned["shelves"], planned["num_bytes"]) == ([shelf["key"]], shelf["num_bytes"])
    assert "removed 1 shelf and 0 checkpoints" in command("stages", "prune", shelf["key"][:8]).out
    assert json.loads(command("stages", "list", "--json").out) == {"shelves": []}


def test_a_sweep_whose_every_trial_failed_says_why_and_exits_with_1(
    tmp_path: Path,
    mlflow_store: Callable[[Path], str],
    command: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = mlflow_store(tmp_path)
    hopeless = {**TROUBLED, "trials": 1, "base_lr": 1e38}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(hopeless))
    stand_in(monkeypatch)
    outcome = command("sweep", "space.yaml", "--name", "lost")
    assert outcome.code == 1
    assert "no trial finished; the first failed because: the loss must" in outcome.out
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert {run.info.status for run in runs} == {"FAILED"}


@pytest.mark.parametrize(("ending", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_sweep_closes_its_runs_as_killed(
    ending: signal.Signals, status: int, tmp_path: Path, session_cache: Path, mlflow_store: Callable[[Path], str]
) -> None:
    uri = mlflow_store(tmp_path)
    environment = {**os.environ, TRACKING_URI_VARIABLE: uri, CACHE_VARIABLE: str(session_cache)}
    command = [sys.executable, "-m", "tuner.cli.main", "sweep", "smoke", "--steps", "100000", "--name", "cut"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as sweep:
        curve = tmp_path / "sweeps" / "cut" / "trials" / "0000" / "curve.csv"
        deadline = time.monotonic() + 120
        while not curve.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        sweep.send_signal(ending)
        out, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == status
    assert "interrupted after 0 of 3 trials; go on with: fastface-tuner resume cut" in out
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert len(runs) == 2
    assert {run.info.status for run in runs} == {"KILLED"}


def test_a_trial_that_diverges_fails_alone(troubled: Finished) -> None:
    failed = [trial for trial in troubled.trials if trial["base_lr"] == 1e38]
    assert failed
    assert {trial["state"] for trial in failed} == {"FAIL"}
    assert all("finite" in trial["reason"] for trial in failed)
    for trial in failed:
        run = troubled.client.get_run(trial["run_id"])
        assert run.info.status == "FAILED"
        assert "finite" in run.data.tags["reason"]
    assert any(trial["state"] == "COMPLETE" for trial in troubled.trials)


def test_no_run_is_trained_twice(troubled: Finished) -> None:
    trained = [trial for trial in troubled.trials if trial["duplicate_of"] is None]
    assert sum(trial["state"] == "COMPLETE" for trial in trained) == 2  # the published setting and one patience
    for trial in troubled.trials:
        if trial["duplicate_of"] is not None:
            twin = next(other for other in troubled.trials if other["trial"] == trial["duplicate_of"])
            assert trial["value"] == twin["value"]
            assert trial["steps_executed"] == 0
            curves = [
                [(m.step, m.value) for m in troubled.client.get_metric_history(one["run_id"], "loss")]
                for one in (trial, twin)
            ]
            assert curves[0] == curves[1]
    assert any(trial["duplicate_of"] is not None for trial in troubled.trials)


def test_the_table_for_people_names_what_was_searched(
    smoke: Finished, command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    outcome = command("compare", str(smoke.folder))
    assert outcome.code == 0
    for heading in ("trial", "accuracy", "patience", "trained", "shared", "0*", "* published setting"):
        assert heading in " ".join(outcome.out.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nonsense"], "no such file"),
        (["smoke", "--data", "missing"], "missing"),
        (["smoke", "--data", "one"], "identit"),
        (["smoke", "--data", "broken"], "truncated.png"),
        (["smoke", "--tracking-uri", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["smoke", "--tracking-uri", "somewhere"], "folder"),
        (["smoke", "--out", "file"], "file"),
        (["smoke", "--name", "taken"], "taken"),
        (["smoke", "--name", "../up"], "name"),
        (["bad.yaml"], "patience_fraction"),
        (["typo.yaml"], "steps"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    command: Callable[..., Outcome],
    mlflow_store: Callable[[Path], str],
) -> None:
    mlflow_store(tmp_path)
    _bad_inputs(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    outcome = command("sweep", *arguments)
    assert outcome.code == 2
    assert expected in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def _bad_inputs(folder: Path) -> None:
    """Make a folder with one identity, one with a truncated picture, a taken name and spaces with errors."""
    from PIL import Image

    for root, people in (("one", 1), ("broken", 6)):
        for person in range(people):
            place = folder / root / f"person{person}"
            place.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (40, 40), (40 * person, 80 * number, 90)).save(place / f"{number}.png")
    whole = (folder / "broken" / "person2" / "0.png").read_bytes()
    (folder / "broken" / "person2" / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "file").write_text("in the way")
    taken = folder / "sweeps" / "taken"
    taken.mkdir(parents=True)
    (taken / "sweep.yaml").write_text("name: taken")
    space = {
        "question": "?",
        "schedulers": [{"name": "fastface", "parameters": {"patience_fraction": {"low": 0.2, "high": 0.1}}}],
    }
    (folder / "bad.yaml").write_text(yaml.safe_dump(space))
    (folder / "typo.yaml").write_text(yaml.safe_dump({"question": "?", "step": 3, "schedulers": [{"name": "cosine"}]}))


def test_help_and_version_of_every_command(command: Callable[..., Outcome]) -> None:
    assert "sweep" in command("--help").out
    for name in sorted(get_command(app).commands):  # type: ignore[attr-defined]
        outcome = command(name, "--help")
        assert outcome.code == 0
        assert "Example: fastface-tuner" in outcome.out


def test_spaces_lists_the_shipped_files(command: Callable[..., Outcome]) -> None:
    outcome = command("spaces")
    assert {line.split()[0] for line in outcome.out.splitlines()} >= {"fastface", "baselines", "smoke"}
    listed = json.loads(command("spaces", "--json").out)["spaces"]
    assert all(entry["question"].endswith("?") for entry in listed)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("tuner.cli.main", ("torch", "ray", "mlflow", "optuna", "numpy")),
        ("tuner.sweep.resume", ("torch", "ray", "mlflow")),  # so that Ray starts early
        (
            "tuner.sweep.trainable",
            ("torch", "mlflow", "optuna"),
        ),  # so that the driver needs no torch, the actor no MLflow
    ],
)
def test_a_start_imports_no_large_library_that_it_does_not_need(module: str, heavy: tuple[str, ...]) -> None:
    probe = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "[]"
