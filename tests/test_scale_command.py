"""`fastface-tuner scale` writes settings that a space, a run and `replay` take as they are."""

import json
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tuner.cli.main import app
from tuner.config.run import RunConfig
from tuner.config.space_check import check_space
from tuner.config.space_file import space_from_text
from tuner.errors import UserError

PUBLISHED = "--scheduler haar --set haar_window=2481 --set threshold=0.0615 --set patience=4962 --from-steps 165435"


def run(words: str) -> Any:
    return CliRunner().invoke(app, ["scale", *words.split()])


def test_both_forms_are_settings_of_a_run_of_the_new_length() -> None:
    result = run(f"{PUBLISHED} --to-steps 20000 --initial-loss 42.1388")
    assert result.exit_code == 0
    written = yaml.safe_load(result.stdout)
    assert list(written) == ["scale_free", "resolved"]
    assert written["resolved"]["haar_window"] == 299
    assert written["resolved"]["patience"] == 599
    assert written["scale_free"]["haar_window_fraction"] == pytest.approx(0.015, rel=1e-3)
    for form in written.values():
        config = {"scheduler": {"name": "haar", "settings": form}, "total_steps": 20_000}
        schedule = RunConfig.model_validate(config).schedule()
        assert schedule.params.haar_window == 299
        space = {"question": "?", "steps": 20_000, "schedulers": [{"name": "haar", "fixed": form}]}
        check_space(space_from_text(yaml.safe_dump(space), file="space"))


def test_json_has_the_same_settings() -> None:
    words = f"{PUBLISHED} --to-steps 20000 --initial-loss 42.1388"
    data = json.loads(run(f"{words} --json").stdout)
    assert {key: data[key] for key in ("scale_free", "resolved")} == yaml.safe_load(run(words).stdout)
    assert (data["scheduler"], data["total_steps"]) == ("haar", 20_000)


def test_nothing_but_the_length_gives_the_published_setting() -> None:
    resolved = yaml.safe_load(run("--to-steps 202000").stdout)["resolved"]
    assert resolved["ema_window"] == pytest.approx(1000)
    assert resolved["haar_window"] == pytest.approx(2000)
    assert resolved["patience"] == 10_100


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--set patience=10 --to-steps 500", "--from-steps is missing"),
        ("--set ema_decay=0.9 --to-steps 500", "--from-steps is missing"),
        ("--set threshold=0.1 --to-steps 500", "--from-steps is missing"),
        ("--set patience=700 --from-steps 500 --to-steps 1000", "patience"),
        ("--scheduler fastfac --to-steps 500", "did you mean `fastface`"),
        ("--set pations=3 --to-steps 500", "did you mean `patience`"),
        ("--to-steps 500 --initial-loss -1", "`initial_loss > 0`"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(words: str, problem: str) -> None:
    result = run(words)
    assert isinstance(result.exception, UserError)
    assert problem in str(result.exception)


def test_help_has_an_example() -> None:
    assert "Example: fastface-tuner scale" in run("--help").stdout
