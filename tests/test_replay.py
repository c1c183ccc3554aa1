"""Replay of one schedule: the published run, what a change's step means, and what the command shows."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tuner.analysis.loss_csv import read_loss_csv
from tuner.analysis.loss_log import LossLog, LRChange, LRColumn, lr_column, make_log
from tuner.analysis.replay import Replay, compare, replay, trace
from tuner.analysis.replay_plot import thin
from tuner.cli.main import app
from tuner.errors import UserError
from tuner.schedulers.registry import names, resolve

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "loss_logs" / "webface4m_r100.csv"
needs_published = pytest.mark.skipif(not PUBLISHED.exists(), reason="the published log is not in ../shared")
HAAR = "--scheduler haar --set haar_window=2481 --set threshold=0.0615 --set patience=4962 --set decay_factor=2"


def run(*words: str) -> Any:  # click's Result, which typer brings under a name of its own
    return CliRunner().invoke(app, ["replay", *words])


def log_of(losses: Sequence[float], *, first_step: int = 1, lr: LRColumn | None = None) -> LossLog:
    return make_log("log", steps=range(first_step, first_step + len(losses)), losses=losses, lr=lr)


def curve(num_steps: int) -> list[float]:
    noise = np.random.default_rng(0).normal(0, 0.1, num_steps)
    return [float(loss) for loss in 8 * np.exp(-np.arange(num_steps) / (num_steps / 6)) + 2 + noise]


def write_csv(path: Path, losses: Sequence[float], lrs: Sequence[float] | None = None) -> Path:
    lines = ["step,loss" if lrs is None else "step,loss,lr"]
    lines += [f"{step},{loss!r}" + ("" if lrs is None else f",{lrs[step]!r}") for step, loss in enumerate(losses)]
    path.write_text("\n".join(lines) + "\n")
    return path


@needs_published
def test_the_published_run_is_reproduced() -> None:
    result = run(str(PUBLISHED), *HAAR.split(), "--set", "rebound=4", "--base-lr", "0.02", "--json")
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert data["total_steps"] == 165_430
    recorded = read_loss_csv(PUBLISHED).recorded_changes()
    assert len(data["changes"]) == len(recorded) == 18
    for replayed, published in zip(data["changes"], recorded, strict=True):
        assert abs(replayed["step"] - published.step) <= 100
        assert round(replayed["from"], 6) == published.before
        assert round(replayed["to"], 6) == published.after
    assert data["agreement"]["matched"] == 18
    assert data["agreement"]["max_offset"] <= 100


@needs_published
def test_without_its_rebound_the_published_run_is_not_reproduced() -> None:
    result = run(str(PUBLISHED), *HAAR.split(), "--set", "rebound=0", "--json")
    agreement = json.loads(result.stdout)["agreement"]
    assert agreement["matched"] < agreement["recorded"] == 18


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("first_step", [0, 1])
def test_a_change_is_at_the_first_step_with_the_new_lr(name: str, delay: int, first_step: int) -> None:
    losses = curve(300)
    schedule = resolve(name, {"patience": 7} if name in ("haar", "fastface") else {}, total_steps=300)
    # What the training loop does, step by step: the loss of step t decides the LR of step t + 1 + delay.
    state, factor = schedule.start()
    factors = [factor] * (1 + (delay if schedule.reads_loss else 0))
    for loss in losses:
        state, factor = schedule.advance(state, loss)
        factors.append(factor)
    lrs = [0.3 * factor for factor in factors[:300]]
    expected = [LRChange(first_step + i, lrs[i - 1], lrs[i]) for i in range(1, 300) if lrs[i] != lrs[i - 1]]
    found = replay(schedule, log_of(losses, first_step=first_step), base_lr=0.3, delay=delay)
    assert found == Replay(first_lr=lrs[0], changes=tuple(expected))


def test_the_trace_has_a_response_from_the_first_decision_on() -> None:
    losses = curve(200)
    schedule = resolve("haar", {"haar_window": 20, "threshold": 0.05}, total_steps=200)
    heard = trace(schedule, log_of(losses))
    assert np.isnan(heard.response[:39]).all()
    assert np.isfinite(heard.response[39:]).all()
    assert (heard.threshold == 0.05).all()
    assert np.isnan(trace(resolve("cosine", {}, total_steps=200), log_of(losses)).response).all()


def test_changes_are_paired_in_order_by_equal_lrs() -> None:
    steps = (5, 9, 12)
    lrs = [0.1] * 4 + [0.05] * 4 + [0.025] * 3 + [0.0125] * 4
    log = log_of([1.0] * 15, lr=lr_column(map(repr, lrs)))
    perfect = tuple(LRChange(step + 2, 0.1 / 2**i, 0.1 / 2 ** (i + 1)) for i, step in enumerate(steps))
    agreement = compare(log, Replay(first_lr=0.1, changes=perfect))
    assert agreement is not None
    assert agreement.complete
    assert (agreement.offsets, agreement.mean_offset, agreement.max_offset) == ([2, 2, 2], 2.0, 2)

    extra = (*perfect[:1], LRChange(8, 0.05, 0.07), LRChange(8, 0.07, 0.05), *perfect[1:])
    agreement = compare(log, Replay(first_lr=0.1, changes=extra))
    assert agreement is not None
    assert not agreement.complete
    assert (len(agreement.offsets), agreement.num_recorded, agreement.num_replayed) == (3, 3, 5)

    none = compare(log, Replay(first_lr=0.1, changes=()))
    assert none is not None
    assert (none.num_recorded, none.num_replayed, none.mean_offset) == (3, 0, None)
    assert compare(log_of([1.0]), Replay(first_lr=0.1, changes=())) is None


def test_a_schedule_that_changes_all_the_time_is_compared_step_by_step(tmp_path: Path) -> None:
    schedule = resolve("cosine", {}, total_steps=3000)
    state, factor = schedule.start()
    lrs = []
    for _ in range(3000):
        lrs.append(0.1 * factor)
        state, factor = schedule.advance(state, 0.0)
    path = write_csv(tmp_path / "c.csv", [1.0] * 3000, lrs)
    agreement = json.loads(run(str(path), "--scheduler", "cosine", "--json").stdout)["agreement"]
    assert agreement["matched"] == agreement["recorded"] == agreement["replayed"] == 2999
    assert agreement["max_offset"] == 0


@settings(deadline=None)
@given(values=st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), max_size=300), bins=st.integers(1, 50))
def test_thinning_keeps_every_extreme(values: list[float], bins: int) -> None:
    steps = np.arange(len(values), dtype=np.float64)
    array = np.array(values, dtype=np.float64)
    thinned = thin(steps, array, bins=bins)
    finite = array[np.isfinite(array)]
    assert len(thinned.steps) <= bins
    assert (np.diff(thinned.steps) > 0).all()
    if len(finite):
        assert thinned.low.min() == finite.min()
        assert thinned.high.max() == finite.max()
        assert (thinned.low <= thinned.high).all()


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_plot_is_a_picture_of_the_named_kind(tmp_path: Path, suffix: str) -> None:
    path = write_csv(tmp_path / "c.csv", curve(400), [0.1] * 200 + [0.05] * 200)
    picture = tmp_path / f"replay.{suffix}"
    result = run(str(path), "--scheduler", "haar", "--plot", str(picture))
    assert result.exit_code == 0
    assert str(picture) in result.stdout
    head = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert picture.read_bytes().startswith(head[suffix])


@pytest.mark.parametrize("scheduler", ["plateau", "constant"])
def test_the_plot_copes_with_no_detector_and_no_change(tmp_path: Path, scheduler: str) -> None:
    path = write_csv(tmp_path / "c.csv", [2.0, 1.0])
    result = run(str(path), "--scheduler", scheduler, "--base-lr", "0.1", "--plot", str(tmp_path / "p.png"))
    assert result.exit_code == 0
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_the_table_shows_recorded_changes_beside_replayed_ones(tmp_path: Path) -> None:
    losses = [1.0] * 40
    path = write_csv(tmp_path / "c.csv", losses, [0.1] * 12 + [0.05] * 28)
    words = "--scheduler haar --set haar_window=2 --set threshold=0.1 --set patience=5 --set max_decays=1"
    result = run(str(path), *words.split())
    assert result.exit_code == 0
    assert "1 of 1 recorded LR change replayed in order, with equal LRs; steps off by 2.0" in result.stdout
    assert ["10", "0.1", "0.05", "12", "0.05", "-2"] in [line.split() for line in result.stdout.splitlines()]
    late = json.loads(run(str(path), *words.split(), "--loss-delay", "0", "--json").stdout)
    assert late["changes"] == [{"step": 9, "from": 0.1, "to": 0.05}]


def test_fractions_refer_to_the_run_that_steps_names(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "c.csv", [1.0] * 100)
    words = "--scheduler haar --set haar_window=2 --set patience_fraction=0.05 --base-lr 1 --json"
    short, long = (json.loads(run(str(path), *words.split(), *more).stdout) for more in ([], ["--steps", "400"]))
    gap = [data["changes"][1]["step"] - data["changes"][0]["step"] for data in (short, long)]
    assert gap == [6, 21]
    assert (short["total_steps"], long["total_steps"]) == (100, 400)


def test_a_space_gives_its_fixed_settings_and_its_base_lr(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        yaml.safe_dump(
            {
                "question": "?",
                "base_lr": 0.25,
                "schedulers": [{"name": "haar", "fixed": {"haar_window": 4, "patience": 3, "decay_factor": 5}}],
            }
        )
    )
    path = write_csv(tmp_path / "c.csv", [1.0] * 30)
    data = json.loads(run(str(path), "--space", str(space), "--set", "patience_fraction=0.2", "--json").stdout)
    assert data["settings"] == {"haar_window": 4, "decay_factor": 5, "patience_fraction": 0.2}
    assert data["changes"][0]["from"] == 0.25
    assert data["changes"][0]["to"] == 0.05


def test_a_run_of_mlflow_is_found_by_its_id(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    uri = mlflow_store(tmp_path / "store")
    client = MlflowClient(uri)
    run_id = client.create_run("0").info.run_id
    points: list[Any] = [Metric("loss", loss, 0, step) for step, loss in enumerate(curve(50))]
    client.log_batch(run_id, points + [Metric("lr", 0.1, 0, step) for step in range(50)])
    result = run(f"runs:/{run_id}", "--tracking-uri", uri, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["total_steps"] == 50
    missing = run(f"runs:/{run_id}", "--tracking-uri", f"sqlite:///{tmp_path}/absent.db")
    assert isinstance(missing.exception, UserError)
    assert not (tmp_path / "absent.db").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("", "give --base-lr"),
        ("--base-lr 0", "`--base-lr > 0`"),
        ("--base-lr 1 --scheduler harr", "did you mean `haar`"),
        ("--base-lr 1 --set patience", "`--set name=value`"),
        ("--base-lr 1 --set patience=1 --set patience=2", "given once"),
        ("--base-lr 1 --set patience=-1", "`patience >= 0`"),
        ("--base-lr 1 --set patience=5 --set patience_fraction=0.1", "two forms"),
        ("--base-lr 1 --steps 3", "`--steps >= 40`"),
        ("--base-lr 1 --plot picture.xyz", "must end in one of"),
        ("--base-lr 1 --plot absent/picture.png", "cannot be written"),
        ("--samples 3 --fit", "drop one"),
        ("--samples 3 --space haar --scheduler fastface", "not a scheduler of this space"),
        ("--scheduler haar --fit", "no column `lr`"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(tmp_path: Path, words: str, problem: str) -> None:
    result = run(str(write_csv(tmp_path / "c.csv", curve(40))), *words.split())
    assert isinstance(result.exception, UserError)
    assert problem in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_bad_csv_ends_the_program_with_status_2_and_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("step,loss\n1,2\n2,nan\n")
    command = [sys.executable, "-m", "tuner.cli.main", "replay", str(path), "--base-lr", "0.02"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "bad.csv, line 3: `loss` must be finite" in result.stderr


def test_a_log_that_begins_late_says_so(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("step,loss\n1000,2\n1001,2\n1002,2\n")
    result = run(str(path), "--base-lr", "0.02")
    assert result.exit_code == 0
    assert "begins at step 1000" in result.stderr


def test_help_has_an_example() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "Example: fastface-tuner replay run.csv" in result.stdout
    assert all(name in result.stdout for name in names())
