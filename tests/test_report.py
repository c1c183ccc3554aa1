"""The report's content: it is complete and harmless, says why something is missing, and is made from files alone."""

import base64
import json
import math
import re
from collections.abc import Mapping
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import plotly.graph_objects
import pytest
import yaml
from made_confirmation import PUBLISHED, confirmation, shifted
from mlflow import MlflowClient
from simulated_sweep import PARENT, SEVERAL, simulate_sweep, write_curve
from typer.testing import CliRunner

from tuner.analysis.confirmed_record import write_confirmation
from tuner.analysis.confirmed_text import lines, verdict
from tuner.analysis.curve_columns import read_columns
from tuner.analysis.importance import importances
from tuner.analysis.report_contour import smooth
from tuner.analysis.report_curves import ThinCurve, bucket_edges, thin_curves
from tuner.analysis.report_page import make_report
from tuner.analysis.report_sharing import branches
from tuner.cli.main import app
from tuner.config.run import RunConfig
from tuner.search.ledger import Ledger
from tuner.sweep.folder import SweepFolder
from tuner.sweep.report import report_material
from tuner.tracking.runs import start_sweep
from tuner.tracking.store import connect


def page_of(folder: SweepFolder) -> str:
    return make_report(report_material(folder)).page


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def missing(page: str) -> Mapping[str, str]:
    """Return why sections show nothing, by section."""
    sections = re.findall(r'<section id="(\w+)">(.*?)</section>', page, re.DOTALL)
    found = {name: re.search(r'<p class="missing">(.*?)</p>', body, re.DOTALL) for name, body in sections}
    return {name: unescape(each[1]) for name, each in found.items() if each}


def floats(text: str, *, rows: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(rows, -1)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    return simulate_sweep(tmp_path_factory.mktemp("report") / "made", trials=24, failing=[5])


@pytest.fixture(scope="module")
def page(sweep: SweepFolder) -> str:
    return page_of(sweep)


def test_it_opens_with_the_answer_and_the_best_setting_which_can_be_run(sweep: SweepFolder, page: str) -> None:
    best = Ledger.open(sweep.journal, read_only=True).best()
    assert best is not None
    headline = re.search(r"<h1>(.*?)</h1>", page, re.DOTALL)
    assert headline
    assert f"(trial {best.number}): accuracy {best.value:.4f}" in headline[1]
    assert f"<code>fastface-tuner confirm {sweep.path}</code>" in page
    setting = re.search(r'<pre id="run">(.*?)</pre>', page, re.DOTALL)
    assert setting
    config = RunConfig.model_validate(yaml.safe_load(unescape(setting[1])))
    assert config.scheduler.settings == best.settings
    assert config.total_steps == 600


def test_nothing_of_a_whole_sweep_is_missing(page: str) -> None:
    assert missing(page) == {}


def test_every_figure_is_one_that_plotly_takes(page: str) -> None:
    figures = data_of(page)["figures"]
    assert {
        "curves",
        "progress-trials",
        "progress-steps",
        "importance",
        "contour",
        "parallel",
        "decays",
        "sharing",
    } <= (figures.keys())
    hand_to_plotly(figures)


def hand_to_plotly(figures: Mapping[str, Any]) -> None:
    """Fail for a figure that plotly does not take."""
    text = json.dumps(figures)
    for role in set(re.findall(r'"@scale-\w+"', text)):
        text = text.replace(role, '"Blues"')
    for figure in json.loads(re.sub(r'"@[\w-]+"', '"#123456"', text)).values():
        traces = [{key: value for key, value in trace.items() if key != "trials"} for trace in figure["data"]]
        plotly.graph_objects.Figure(data=traces, layout=figure["layout"])


def test_importance_is_optunas_own(sweep: SweepFolder, page: str) -> None:
    study = Ledger.open(sweep.journal, read_only=True).study()
    theirs = optuna.importance.get_param_importances(study)
    ours = importances(study)
    assert {each.name: each.share for each in ours} == theirs
    assert [each.share for each in ours] == sorted(theirs.values(), reverse=True)
    assert all(0 <= each.low <= each.high <= 1 for each in ours)
    assert importances(study) == ours
    drawn = data_of(page)["figures"]["importance"]["data"][1]["x"]
    assert drawn == pytest.approx(sorted(theirs.values()), rel=1e-4)
    assert study.best_trial.number == data_of(page)["best"]


def test_each_bucket_keeps_its_extremes_and_its_mean(sweep: SweepFolder, page: str) -> None:
    block = data_of(page)["curves"]
    edges, row = block["edges"], block["trials"].index(0)
    losses = read_columns(sweep.trial(0) / "curve.csv", ["loss"])["loss"]
    parts = [losses[first:stop] for first, stop in pairwise(edges)]
    for name, how in (("low", np.min), ("mean", np.mean), ("high", np.max)):
        drawn = floats(block[name], rows=len(block["trials"]))[row]
        assert drawn == pytest.approx([how(part) for part in parts], rel=1e-5)


def test_the_drawn_lr_changes_are_those_of_the_curve(sweep: SweepFolder, page: str) -> None:
    block = data_of(page)["curves"]
    for number, lr in zip(block["trials"], block["lr"], strict=True):
        lrs = read_columns(sweep.trial(number) / "curve.csv", ["lr"])["lr"]
        at = [0, *(int(step) + 1 for step in np.flatnonzero(np.diff(lrs)))]
        assert [step for step, _ in lr["changes"]] == at
        assert [value for _, value in lr["changes"]] == pytest.approx(lrs[at], rel=1e-5)


def test_the_tree_accounts_for_every_step(sweep: SweepFolder) -> None:
    material = report_material(sweep)
    tree = branches(material)
    assert {branch.record.number for branch in tree} == {record.number for record in material.records}
    place = {branch.record.number: row for row, branch in enumerate(tree)}
    for branch in tree:
        if branch.record.state == "COMPLETE" and not branch.repeats:
            assert branch.stop == material.steps
        assert branch.parent is None or place[branch.parent] < place[branch.record.number]
        assert (branch.parent is None) == (branch.first == 0)


def test_names_and_reasons_are_text_and_nothing_else(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    folder = simulate_sweep(tmp_path / "evil", trials=4, failing=[2], reason=evil, name=f"a <b>{evil}")
    page = page_of(folder)
    assert "<script>alert" not in page
    assert "<img" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "&lt;img src=x" in page


def test_the_page_names_no_address_that_it_would_load(page: str) -> None:
    plain = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', plain)
    assert "default-src 'none'" in page
    assert "url(" not in plain


def test_several_schedulers_with_parameters_of_their_own(tmp_path: Path) -> None:
    page = page_of(simulate_sweep(tmp_path / "several", trials=18, space=SEVERAL))
    assert set(missing(page)) <= {"failures", "contour"}
    assert "against published" in page


def test_what_new_seeds_said_comes_before_what_the_search_thought(tmp_path: Path) -> None:
    folder = simulate_sweep(tmp_path / "made", trials=4)
    said = confirmation(PUBLISHED, shifted(0.02), (*PUBLISHED[:3], None), shifted(0.0), baselines=1)
    write_confirmation(folder.path, said)
    made = make_report(report_material(folder))
    assert made.opening.headline.startswith("Train with trial 1 (fastface, patience 1): accuracy 0.9350 (95 %: ")
    assert made.opening.doubt == verdict(said)
    page = unescape(made.page)
    opening, section = (
        page.split(f'<section id="{name}">')[1].split("</section>")[0] for name in ("answer", "confirmed")
    )
    assert "fastface-tuner confirm" not in opening
    assert "In the search: The best setting is" in opening
    config = RunConfig.model_validate(yaml.safe_load(opening.split('<pre id="run">')[1].split("</pre>")[0]))
    assert config.scheduler.settings == Ledger.open(folder.journal, read_only=True).trials()[1].settings
    for line in lines(said):
        assert line in section
    for cell in ("trial 1 *", "0.9133 (n=3)", "cosine"):
        assert f"<td>{cell}</td>" in section
    figures = data_of(made.page)["figures"]
    assert [len(trace["x"]) for trace in figures["confirmed"]["data"][1:]] == [15, 4, 3]
    hand_to_plotly(figures)
    missing_all = confirmation((None,) * 2, (None,) * 2)
    write_confirmation(folder.path, missing_all)
    assert "No setting trained to its end with a new seed." in page_of(folder)


def test_a_trial_alone(tmp_path: Path) -> None:
    page = page_of(simulate_sweep(tmp_path / "one", trials=1))
    assert "only setting that came to an end" in page
    assert "from two trials on" in missing(page)["importance"]
    assert data_of(page)["figures"].keys() >= {"curves", "progress-trials", "decays"}


def test_values_that_are_all_equal(tmp_path: Path) -> None:
    page = page_of(simulate_sweep(tmp_path / "equal", trials=12, value=lambda _: 0.5))
    assert "cannot tell them apart" in page
    assert "same value" in missing(page)["importance"]
    assert "contour" in missing(page)


def test_a_sweep_in_which_all_failed(tmp_path: Path) -> None:
    page = page_of(simulate_sweep(tmp_path / "failed", trials=3, failing=[0, 1, 2], reason="no room for the batch"))
    assert "No trial came to an end; the first failed because: no room for the batch." in page
    assert missing(page).keys() >= {"progress", "importance", "slices", "contour", "parallel"}
    assert 'id="run"' not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_a_sweep_at_its_first_trial_and_one_without_any(tmp_path: Path) -> None:
    assert "No trial has come to an end yet." in page_of(simulate_sweep(tmp_path / "first", trials=1, running=True))
    page = page_of(simulate_sweep(tmp_path / "none", trials=0))
    assert "No trial was run." in page
    assert missing(page).keys() >= {"curves", "decays", "sharing", "trials"}


def test_a_running_sweep_with_half_a_line_and_a_damaged_curve(tmp_path: Path) -> None:
    folder = simulate_sweep(tmp_path / "running", trials=5, running=True)
    with (folder.trial(4) / "curve.csv").open("a") as curve:
        curve.write("600,1.2")
    (folder.trial(1) / "curve.csv").write_text("step,loss,lr,detector_response\n0,what,0.1,\n")
    (folder.trial(2) / "curve.csv").unlink()
    page = page_of(folder)
    assert data_of(page)["curves"]["trials"].count(4) == 1
    assert {1, 2} & set(data_of(page)["curves"]["trials"]) == set()
    assert "its curve is damaged" in page


def test_losses_that_are_not_finite_are_gaps(tmp_path: Path) -> None:
    losses = np.array([3.0, math.nan, 2.0, math.inf, 1.0, 0.5])
    write_curve(tmp_path / "curve.csv", losses, np.full(6, 0.1))
    curves, unreadable = thin_curves({0: tmp_path / "curve.csv"}, edges=np.array([0, 2, 4, 6, 8]))
    curve: ThinCurve = curves[0]
    assert not unreadable
    assert curve.mean[:3].tolist() == [3.0, 2.0, 0.75]
    assert curve.low[2], curve.high[2] == (0.5, 1.0)
    assert np.isnan(curve.mean[3])
    assert np.isnan(curve.lr[3])


@pytest.mark.parametrize(("steps", "trials"), [(1, 1), (40, 3), (600, 12), (200_000, 200), (200_000, 5000)])
def test_buckets_cover_the_run_and_are_few(steps: int, trials: int) -> None:
    edges = bucket_edges(steps, trials=trials)
    assert edges[0] == 0
    assert edges[-1] == steps
    assert np.all(np.diff(edges) >= 1)
    assert (len(edges) - 1) * trials <= max(80_000, 150 * trials)


def test_the_surface_is_a_mean_of_near_trials_and_empty_far_away() -> None:
    at, values = np.array([[0.2, 0.2], [0.25, 0.2]]), np.array([1.0, 3.0])
    where = np.array([[0.225, 0.2], [0.9, 0.9]])
    near, far = smooth(at, values, where, width=0.05, reach=0.1)
    assert near == pytest.approx(2.0)
    assert np.isnan(far)


def test_the_command_writes_the_page_and_says_the_answer(sweep: SweepFolder, tmp_path: Path) -> None:
    out, before = tmp_path / "report.html", sweep.journal.read_bytes()
    result = CliRunner().invoke(app, ["report", str(sweep.path), "-o", str(out)])
    assert result.exit_code == 0
    assert "The best setting is fastface with" in result.stdout
    assert f"report: {out}" in result.stdout
    assert result.stderr.count("\n") == 1
    assert "not in MLflow" in result.stderr
    assert out.read_text().startswith("<!doctype html>")
    found = json.loads(CliRunner().invoke(app, ["report", str(sweep.path), "-o", str(out), "--json"]).stdout)
    assert found["report"] == str(out)
    assert found["belief"] == "clear"
    assert sweep.journal.read_bytes() == before


def test_the_page_becomes_an_artifact_of_the_sweeps_run(tmp_path: Path, mlflow_store: Any) -> None:
    uri = mlflow_store(tmp_path)
    parent = start_sweep(connect(uri), name="made", params={})
    folder = simulate_sweep(tmp_path / "made", trials=3, tracking_uri=uri, parent=parent)
    result = CliRunner().invoke(app, ["report", str(folder.path)])
    assert (result.exit_code, result.stderr) == (0, "")
    client = MlflowClient(uri)
    assert [entry.path for entry in client.list_artifacts(parent)] == ["report.html"]
    stored = Path(client.download_artifacts(parent, "report.html")).read_text()
    assert stored == (folder.path / "report.html").read_text()
    assert PARENT not in stored


def test_no_such_sweep_and_no_such_place_are_one_line(sweep: SweepFolder, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", "nothing"])
    assert "there is no sweep 'nothing'" in str(result.exception)
    result = CliRunner().invoke(app, ["report", str(sweep.path), "-o", str(tmp_path / "no" / "report.html")])
    assert "cannot be written" in str(result.exception)
