"""The compiled batch holds the same bits as the plain `advance`, and what a sampled space would do is counted right."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tuner.analysis.loss_csv import read_loss_csv
from tuner.analysis.loss_log import LossLog, make_log
from tuner.analysis.replay import replay, trace
from tuner.analysis.replay_batch import Replayer, replay_batch
from tuner.analysis.replay_samples import Outcome, by_scheduler, draw, outcomes, pin, summarise
from tuner.cli.main import app
from tuner.config.space_file import load_space, shipped_spaces, space_from_text
from tuner.names import Setting
from tuner.schedulers.registry import Schedule, defaults, names, resolve

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "loss_logs" / "webface4m_r100.csv"


def log_of(losses: list[float]) -> LossLog:
    return make_log("log", steps=range(1, len(losses) + 1), losses=losses, lr=None)


def check_equal(schedule: Schedule, log: LossLog, *, delay: int) -> None:
    reference = replay(schedule, log, base_lr=1.0, delay=delay)
    (found,) = replay_batch([schedule], log, delay=delay, threads=1)
    assert found.first == reference.first_lr
    assert (found.places + log.first_step).tolist() == [change.step for change in reference.changes]
    assert found.factors.tolist() == [change.after for change in reference.changes]


detector_settings = st.fixed_dictionaries(
    {
        "patience": st.integers(0, 12),
        "decision_every": st.integers(1, 9),
        "decay_factor": st.floats(1.01, 10),
        "max_decays": st.integers(0, 9),
        "rebound": st.sampled_from([0.0, 1.5, 4.0]),
        "rebound_after": st.integers(1, 5),
        "floor": st.sampled_from([0.0, 1e-3, 0.3]),
        "warmup": st.integers(0, 15),
    }
)
thresholds = st.one_of(
    st.fixed_dictionaries({"threshold": st.floats(-1, 1)}),
    st.fixed_dictionaries({"threshold_fraction": st.floats(0, 9)}),
)
own_settings = {
    "haar": st.fixed_dictionaries({"haar_window": st.integers(2, 30), "average_window": st.integers(1, 30)}),
    "fastface": st.fixed_dictionaries(
        {
            "ema_window": st.floats(1, 50),
            "haar_window": st.floats(2, 50),
            "start": st.sampled_from(["matched", "released"]),
        }
    ),
}
curves = st.lists(st.floats(-50, 50), min_size=1, max_size=150)


@pytest.mark.parametrize("name", ["haar", "fastface"])
@settings(max_examples=150, deadline=None)
@given(data=st.data(), losses=curves, delay=st.sampled_from([0, 1]))
def test_the_batch_has_the_bits_of_advance(name: str, data: st.DataObject, losses: list[float], delay: int) -> None:
    drawn: dict[str, Setting] = data.draw(detector_settings) | data.draw(thresholds) | data.draw(own_settings[name])
    schedule, log = resolve(name, drawn, total_steps=len(losses)), log_of(losses)
    check_equal(schedule, log, delay=delay)
    heard = Replayer(log, delay=delay).responses(schedule)
    assert heard.tobytes() == trace(schedule, log).response.tobytes()


@pytest.mark.parametrize("name", names())
def test_every_scheduler_can_be_batched(name: str) -> None:
    log = log_of([float(loss) for loss in np.random.default_rng(1).normal(5, 1, 200)])
    check_equal(resolve(name, {}, total_steps=200), log, delay=1)


def test_results_come_in_order_from_any_number_of_threads() -> None:
    log = log_of([1.0] * 300)
    schedules = [resolve("haar", {"haar_window": 2, "patience": patience}, total_steps=300) for patience in range(100)]
    found = list(replay_batch(schedules, log, delay=0, threads=3))
    assert [int(entry.places[0]) for entry in found] == [4 + patience for patience in range(100)]


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published log is not in ../shared")
def test_the_batch_has_the_bits_of_advance_on_the_published_log() -> None:
    log = read_loss_csv(PUBLISHED)
    published: dict[str, Setting] = {"haar_window": 2481, "threshold": 0.0615, "patience": 4962, "rebound": 4}
    check_equal(resolve("haar", published, total_steps=log.num_steps), log, delay=1)
    check_equal(resolve("fastface", {"threshold": 1e-4}, total_steps=log.num_steps), log, delay=1)


SPACE = """
question: Does drawing follow the file?
schedulers:
  - name: haar
    parameters:
      haar_window: {low: 4, high: 400, log: true}
      patience: {low: 10, high: 50, step: 20}
      decay_factor: {choices: [2, 10]}
      threshold_fraction: {low: 0.1, high: 0.5}
    fixed: {rebound: 0}
  - name: cosine
"""


def test_draws_stay_in_the_space_and_reach_its_ends() -> None:
    drawn = draw(space_from_text(SPACE, file="space"), num=4000)
    haar = [settings for name, settings in drawn if name == "haar"]
    assert 1800 < len(haar) < 2200
    assert {settings["patience"] for settings in haar} == {10, 30, 50}
    assert {settings["decay_factor"] for settings in haar} == {2, 10}
    windows = [settings["haar_window"] for settings in haar]
    assert all(isinstance(window, int) and 4 <= window <= 400 for window in windows)
    assert 0.4 < np.mean([float(window) < 40 for window in windows]) < 0.6  # even in the logarithm
    assert all(0.1 <= float(settings["threshold_fraction"]) <= 0.5 for settings in haar)
    assert all(settings["rebound"] == 0 for settings in haar)
    assert draw(space_from_text(SPACE, file="space"), num=5) == drawn[:5]


def test_a_pinned_setting_takes_the_place_of_its_other_form() -> None:
    assert pin("haar", {"patience": 5, "rebound": 0}, {"patience_fraction": 0.1}) == {
        "rebound": 0,
        "patience_fraction": 0.1,
    }
    space = space_from_text(SPACE, file="space")
    drawn = draw(space, num=20, scheduler="haar", pinned={"patience_fraction": 0.2})
    assert {(name, settings["patience_fraction"], "patience" in settings) for name, settings in drawn} == {
        ("haar", 0.2, False)
    }


@pytest.mark.parametrize("name", [name for name, _ in shipped_spaces()])
def test_every_shipped_space_can_be_tried(name: str) -> None:
    log = log_of([float(loss) for loss in np.geomspace(20, 2, 600)])
    found = outcomes(draw(load_space(name), num=8), log, total_steps=600, delay=1)
    assert summarise(found).configurations == 8


def test_outcomes_say_what_a_schedule_does() -> None:
    log = log_of([1.0] * 100)  # stationary from the first decision on, the 4th loss
    common: dict[str, Setting] = {"haar_window": 2, "rebound": 0, "threshold": 0.1}
    configurations = [
        ("haar", {**common, "patience": 5, "decay_factor": 10, "max_decays": 3}),
        ("haar", {**common, "patience": 5, "decay_factor": 10, "floor": 0.1}),
        ("haar", {**common, "patience": 60, "decay_factor": 10}),
        ("haar", {**common, "patience": 61, "decay_factor": 10, "max_decays": 0}),
        ("haar", {**common, "patience": 60, "decay_factor": 10}),
        ("constant", {}),
    ]
    fast, floored, slow, never, again, constant = outcomes(configurations, log, total_steps=100, delay=0)
    assert (fast.first_decay, fast.num_decays, fast.collapsed) == (0.09, 3, True)
    assert (floored.num_decays, floored.collapsed) == (1, True)
    assert (slow.first_decay, slow.num_decays, slow.collapsed) == (0.64, 1, False)
    assert (never.first_decay, never.num_decays, never.collapsed) == (None, 0, False)
    assert slow.schedule == again.schedule
    assert never.schedule == constant.schedule
    assert len({entry.schedule for entry in (fast, floored, slow, never)}) == 4

    summary = summarise([fast, floored, slow, never, again, constant])
    assert (summary.configurations, summary.distinct) == (6, 4)
    assert summary.never_decays == pytest.approx(2 / 6)
    assert summary.collapses == pytest.approx(2 / 6)
    assert summary.first_decay is not None
    assert 0.09 <= summary.first_decay[0] <= summary.first_decay[1] <= summary.first_decay[2] == 0.64
    assert list(by_scheduler([fast, constant, slow])) == ["haar", "constant"]


def test_no_decay_at_all_has_no_first_decay() -> None:
    nothing = Outcome(scheduler="constant", first_decay=None, num_decays=0, collapsed=False, schedule=b"")
    assert summarise([nothing]).as_data()["first_decay"] is None


def test_the_command_counts_what_a_space_does(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    losses = np.geomspace(20, 2, 600) + np.random.default_rng(0).normal(0, 0.1, 600)
    path.write_text("step,loss\n" + "".join(f"{step},{loss}\n" for step, loss in enumerate(losses)))

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["replay", str(path), *words])

    data = json.loads(run("--samples", "40", "--space", "fastface", "--json").stdout)
    assert (data["configurations"], data["total_steps"]) == (40, 600)
    assert 0 <= data["never_decays"] <= 1
    assert 1 <= data["distinct_schedules"] <= 40
    assert data["first_decay"]["p10"] <= data["first_decay"]["p50"] <= data["first_decay"]["p90"]
    text = run("--samples", "40", "--scheduler", "haar", "--set", "patience=3")
    assert text.exit_code == 0
    assert "published haar:" in text.stdout
    assert defaults("haar")  # the published line replays these
