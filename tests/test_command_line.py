"""What a person mistypes costs one line that says the rule, the value and the way out, and never a traceback."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuner.cli.main import main
from tuner.errors import UserError
from tuner.models.weights import read_weights


@dataclass(frozen=True)
class Outcome:
    """What one command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs the tool with some words."""

    def run(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["fastface-tuner", *words])
        with pytest.raises(SystemExit) as ending:
            main()
        code = ending.value.code or 0
        assert isinstance(code, int)
        return Outcome(code, *capsys.readouterr())

    return run


def test_the_version_is_told(command: Callable[..., Outcome]) -> None:
    assert command("--version").out == f"fastface-tuner {version('fastface-tuner')}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["swep"], "no such command 'swep'; did you mean 'sweep'?; see fastface-tuner --help"),
        (["stages", "lst"], "no such command 'lst'; did you mean 'list'?; see fastface-tuner stages --help"),
        (["sweep", "--trials", "-1"], "'--trials': input should be greater than or equal to 1, but got '-1'; see"),
        (["sweep", "--trials=0"], "but got '0'; see fastface-tuner sweep --help"),
        (["sweep", "--steps", "1.5"], "'--steps': input should be a valid integer"),
        (
            ["sweep", "--sampler", "bayes"],
            "'--sampler': 'bayes' is not one of 'tpe', 'random', 'grid', 'cmaes', 'gp'; see",
        ),
        (["sweep", "--trails", "3"], "no such option: --trails (Possible options: --trials); see"),
        (["sweep", "smoke", "more"], "unexpected extra argument(s) (more)"),
        (["sweep", "smoke", "--trials"], "option '--trials' requires an argument"),
        (["train"], "missing argument 'config'; see fastface-tuner train --help"),
        (["scale"], "missing option '--to-steps'"),
        (["sweep", ""], "a search space must be a file or a shipped name, but got ''"),
        (
            ["sweep", "smoke", "--name", ""],
            "a sweep's name must be letters, digits, spaces, '.', '-' and '_', but got ''",
        ),
        (["sweep", "smoke", "--resume", "--name", ""], "a sweep's name must be"),
        (["train", "run.yaml", "--name", ""], "a run's name must be the name of a folder, but got ''"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_words_that_cannot_be_cost_one_line(command: Callable[..., Outcome], words: list[str], says: str) -> None:
    Path("run.yaml").write_text("total_steps: 6\n")
    outcome = command(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("fastface-tuner: ")
    assert says in outcome.err


def test_the_help_says_of_each_command_a_whole_sentence(command: Callable[..., Outcome]) -> None:
    lines = command("--help").out.split("Commands:\n")[1].split("\n\n")[0].splitlines()
    assert len(lines) > 10
    assert [line for line in lines if not line.endswith(".") or line.endswith("...")] == []


def test_no_words_at_all_show_the_help(command: Callable[..., Outcome]) -> None:
    for words in ([], ["stages"]):
        outcome = command(*words)
        assert outcome.code == 2
        assert outcome.err.startswith("Usage: fastface-tuner")
        assert outcome.err.count("\n") > 5


def test_a_sweep_without_its_description_is_told_in_plain_words(command: Callable[..., Outcome]) -> None:
    Path("sweeps/first").mkdir(parents=True)
    Path("sweeps/first/study.journal").touch()
    outcome = command("status", "first")
    assert outcome.code == 2
    assert outcome.err.endswith(
        "sweep.yaml must describe a sweep, but cannot be read: No such file or directory; restore it\n"
    )


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_any_file_that_holds_no_weights_is_told(tmp_path: Path, content: bytes) -> None:
    """Such as a CSV, whose first letters are commands to an unpickler: what torch raises for it may be anything."""
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"weights: .* must (be|hold) a state dict"):
        read_weights(tmp_path / "x.pth")


def test_a_csv_in_place_of_weights_is_told(command: Callable[..., Outcome]) -> None:
    Path("ok.csv").write_text("step,loss\n0,1\n1,0.9\n")
    outcome = command("evaluate", "ok.csv", "ok.csv")
    assert outcome.code == 2
    assert "weights: ok.csv must be a state dict saved by torch, but cannot be read as one" in outcome.err
