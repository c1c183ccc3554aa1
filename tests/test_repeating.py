"""The report's command makes the sweep again: whatever was asked for, what it begins has the same plan."""

import re
import shlex
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
import yaml
from test_training_sets import write_set
from typer.testing import CliRunner

from tuner.analysis.report_page import make_report
from tuner.cli.main import app
from tuner.config.space_file import load_space
from tuner.search.ledger import Ledger
from tuner.search.plan import Plan
from tuner.search.recorded_plan import plan_record
from tuner.sweep import begin
from tuner.sweep.asked import Asked, repeating
from tuner.sweep.folder import SweepFolder
from tuner.sweep.report import report_material

CANARY = "c4nary"
TINY = {
    "workload": {
        "data": {"image_size": 32, "identities": 8, "images_per_identity": 4},
        "model": {"embedding_size": 8},
        "optimizer": {"batch_size": 4, "base_lr": 0.05},
        "evaluation": {"pairs": 20, "far": 0.1, "times": 1},
    }
}
SPACE = """
question: q
steps: 6
schedulers: [{name: fastface, parameters: {decay_factor: {choices: [2, 4]}}, first: [{decay_factor: 4}]}]
"""


@pytest.fixture(autouse=True)
def _nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: Callable[[Path], str]) -> None:
    mlflow_store(tmp_path)
    monkeypatch.setattr(begin, "run_trials", lambda *_, **__: None)
    monkeypatch.setattr(begin, "unfit", lambda _: None)
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    Path("own.yaml").write_text(SPACE)
    Path("my sets").mkdir()
    for first, name in enumerate(("lfw.bin", "cfp.bin")):
        write_set(Path("my sets") / name, first=100 * first)


def begun(name: str, *words: str) -> SweepFolder:
    result = CliRunner().invoke(app, ["sweep", *words, "--name", name])
    assert (result.exit_code, result.output) == (1, "")  # no trial has run
    return SweepFolder(Path("sweeps") / name)


def plan_of(folder: SweepFolder) -> Plan:
    return Ledger.open(folder.journal, read_only=True).plan


def shown(folder: SweepFolder) -> list[str]:
    """Return the words of the report's command to repeat the sweep, after `fastface-tuner sweep`."""
    found = re.search(r'<pre id="commands">(.*?)\n', make_report(report_material(folder)).page)
    assert found
    tool, command, *words = shlex.split(unescape(found[1]))
    assert (tool, command) == ("fastface-tuner", "sweep")
    return words


@pytest.mark.parametrize(
    "words",
    [
        ["smoke"],
        ["smoke", "--recipe", "tiny.yaml", "--max-identities", "6", "--budget-steps", "50", "--no-share"],
        ["own.yaml", "--recipe", "tiny.yaml", "--sets", "my sets", "--sampler", "grid", "--checkpoint-budget", "1.5GB"],
        ["smoke", "--recipe", "tiny.yaml", "--max-images", "24", "--budget-minutes", "0.5", "--decision-grid", "10"],
        [
            "own.yaml",
            "--workload",
            "own_workloads:Toy",
            "--seed",
            "3",
            "--steps",
            "20",
            "--trials",
            "2",
            "--cost-aware",
        ],
    ],
    ids=lambda words: " ".join(words),
)
def test_the_command_repeats_the_sweep(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = begun("first", *words)
    command = shown(first)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    second = begun("second", *command)
    plans = [plan_record(plan_of(folder)) | {"file": ""} for folder in (first, second)]
    assert plans[0] == plans[1]
    ours, theirs = first.read(), second.read()
    assert (theirs.budget, theirs.checkpoint_budget, theirs.asked) == (ours.budget, ours.checkpoint_budget, ours.asked)
    assert (theirs.store is None) == (ours.store is None)
    assert shown(second) == command


def test_a_space_that_was_changed_since_is_taken_from_the_page() -> None:
    folder = begun("first", "own.yaml", "--recipe", "tiny.yaml")
    assert shown(folder)[0] == str(Path("own.yaml").absolute())
    Path("own.yaml").write_text(SPACE.replace("steps: 6", "steps: 7"))
    words = shown(folder)
    assert words[0] == "space.yaml"
    page = re.search(r'<pre id="space">(.*?)</pre>', make_report(report_material(folder)).page, re.DOTALL)
    assert page
    Path("space.yaml").write_text(unescape(page[1]))
    assert plan_of(begun("second", *words)).space.model_dump() == plan_of(folder).space.model_dump()
    Path("own.yaml").unlink()
    assert shown(folder) == words


def test_a_sweep_that_did_not_note_what_was_asked_has_its_space_on_the_page() -> None:
    folder = begun("first", "smoke")
    folder.write(folder.read().model_copy(update={"asked": ()}), replace=True)
    assert shown(folder)[0] == "space.yaml"
    assert load_space("smoke").text == plan_of(folder).space.text


def test_no_password_is_noted_with_the_sweep() -> None:
    uri = f"http://me:{CANARY}@host"
    space = load_space("smoke")
    for asked in (Asked(space="smoke", tracking_uri=uri), Asked(space="smoke", workload=f"{uri}/a:B")):
        assert CANARY not in "".join(repeating(asked, space))
