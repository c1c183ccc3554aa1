"""Workloads of one's own: the page that shows one, what is checked, what counts as the same, and what is told."""

import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
import yaml
from mlflow import artifacts
from own_workloads import Toy
from plain_executor import stand_in
from rich.console import Console
from typer.testing import CliRunner

from tuner.cli.main import app
from tuner.config.own import OwnConfig
from tuner.config.own_code import looked_up, sources_digest
from tuner.config.run import RunConfig
from tuner.config.run_file import run_text
from tuner.config.space_file import load_space, space_from_text, with_workload
from tuner.errors import UserError
from tuner.names import CURVE_FILE, EVALUATIONS_FILE, NETWORK_FILE, STATE_FILE
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan, references, run_config
from tuner.sweep import begin
from tuner.sweep.asked import Asked
from tuner.sweep.begin import new_sweep
from tuner.sweep.data import prepare
from tuner.sweep.ending import Ending
from tuner.sweep.fitness import unfit
from tuner.sweep.folder import SweepFolder
from tuner.sweep.resume import resume_sweep
from tuner.sweep.single import AskedRun, train_run
from tuner.testing import CHECKS, check_workload
from tuner.tracking.environment import num_cores

PAGE = (Path(__file__).parents[1] / "docs" / "your_own_training.md").read_text("utf-8")
TOY = "own_workloads:Toy"
SPACE = """
question: q
steps: 20
trials: 3
workload: {name: "own_workloads:Toy"}
schedulers:
  - name: multi_step
    parameters: {milestones_fraction: {choices: ["0.7", "0.8"]}}
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: Callable[[Path], str]) -> Iterator[Path]:
    """Return a working folder in which sweeps run without Ray; modules from it are forgotten afterwards."""
    stand_in(monkeypatch)
    mlflow_store(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}
    yield tmp_path
    for name in {*sys.modules} - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    sources_digest.cache_clear()


def sweep(said: io.StringIO | None = None, **asked: Any) -> Ledger:
    return new_sweep(Asked(**asked), console=Console(file=said or io.StringIO(), width=1000), ending=Ending())


def recorded(name: str, number: int) -> list[bytes]:
    folder = SweepFolder(Path("sweeps") / name).trial(number)
    return [(folder / file).read_bytes() for file in (CURVE_FILE, EVALUATIONS_FILE)]


def test_the_page_leads_to_a_sweep_that_shares_and_gives_the_same_bits(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, own, check, data = blocks("python")
    Path("my_training.py").write_text(own)
    Path("digits.yaml").write_text(blocks("yaml")[0])
    assert len([line for line in own.splitlines() if line]) < 60
    exec(compile(loop, "loop", "exec"), {})  # noqa: S102 - our own page
    assert "accuracy" in capsys.readouterr().out
    exec(compile(check, "check", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out == ""
    exec(compile(data, "data", "exec"), {})  # noqa: S102

    shared = sweep(space="digits.yaml", name="shared", steps=80, trials=4)
    monkeypatch.setattr(begin, "unfit", lambda _: None)  # once is enough
    alone = sweep(space="digits.yaml", name="alone", steps=80, trials=4, share=False)
    assert SweepFolder(Path("sweeps/shared")).read().unfit is None
    assert sum(trial.steps_shared for trial in shared.trials() if trial.duplicate_of is None) > 0
    assert sum(trial.steps_shared for trial in alone.trials() if trial.duplicate_of is None) == 0
    for one, other in zip(shared.trials(), alone.trials(), strict=True):
        assert (one.state, one.value, one.metrics, one.params) == ("COMPLETE", other.value, other.metrics, other.params)
        if one.duplicate_of is None:
            assert recorded("shared", one.number) == recorded("alone", one.number)
    assert shared.plan.space.objective.metric == "accuracy"


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("", None),
        ("seed", "seed"),
        ("momentum", "state"),
        ("weights", "state"),
        ("iterator", "batch"),
        ("dropout", "batch"),
        ("array", "state"),
        ("keys", "state"),
        ("evaluation", "evaluation"),
        ("loss", "loss"),
        ("metrics", "metrics"),
        ("nan", None),  # the same NaN twice is no difference: the trial says what is wrong with it
    ],
)
def test_each_fault_is_found_and_told(fault: str, check: str | None) -> None:
    found = check_workload(Toy, {"fault": fault}, device="cpu")
    assert [each.check for each in found] == ([] if check is None else [check])
    assert all("\n" not in str(each) and "; " in each.mend for each in found)


@pytest.mark.parametrize(
    ("fault", "failed", "unknown"),
    [
        ("", None, set()),
        ("momentum", "state", set()),
        ("iterator", "batch", {"state"}),
        ("seed", "seed", {"state", "batch", "evaluation", "metrics"}),
    ],
)
def test_the_command_says_which_checks_pass(fault: str, failed: str | None, unknown: set[str]) -> None:
    arguments = ["check-workload", TOY, *(["--set", f"fault={fault}"] if fault else [])]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    found = json.loads(done.stdout)
    assert (done.exit_code, found["fit"]) == ((0, True) if failed is None else (1, False))
    assert {*found["checks"]} == {*CHECKS} - unknown
    assert [name for name, check in found["checks"].items() if not check["passed"]] == ([failed] if failed else [])
    if failed:
        assert "; " in found["checks"][failed]["mend"]
        shown = CliRunner().invoke(app, arguments).stdout
        assert f"failed  {failed} " in shown
        assert shown.endswith("not fit for sharing\n")


@pytest.mark.parametrize(
    ("method", "returned", "says"),
    [
        ("training_step", None, "`training_step` must return the loss, one number, but returned None"),
        ("training_step", torch.ones(2), "one number, but returned a tensor of shape (2,)"),
        ("evaluate", 0.9, "`evaluate` must return metrics by name, but returned 0.9"),
        ("evaluate", {"error": "low"}, "one number for each metric, but `error` is 'low'"),
    ],
)
def test_what_is_no_loss_or_no_metrics_is_told(
    monkeypatch: pytest.MonkeyPatch, method: str, returned: object, says: str
) -> None:
    monkeypatch.setattr(Toy, method, lambda *_: returned)
    with pytest.raises(UserError, match=re.escape(says)):
        check_workload(Toy, device="cpu")


def test_metrics_may_be_any_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "metrics", MappingProxyType(Toy.metrics))
    assert looked_up(OwnConfig(name=TOY)).metrics == {
        "error": "minimize",
        "accuracy": "maximize",
        "final_loss": "minimize",
    }


def test_a_missing_method_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Toy, "evaluate")
    with pytest.raises(UserError, match=r"but Toy lacks evaluate; write it, see tuner.workload"):
        check_workload(Toy, device="cpu")


def test_the_best_network_is_registered_where_the_class_says_what_it_is(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(num_cores())  # as a run sets it: it decides the last bits
    Path("space.yaml").write_text(SPACE)
    monkeypatch.setattr(begin, "unfit", lambda _: None)
    ledger = sweep(space="space.yaml", name="first", trials=2)
    command = ["best", "first", "--register", "toy"]
    with pytest.raises(UserError, match=r"its class must have a static method `weights\(state\)`"):
        CliRunner().invoke(app, command, catch_exceptions=False)

    monkeypatch.setattr(Toy, "weights", staticmethod(lambda state: state["model"]), raising=False)
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "registered trial" in done.stderr
    best = ledger.best()
    assert best is not None
    uri = SweepFolder(Path("sweeps/first")).read().tracking_uri
    got = Path(artifacts.download_artifacts("models:/toy/1", tracking_uri=uri, dst_path=str(place / "got")))
    workload = Toy(Toy.Settings(), seed=ledger.plan.seed, device=torch.device("cpu"))
    workload.model.load_state_dict(torch.load(got / NETWORK_FILE, weights_only=True))
    assert workload.evaluate().items() <= best.metrics.items()

    folder = SweepFolder(Path("sweeps/first"))
    folder.write(folder.read().model_copy(update={"faces": "others"}), replace=True)
    with pytest.raises(UserError, match="the code or the data of own_workloads:Toy have changed"):
        CliRunner().invoke(app, command, catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["own_workloads"], "a workload must be named as `package.module:Class`, or be classification, but got"),
        ([TOY, "--set", "fualt=seed"], "unknown setting `fualt`; did you mean `fault`?"),
        ([TOY, "--set", "fault=raises"], "a first try of it failed: RuntimeError: no such picture"),
    ],
)
def test_the_command_says_in_a_line_what_cannot_be_tried(arguments: list[str], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        CliRunner().invoke(app, ["check-workload", *arguments], catch_exceptions=False)


def test_an_unfit_workload_is_swept_without_sharing_and_begins_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("space.yaml").write_text(SPACE.replace('Toy"', 'Toy", settings: {fault: iterator}'))
    monkeypatch.setattr(begin, "unfit", lambda _: "batch: it must")  # which is found out in a process of its own
    said = io.StringIO()
    ledger = sweep(said, space="space.yaml", name="unfit", trials=1)
    assert "nothing is shared, since the workload failed a check" in said.getvalue()
    assert "batch: it must" in said.getvalue()
    description = SweepFolder(Path("sweeps/unfit")).read()
    assert (description.store, description.unfit) == (None, "batch: it must")
    assert not Path("stages").exists()
    assert (ledger.plan.space.objective.metric, ledger.plan.space.objective.maximize) == ("error", False)

    folder = SweepFolder(Path("sweeps/unfit"))
    ledger = resume_sweep(folder, Asked(trials=2), console=Console(file=said), ending=Ending())
    assert [trial.state for trial in ledger.trials()] == ["COMPLETE", "COMPLETE"]
    assert not list(folder.path.rglob("stages"))


def test_a_sweep_finds_out_in_a_process_of_its_own() -> None:
    def config(fault: str) -> RunConfig:
        workload = looked_up(OwnConfig(name=TOY, settings={"fault": fault}))
        return RunConfig(workload=workload, total_steps=20)

    assert (unfit(config("momentum")) or "").startswith("state: a restored state must go on bit for bit")
    with pytest.raises(UserError, match=r"a first try of it failed: RuntimeError: no such picture \(own_workloads.py"):
        unfit(config("raises"))


def test_a_ledger_is_read_without_the_code(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("gone.py").write_text((Path(__file__).parent / "own_workloads.py").read_text())
    Path("space.yaml").write_text(SPACE.replace("own_workloads", "gone"))
    monkeypatch.setattr(begin, "unfit", lambda _: None)
    monkeypatch.setattr(begin, "run_trials", lambda *_, **__: None)
    sweep(space="space.yaml", name="first")
    with Path("gone.py").open("a") as source:
        source.write("# another version\n")
    sources_digest.cache_clear()
    with pytest.raises(UserError, match="the code or the data of gone:Toy have changed"):
        resume_sweep(SweepFolder(Path("sweeps/first")), Asked(), console=Console(quiet=True), ending=Ending())
    Path("gone.py").unlink()
    del sys.modules["gone"]
    plan = Ledger.open(Path("sweeps/first/study.journal"), read_only=True).plan
    assert plan.space.workload.metrics == {"error": "minimize", "accuracy": "maximize", "final_loss": "minimize"}
    assert run_config(plan, references(plan)[0]).workload.reference_lr == 0.05


def test_a_run_of_it_is_trained_and_leaves_its_state(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.sweep.single.unfit", lambda _: None)
    Path("run.yaml").write_text("total_steps: 8\nscheduler: {name: cosine}\n")
    folder, record = train_run(
        AskedRun(config="run.yaml", workload=TOY, name="one"), console=Console(file=io.StringIO()), ending=Ending()
    )
    assert record.state == "finished"
    assert {*record.metrics} == {"accuracy", "error", "final_loss"}
    assert folder.weights.name == STATE_FILE
    assert folder.weights.exists()
    again = RunConfig.model_validate(yaml.safe_load(run_text(record.config)))
    assert again == record.config


def test_changed_code_and_changed_data_are_other_trainings(place: Path) -> None:
    Path("helper.py").write_text("SIZE = 3\n")
    source = (Path(__file__).parent / "own_workloads.py").read_text()
    by_hand = (
        "\n    @classmethod\n    def data(cls, settings):\n        return Data(name='x', digest=files_digest('x'))\n"
    )
    imports = "import helper\nfrom tuner.workload import Data, files_digest\n"
    Path("mine.py").write_text(
        source.replace('"""\n\n', f'"""\n\n{imports}', 1).replace(
            "\n    def state_dict", by_hand + "\n    def state_dict"
        )
    )
    Path("x").write_text("1")

    def digest() -> str:
        from tuner.training import opened

        sources_digest.cache_clear()
        opened._said_data.cache_clear()
        return prepare(looked_up(OwnConfig(name="mine:Toy")), Console(quiet=True)).digest

    first = digest()
    assert digest() == first
    Path("x").write_text("2")
    other_data = digest()
    Path("helper.py").write_text("SIZE = 4\n")
    other_code = digest()
    assert len({first, other_data, other_code}) == 3


@pytest.mark.parametrize(
    ("workload", "says"),
    [
        ("{name: nowhere:Toy}", "there is no module nowhere, neither installed nor in"),
        ("{name: own_workloads:Toi}", "own_workloads has no Toi; did you mean `Toy`?"),
        ("{name: own_workloads}", "workload.name: a workload must be named as `package.module:Class`"),
        ("{name: own_workloads:Toy, setings: {}}", "unknown key `workload.setings`; did you mean `settings`?"),
        ("{name: own_workloads:Toy, settings: {fualt: x}}", "unknown setting `fualt`; did you mean `fault`?"),
        ("{name: own_workloads:Toy, settings: {batch_size: many}}", "setting `batch_size`: input should be"),
        ("{name: own_workloads:Toy}\nobjective: {metric: eror}", "a metric of the workload (did you mean `error`?)"),
        ("{name: own_workloads:Toy}\nobjective: {metric: error, direction: maximize}", "of `error` must be minimize"),
        ("{name: own_workloads:Toy, base_lr: 0.1}\nbase_lr: 0.2", "`base_lr` (0.2) and `workload.base_lr` (0.1) say"),
        ("{name: broken:Toy}", "broken cannot be imported: ZeroDivisionError: division by zero (broken.py, line 1)"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_line(place: Path, workload: str, says: str) -> None:
    Path("broken.py").write_text("1 / 0\n")
    Path("space.yaml").write_text(re.sub(r"workload: .*", lambda _: f"workload: {workload}", SPACE))
    with pytest.raises(UserError) as raised:
        load_space("space.yaml")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_workload_option_takes_the_place_of_the_spaces_own() -> None:
    from tuner.sweep.asked import asked_space

    space = asked_space(Asked(workload=TOY), load_space("smoke"))
    assert (space.workload.source, space.objective.metric, space.objective.maximize) == (TOY, "accuracy", True)
    with pytest.raises(UserError, match="there is no module gone"):  # whatever a file says that its class declares
        declared = {"metrics": {"accuracy": "maximize"}, "base_lr": 0.1}
        with_workload(space, OwnConfig.model_validate({"name": "gone:Toy", "declared": declared}))
    plan = make_plan(space, steps=20)
    assert run_config(plan, references(plan)[0]).workload.reference_lr == 0.05
    for asked in (Asked(workload=TOY, data="x"), Asked(workload=TOY, max_images=30), Asked(workload="Toy")):
        with pytest.raises(UserError):
            asked_space(asked, load_space("smoke"))


def test_faces_are_stored_as_before() -> None:
    space = space_from_text(SPACE.replace('{name: "own_workloads:Toy"}', "{data: {image_size: 32}}"), file="x.yaml")
    assert {*space.model_dump(mode="json")["workload"]} == {
        "data", "model", "head", "augmentation", "optimizer", "compute", "evaluation",
    }  # fmt: skip
