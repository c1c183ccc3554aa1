"""`fastface-tuner best`: a setting that trains, continues in the next sweep, runs as code, and can be registered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from made_confirmation import PUBLISHED, confirmation, shifted
from made_sweep import SPACE, make_sweep
from mlflow import MlflowClient, artifacts
from mlflow.entities import Metric
from typer.testing import CliRunner, Result

from tuner.analysis.confirmed_record import write_confirmation
from tuner.analysis.confirmed_text import verdict
from tuner.cli.main import app
from tuner.config.run import RunConfig
from tuner.config.space_check import check_space
from tuner.config.space_file import space_from_text
from tuner.errors import UserError
from tuner.models.backbones import build_backbone
from tuner.models.weights import load_weights
from tuner.search.ledger import Ledger
from tuner.search.plan import first_trials, make_plan
from tuner.stages.store import StageStore
from tuner.stages.trial import run_trial
from tuner.sweep.best import find_best, for_real_run
from tuner.sweep.folder import SweepFolder
from tuner.tracking.environment import num_cores

ALL = """
question: q
steps: 60
sampler: random
schedulers:
"""
NAMES = ("fastface", "fastface_cooldown", "haar", "constant", "multi_step", "cosine", "polynomial", "plateau")
TINY = """
question: q
steps: 6
sampler: random
workload:
  data: {image_size: 32, identities: 8, images_per_identity: 4}
  model: {embedding_size: 8}
  optimizer: {batch_size: 4}
  evaluation: {pairs: 20, far: 0.1, times: 1}
schedulers:
  - name: fastface
    parameters: {decay_factor: {choices: [2, 4]}}
"""


def run(*words: str) -> Result:
    result = CliRunner().invoke(app, ["best", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def written(*words: str) -> RunConfig:
    return RunConfig.model_validate(yaml.safe_load(run(*words).stdout))


def test_the_best_is_written_as_the_run_that_the_sweep_made() -> None:
    folder = make_sweep(Path("sweeps/first"), [0.6, 0.7, 0.9, 0.8])
    record = Ledger.open(folder.journal, read_only=True).trials()[2]
    config = written("first")
    assert config.total_steps == 100
    assert config.scheduler.settings == record.settings
    assert config.workload.optimizer.base_lr == record.base_lr
    text = run("first").stdout
    assert "trial 2" in text
    assert "published setting of fastface (0.6000, trial 0)" in text.replace("\n# ", " ")
    assert "fastface-tuner train FILE" in text


def test_a_longer_run_keeps_the_shape_of_the_schedule() -> None:
    space = SPACE.replace("patience_fraction: {low: 0.02, high: 0.2}", "patience: {low: 2, high: 20}")
    space = space.replace("    parameters:", "    fixed: {threshold: 0.01, ema_window: 4}\n    parameters:")
    make_sweep(Path("sweeps/first"), [0.6, 0.9], space=space)
    short, long = written("first"), written("first", "--steps", "20000")
    assert long.total_steps == 20_000
    before, after = short.schedule().params, long.schedule().params
    assert after.rule.patience == pytest.approx(before.rule.patience * 200, abs=200)
    assert after.rule.decay_factor == before.rule.decay_factor
    assert 1 / after.a == pytest.approx(200 / before.a, rel=1e-6)
    assert float(long.scheduler.settings["threshold"]) == pytest.approx(0.01 / 200)
    scaled = written("first", "--steps", "20000", "--loss-scale", "4")
    assert float(scaled.scheduler.settings["threshold"]) == pytest.approx(4 * 0.01 / 200)


def test_a_confirmed_trial_comes_before_the_best_one() -> None:
    folder = make_sweep(Path("sweeps/first"), [0.6, 0.7, 0.9])
    said = confirmation(PUBLISHED, shifted(0.02), shifted(-0.02))
    write_confirmation(folder.path, said)
    found = find_best(folder)
    assert found.trial.number == 1
    assert "(trial 2): accuracy 0.9000" in found.sentence
    assert "Train with trial 1 (fastface, patience 1): accuracy 0.9350 " in found.sentence
    assert verdict(said) in found.sentence
    write_confirmation(folder.path, confirmation((None,) * 4, (None,) * 4))
    assert find_best(folder).trial.number == 2
    elsewhere = confirmation(PUBLISHED, *(shifted(0.02 * number) for number in range(4)), searched=(0.9,) * 5)
    write_confirmation(folder.path, elsewhere)
    with pytest.raises(UserError, match="names trial 4, which the sweep does not have"):
        find_best(folder)
    for damaged in ("{", "{}", "[]"):
        (folder.path / "confirm.json").write_text(damaged)
        with pytest.raises(UserError, match=r"confirm\.json"):
            find_best(folder)


def test_it_is_the_default_of_the_next_sweep() -> None:
    make_sweep(Path("sweeps/first"), [0.6, 0.9])
    run = yaml.safe_load(CliRunner().invoke(app, ["best", "first", "--steps", "500"]).stdout)
    fixed = {key: value for key, value in run["scheduler"]["settings"].items() if key != "decay_factor"}
    space = {
        "question": "And beside it?",
        "steps": run["total_steps"],
        "workload": run["workload"],
        "schedulers": [
            {"name": run["scheduler"]["name"], "fixed": fixed, "parameters": {"decay_factor": {"choices": [3, 5]}}}
        ],
    }
    check_space(space_from_text(yaml.safe_dump(space), file="next.yaml"))


def first_lines(*words: str) -> str:
    """Return what `best` says to write into a space, its comment marks taken off."""
    lines = [line.removeprefix("#") for line in run(*words).stdout.splitlines() if line.startswith("#")]
    at = next((number for number, line in enumerate(lines) if line.strip() == "first:"), None)
    return "" if at is None else "\n".join(lines[at : at + 2])


def test_it_can_be_tried_first_by_the_next_sweep_of_its_space() -> None:
    folder = make_sweep(Path("sweeps/first"), [0.6, 0.7, 0.9])
    best = Ledger.open(folder.journal, read_only=True).trials()[2]
    for words in (("first",), ("first", "--steps", "20000")):
        found = yaml.safe_load(first_lines(*words))
        space = yaml.safe_load(SPACE)
        space["schedulers"][0] |= found
        plan = make_plan(space_from_text(yaml.safe_dump(space), file="next.yaml"))
        assert [trial.params for trial in first_trials(plan)][1:] == [best.params]


def test_what_a_space_tries_first_anyway_or_has_no_words_for_is_not_to_be_written_into_it() -> None:
    make_sweep(Path("sweeps/published"), [0.9, 0.7])
    assert first_lines("published") == ""
    in_steps = SPACE.replace("patience_fraction: {low: 0.02, high: 0.2}", "patience: {low: 2, high: 20}")
    make_sweep(Path("sweeps/steps"), [0.6, 0.7], space=in_steps)
    assert "patience" in first_lines("steps")
    assert first_lines("steps", "--steps", "20000") == ""


@pytest.mark.parametrize("name", NAMES)
def test_the_code_runs_as_it_stands_and_gives_the_lrs_of_the_run(name: str) -> None:
    settings = {"multi_step": "{milestones: '20,40'}"}.get(name, "{}")
    make_sweep(Path("sweeps/first"), [0.6], space=f"{ALL}  - {{name: {name}, fixed: {settings}}}\n")
    code = run("first", "--steps", "50", "--code").stdout
    assert ("FastFaceLR" in code) == (name == "fastface")
    names: dict[str, Any] = {}
    exec(compile(code, "best.py", "exec"), names)  # noqa: S102 - it is what a user would run
    assert names["step"] == 49
    if name == "cosine":
        schedule = written("first", "--steps", "50").schedule()
        state, factor = schedule.start()
        for _ in range(49):
            state, factor = schedule.advance(state, 1.0)
        assert names["optimizer"].param_groups[0]["lr"] == pytest.approx(0.2 * factor)


def test_a_file_is_written_and_what_to_do_with_it_is_said() -> None:
    make_sweep(Path("sweeps/first"), [0.6])
    said = run("first", "-o", "best.yaml").stdout
    assert "fastface-tuner train best.yaml" in said
    assert RunConfig.model_validate(yaml.safe_load(Path("best.yaml").read_text())).total_steps == 100
    with pytest.raises(UserError, match="cannot be written"):
        run("first", "-o", "nowhere/best.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "no trial has ended"), ([None], "no trial has ended"), (["it broke"] * 2, "all failed.*it broke")],
)
def test_a_sweep_without_a_best_says_why(values: list[float | str | None], message: str) -> None:
    make_sweep(Path("sweeps/first"), values)
    with pytest.raises(UserError, match=message):
        run("first")


def test_other_bad_input_costs_one_line() -> None:
    folder = make_sweep(Path("sweeps/first"), [0.6])
    with pytest.raises(UserError, match="--loss-scale > 0"):
        for_real_run(find_best(folder).config, loss_scale=-1)
    with pytest.raises(UserError, match="`--register` registers what the sweep has trained"):
        run("first", "--register", "faces", "--steps", "50")
    with pytest.raises(UserError, match=r"mlflow\.db is not there"):
        run("first", "--register", "faces", "--tracking-uri", "sqlite:///none/mlflow.db")


def tracked_sweep(uri: str, *, store: Path | None) -> tuple[SweepFolder, str, MlflowClient]:
    """Make a sweep of one trial that has a run in MLflow and was trained on the stage store; return also the run."""
    client = MlflowClient(uri)
    parent = client.create_run("0").info.run_id
    folder = make_sweep(
        Path("sweeps/first"), [None], space=TINY, uri=uri, parent=parent, store=None if store is None else str(store)
    )
    child = client.create_run("0", run_name="trial 0").info.run_id
    ledger = Ledger.open(folder.journal)
    config = find_config(ledger)
    if store is not None:
        label = f"{parent}/0"
        for _ in run_trial(config, Path("once"), device=torch.device("cpu"), store=StageStore(store), label=label):
            pass
    ledger.annotate(0, run_id=child)
    ledger.tell(0, value=0.75, metrics={"accuracy": 0.75, "final_loss": 3.5})
    client.log_batch(child, metrics=[Metric("accuracy", 0.75, 5000, 5)])
    client.set_terminated(child)
    return folder, child, client


def find_config(ledger: Ledger) -> RunConfig:
    suggestion = ledger.ask()
    assert suggestion is not None
    return suggestion.config


@pytest.mark.parametrize("stored", [True, False])
def test_the_model_is_registered_with_its_evaluation_and_without_training_what_is_known(
    tmp_path: Path, mlflow_store: Callable[[Path], str], stored: bool
) -> None:
    torch.set_num_threads(num_cores())  # as a run sets it: it decides the last bits
    uri = mlflow_store(tmp_path)
    store = tmp_path / "stages" if stored else None
    folder, child, client = tracked_sweep(uri, store=store)
    stages = sorted(tmp_path.glob("stages/*/stages/*"))
    assert "registered trial 0 as faces, version 1" in run("first", "--register", "faces").stderr
    assert sorted(tmp_path.glob("stages/*/stages/*")) == stages

    version = client.get_model_version("faces", "1")
    assert (version.run_id, version.status) == (child, "READY")
    assert version.tags["accuracy"] == "0.75"
    assert "trial 0" in version.description
    found = Path(artifacts.download_artifacts("models:/faces/1", tracking_uri=uri, dst_path=str(tmp_path / "got")))
    assert sorted(path.name for path in found.iterdir()) == ["backbone.pth", "config.yaml", "schedule.py"]
    config = RunConfig.model_validate(yaml.safe_load((found / "config.yaml").read_text()))
    assert config == find_best(folder).config
    states: list[Any] = []
    for _ in run_trial(config, Path("alone"), device=torch.device("cpu"), store=None, at_end=states.append):
        pass
    model = config.workload.model
    backbone = build_backbone(model.backbone, image_size=32, embedding_size=model.embedding_size)
    load_weights(backbone, found / "backbone.pth")
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, states[0]["backbone"][key]), key

    assert "version 2" in run("first", "--register", "faces").stderr


def test_a_trial_without_a_run_cannot_be_registered_yet(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> None:
    uri = mlflow_store(tmp_path)
    parent = MlflowClient(uri).create_run("0").info.run_id
    make_sweep(Path("sweeps/first"), [0.5], uri=uri, parent=parent)
    with pytest.raises(UserError, match="fastface-tuner sync first"):
        run("first", "--register", "faces")
