"""Where the user turns determinism off, trials share steps all the same, and everything that shows them says so."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from plain_executor import stand_in
from rich.console import Console
from typer.testing import CliRunner

from tuner.analysis.report_page import make_report
from tuner.cli.main import app
from tuner.config.run import FaceConfig, RunConfig
from tuner.names import COMMON_RANDOM_NUMBERS
from tuner.search.plan import run_key
from tuner.sweep.asked import Asked
from tuner.sweep.begin import new_sweep
from tuner.sweep.collect import find_collected
from tuner.sweep.ending import Ending
from tuner.sweep.folder import SweepFolder
from tuner.sweep.report import report_material
from tuner.training.determinism import set_deterministic
from tuner.training.fingerprint import fingerprint

LENIENT = {"compute": {"deterministic": False}}


def sweep(uri: str, name: str) -> SweepFolder:
    asked = Asked(space="smoke", name=name, tracking_uri=uri)
    with Path("said.txt").open("a") as said:
        new_sweep(asked, console=Console(file=said), ending=Ending())
    return SweepFolder(Path("sweeps") / name)


def told(folder: SweepFolder, uri: str) -> dict[str, bool]:
    """Return who says that steps were shared as common random numbers."""
    parent = folder.read().parent_run_id
    client = MlflowClient(uri)
    experiment = client.get_run(parent).info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    tagged = {run.info.run_name for run in children if run.data.tags.get("sharing") == COMMON_RANDOM_NUMBERS}
    sharing = {run.info.run_name for run in children if run.data.metrics["steps_shared"] > 0}
    assert tagged in (set(), sharing)
    table = CliRunner().invoke(app, ["compare", str(folder.path)]).output
    rows = json.loads(CliRunner().invoke(app, ["compare", str(folder.path), "--json"]).output)["trials"]
    return {
        "report": COMMON_RANDOM_NUMBERS in make_report(report_material(folder)).page,
        "table": COMMON_RANDOM_NUMBERS in " ".join(table.split()),
        "rows": not any(row["deterministic"] for row in rows),
        "parent": client.get_run(parent).data.tags.get("sharing") == COMMON_RANDOM_NUMBERS,
        "children": tagged == sharing,
        "read back": not all(
            trial.deterministic for trial in find_collected(parent, tracking_uri=uri).trials if trial.steps_shared
        ),
    }


def test_shared_steps_are_said_to_be_common_random_numbers_wherever_they_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session_cache: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_in(monkeypatch)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert not any(told(sweep(uri, "exact"), uri).values())
    for user in ("tuner.sweep.trial_process", "tuner.stages.trial"):  # as on a GPU with `deterministic: false`
        monkeypatch.setattr(f"{user}.is_deterministic", lambda _: False)
    assert all(told(sweep(uri, "lenient"), uri).values())


def test_a_space_turns_determinism_off_for_the_process_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", found.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    gpu = torch.device("cuda")
    set_deterministic(gpu, on=FaceConfig.model_validate(LENIENT).deterministic)
    assert (found, torch.backends.cudnn.benchmark) == ([False], True)
    set_deterministic(gpu, on=FaceConfig().deterministic)
    assert (found, torch.backends.cudnn.benchmark) == ([False, True], False)


def test_a_run_without_the_setting_is_recorded_as_before_there_was_one() -> None:
    exact, lenient = RunConfig(), RunConfig.model_validate({"workload": LENIENT})
    assert "deterministic" not in json.dumps(exact.to_dict())
    assert RunConfig.model_validate(lenient.to_dict()) == lenient
    assert run_key(exact) != run_key(lenient)


def test_on_the_cpu_which_is_deterministic_either_way_steps_are_shared_with_exact_runs() -> None:
    digests: dict[str, Any] = {"seed": 0, "train": "a", "verification": "b", "device": torch.device("cpu")}
    assert fingerprint(FaceConfig.model_validate(LENIENT), **digests) == fingerprint(FaceConfig(), **digests)
