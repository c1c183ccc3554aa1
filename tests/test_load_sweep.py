"""`tuner.load_sweep`: tables that say what the ledger and the files say, and an example that runs."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_sweep import falling, make_sweep

import tuner
from tuner.analysis.frames import LoadedSweep
from tuner.errors import UserError

DOCS = Path(__file__).parents[1] / "docs" / "notebook.md"
EVALUATIONS = {0: {50: 0.5, 100: 0.6}, 1: {50: 0.7, 100: 0.9}}


@pytest.fixture
def sweep() -> LoadedSweep:
    make_sweep(Path("sweeps/first"), [0.6, 0.9, "broke", None], losses=falling, evaluations=EVALUATIONS)
    return tuner.load_sweep("first")


def test_trials_are_one_row_each(sweep: LoadedSweep) -> None:
    trials = sweep.trials
    assert trials["trial"].tolist() == [0, 1, 2, 3]
    assert trials["state"].tolist() == ["COMPLETE", "COMPLETE", "FAIL", "RUNNING"]
    assert trials["value"].iloc[:2].tolist() == [0.6, 0.9]
    assert trials["value"].isna().tolist() == [False, False, True, True]
    assert trials["params.patience_fraction"].iloc[0] == 0.05
    assert trials["metrics.accuracy"].iloc[1] == 0.9
    assert trials["reason"].iloc[2] == "broke"
    assert (sweep.name, sweep.metric, sweep.maximize) == ("first", "accuracy", True)


def test_curves_are_tidy_and_exact(sweep: LoadedSweep) -> None:
    curve = sweep.curve(1)
    assert list(curve) == ["step", "loss", "lr", "detector_response"]
    assert curve["loss"].tolist() == falling(1, 100)
    assert curve["step"].tolist() == list(range(100))
    assert curve["detector_response"].isna().all()
    assert list(sweep.curves) == ["trial", *curve]
    assert sweep.curves.groupby("trial").size().to_dict() == dict.fromkeys(range(4), 100)


def test_losses_are_those_of_the_file_to_the_last_bit() -> None:
    losses = [*np.random.default_rng(0).lognormal(0, 3, 98).tolist(), math.inf, math.nan]
    made = make_sweep(Path("sweeps/first"), [0.6], losses=lambda *_: losses)
    assert np.array_equal(tuner.load_sweep(made.path).curve(0)["loss"], losses, equal_nan=True)


def test_evaluations_are_one_row_each(sweep: LoadedSweep) -> None:
    expected = pd.DataFrame({"trial": [0, 0, 1, 1], "steps": [50, 100, 50, 100], "accuracy": [0.5, 0.6, 0.7, 0.9]})
    pd.testing.assert_frame_equal(sweep.evaluations, expected)


def test_a_curve_that_grows_is_read_to_its_last_whole_row(sweep: LoadedSweep) -> None:
    with Path("sweeps/first/trials/0003/curve.csv").open("a") as file:
        file.write("100,0.1")
    assert len(sweep.curve(3)) == 100


def test_what_is_not_there_is_told(sweep: LoadedSweep) -> None:
    with pytest.raises(UserError, match="has no 7; the last one is 3"):
        sweep.curve(7)
    with pytest.raises(UserError, match="no sweep 'other'"):
        tuner.load_sweep("other")


def test_a_sweep_without_trials_has_empty_tables() -> None:
    empty = tuner.load_sweep(make_sweep(Path("empty"), []).path)
    assert [len(table) for table in (empty.trials, empty.curves, empty.evaluations)] == [0, 0, 0]


def test_trials_without_files_have_empty_curves() -> None:
    bare = tuner.load_sweep(make_sweep(Path("bare"), [0.5]).path)
    assert len(bare.curve(0)) == 0


def test_the_example_runs(sweep: LoadedSweep, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", DOCS.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        exec(compile(block, DOCS.name, "exec"), names)  # noqa: S102 - our own page
    shown = capsys.readouterr().out
    assert "trial 1: final loss 0." in shown


def test_importing_the_package_brings_nothing_heavy() -> None:
    code = "import sys, tuner; print([n for n in ('torch', 'pandas', 'mlflow', 'optuna', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
