"""Trials trained again without sharing: which ones, what counts as equal, and what is said of a difference."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from mlflow import MlflowClient
from rich.console import Console

from tuner.analysis.sharing import (
    Difference,
    TrialCheck,
    Verification,
    compare_runs,
    read_verification,
    write_verification,
)
from tuner.curves import CurvePoint, CurveWriter
from tuner.errors import UserError
from tuner.evaluations import EvaluationWriter, read_evaluations
from tuner.names import CACHE_VARIABLE, TRACKING_URI_VARIABLE
from tuner.search.ledger import Ledger
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepFolder
from tuner.sweep.verify import choose, verify_sharing
from tuner.trials import RecordState, TrialRecord

METRICS = {"accuracy": 0.1 + 0.2, "final_loss": 4.25}


def record(
    number: int, *, shared: int = 0, executed: int = 0, state: RecordState = "COMPLETE", twin: int | None = None
) -> TrialRecord:
    value = 0.5 if state == "COMPLETE" else None
    return TrialRecord(
        number=number, state=state, value=value, params={}, scheduler="fastface", settings={}, base_lr=0.1,
        reference=False, key=str(number), steps_executed=executed, steps_shared=shared, duplicate_of=twin,
    )  # fmt: skip


def trained(folder: Path, *, steps: int = 10, loss_of_step: Callable[[int], float] = float) -> Path:
    """Leave the files of a run with an evaluation in the middle and one at the end."""
    with CurveWriter(folder / "curve.csv") as curve:
        for step in range(steps):
            curve.write(CurvePoint(step, loss_of_step(step), 0.1, None if step == 0 else step / 7))
    with EvaluationWriter(folder / "evaluations.jsonl") as evaluations:
        evaluations.write(steps // 2, {"accuracy": 0.3})
        evaluations.write(steps, METRICS)
    return folder


def test_trials_that_shared_come_first_and_failed_ones_and_repetitions_never() -> None:
    records = [
        record(0), record(1, shared=5), record(2, state="FAIL"), record(3, shared=9, twin=1), record(4, shared=1),
        record(5), record(6, state="RUNNING"),
    ]  # fmt: skip
    assert [each.number for each in choose(records, num=2, seed=0)] == [1, 4]
    assert [each.number for each in choose(records, num=9, seed=0)] == [0, 1, 4, 5]
    went_on = [*(record(number, shared=40) for number in range(9)), record(9, shared=20, executed=20)]
    assert {choose(went_on, num=1, seed=seed)[0].number for seed in range(9)} == {9}
    many = [record(number, shared=1) for number in range(30)]
    assert choose(many, num=4, seed=1) == choose(many, num=4, seed=1) != choose(many, num=4, seed=2)


def test_equal_runs_are_equal_and_the_first_difference_is_named_to_the_last_bit(tmp_path: Path) -> None:
    own = trained(tmp_path / "own")
    equal = compare_runs(own, trained(tmp_path / "equal"), metrics=METRICS, metrics_alone=METRICS)
    assert equal is None
    by_one_bit = trained(tmp_path / "bit", loss_of_step=lambda step: step + (5e-16 if step == 1 else 0.0))
    found = compare_runs(own, by_one_bit, metrics=METRICS, metrics_alone=METRICS)
    assert found is not None
    assert (found.step, "loss is 1.0, and 1.0000000000000004" in found.text) == (1, True)
    shorter = compare_runs(own, trained(tmp_path / "short", steps=7), metrics=METRICS, metrics_alone=METRICS)
    assert shorter is not None
    assert shorter.step == 7
    final = compare_runs(own, own, metrics=METRICS, metrics_alone={**METRICS, "accuracy": 0.3})
    assert final is not None
    assert (final.step, "accuracy is 0.30000000000000004, and 0.3" in final.text) == (9, True)


def test_an_evaluation_in_the_middle_counts_too(tmp_path: Path) -> None:
    own, alone = trained(tmp_path / "own"), trained(tmp_path / "alone")
    lines = (own / "evaluations.jsonl").read_text().splitlines()
    lines[1] = lines[1].replace("0.3", "0.31")
    (own / "evaluations.jsonl").write_text("\n".join([*lines, ""]))
    found = compare_runs(own, alone, metrics=METRICS, metrics_alone=METRICS)
    assert found is not None
    assert (found.step, "after 5 steps" in found.text) == (4, True)


@pytest.mark.parametrize("damage", ["curve.csv", "evaluations.jsonl"])
def test_a_missing_or_damaged_record_is_no_equality(tmp_path: Path, damage: str) -> None:
    own, alone = trained(tmp_path / "own"), trained(tmp_path / "alone")
    content = (own / damage).read_bytes()
    (own / damage).write_bytes(content[:20] + b"\xff" + content[21:])
    found = compare_runs(own, alone, metrics=METRICS, metrics_alone=METRICS)
    assert found is not None
    (own / damage).unlink()
    gone = compare_runs(own, alone, metrics=METRICS, metrics_alone=METRICS)
    assert gone is not None
    assert str(own / damage) in gone.text


def test_evaluations_come_back_bit_for_bit_and_damage_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    values = {steps: {"accuracy": steps / 7} for steps in (1, 2, 3)}
    with EvaluationWriter(path) as writer:
        for steps, metrics in values.items():
            writer.write(steps, metrics)
    assert read_evaluations(path) == values
    with path.open("a") as file:
        file.write('{"steps": 4, "acc')
    assert read_evaluations(path) == values
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match=r"evaluations\.jsonl: line 5 is damaged"):
        read_evaluations(path)
    path.write_text('{"steps": 4, "accuracy": 0.5}\n')
    with pytest.raises(UserError, match=r"evaluations\.jsonl: line 1 must be"):
        read_evaluations(path)


def test_what_was_found_comes_back_from_the_disk_and_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    assert read_verification(tmp_path) is None
    checks = (
        TrialCheck(trial=1, steps=40, steps_shared=20, difference=None),
        TrialCheck(trial=2, steps=40, steps_shared=9, difference=Difference(step=3, text="differs from step 3 on")),
    )
    found = Verification(trials=checks, deterministic=True)
    write_verification(tmp_path, found)
    assert read_verification(tmp_path) == found
    assert not found.passed
    assert found.conclusion == "1 of 2 trials equal, bit for bit; not so: 2"
    lenient = Verification(trials=checks, deterministic=False)
    assert lenient.passed
    assert "common random numbers" in lenient.conclusion
    content = (tmp_path / "verify.json").read_text()
    (tmp_path / "verify.json").write_text(content.replace("40", "41"))
    with pytest.raises(UserError, match=r"verify\.json.*damaged"):
        read_verification(tmp_path)


def test_a_sweep_verifies_its_trials_and_a_doctored_curve_is_found(
    tmp_path: Path, session_cache: Path, mlflow_store: Callable[[Path], str]
) -> None:
    uri = mlflow_store(tmp_path)
    environment = {**os.environ, TRACKING_URI_VARIABLE: uri, CACHE_VARIABLE: str(session_cache)}
    command = [sys.executable, "-m", "tuner.cli.main", "sweep", "smoke", "--verify-sharing", "2", "--name", "first"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "sharing verified: 2 of 2 trials equal, bit for bit" in done.stdout
    folder = SweepFolder(tmp_path / "sweeps" / "first")
    found = read_verification(folder.path)
    assert found is not None
    assert {check.trial for check in found.trials} == {1, 2}  # trial 0 shared nothing
    assert all(check.steps_shared > 0 for check in found.trials)
    tags = MlflowClient(uri).get_run(folder.read().parent_run_id).data.tags
    assert tags["sharing_verified"] == "2 of 2 trials equal, bit for bit"

    curve = folder.trial(2) / "curve.csv"
    rows = curve.read_text().splitlines()
    step, loss, *rest = rows[1 + 23].split(",")
    rows[1 + 23] = ",".join([step, repr(float(loss) * (1 + 2**-51)), *rest])
    curve.write_text("\n".join([*rows, ""]))
    said = io.StringIO()
    ledger = Ledger.open(folder.journal)
    again = verify_sharing(ledger, folder=folder, num=2, tracker=None, console=Console(file=said), ending=Ending())
    ray.shutdown()
    assert not again.passed
    assert again == read_verification(folder.path)
    assert [check.trial for check in again.trials if check.difference is None] == [1]
    difference = next(check.difference for check in again.trials if check.difference is not None)
    assert difference.step == 23
    assert "trial 2: differs from step 23 on" in said.getvalue()
    assert json.loads((folder.path / "verify.json").read_text())["passed"] is False
