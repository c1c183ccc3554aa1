"""Whatever the store does, MLflow ends up with the whole curve, bit for bit, and every run with its true status."""

import json
import math
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mirrored import read_mirrored_curve
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tuner.curves import CurvePoint, CurveWriter, read_curve
from tuner.errors import UserError
from tuner.names import METRIC_LOSS, METRIC_LR, METRIC_RESPONSE, TAG_KIND, TAG_TRIAL
from tuner.tracking.environment import describe_environment
from tuner.tracking.mirror import CurveMirror
from tuner.tracking.outbox import Ending, Outbox
from tuner.tracking.runs import DataDescription, Status, finish, start_sweep, start_trial, trial_name
from tuner.tracking.store import Tracker, connect

KEYS = (METRIC_LOSS, METRIC_LR, METRIC_RESPONSE)
DATA = DataDescription("orl_faces", "ab" * 32, "/data/orl_faces", {"identities": 40, "images": 400})


@pytest.fixture
def tracker(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> Tracker:
    return connect(mlflow_store(tmp_path / "store"))


@pytest.fixture
def trial(tracker: Tracker) -> str:
    sweep = start_sweep(tracker, name="sweep", params={})
    return start_trial(tracker, parent=sweep, number=0, name="trial 0", params={})


def curve(start: int, stop: int) -> list[CurvePoint]:
    """Return points with losses that no short decimal stands for, and a response from step 5 on."""
    return [
        CurvePoint(step, math.exp(-step / 77) + 1e-17 * step, 0.1 / (1 + step // 40), None if step < 5 else 1e-3 / step)
        for step in range(start, stop)
    ]


def write(path: Path, points: list[CurvePoint]) -> None:
    with CurveWriter(path) as writer:
        for point in points:
            writer.write(point)


def stored(uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Return the histories of the curve's metrics as a client of its own sees them."""
    client = MlflowClient(uri)
    return {key: [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)] for key in KEYS}


def expected(points: list[CurvePoint]) -> dict[str, list[tuple[int, float]]]:
    return {
        METRIC_LOSS: [(point.step, point.loss) for point in points],
        METRIC_LR: [(point.step, point.lr) for point in points],
        METRIC_RESPONSE: [(point.step, point.response) for point in points if point.response is not None],
    }


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class FlakyCalls:
    """Makes calls of a client fail: before they reach the store, or after it has done what they ask."""

    def __init__(self, client: MlflowClient, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before = 0
        self.after = 0
        self.calls = 0
        self.error = MlflowException("connection to http://me:5ecret@host lost\nat line 2")
        self._call = getattr(client, name)
        monkeypatch.setattr(client, name, self)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        if self.before > 0:
            self.before -= 1
            raise self.error
        result = self._call(*arguments, **named)
        if self.after > 0:
            self.after -= 1
            raise self.error
        return result


def test_sweep_and_trials_as_another_client_sees_them(tracker: Tracker, tmp_path: Path) -> None:
    config, environment = "seed: 0\n", json.dumps(describe_environment(["GPU A"]))
    sweep = start_sweep(
        tracker, name="first sweep", params={"trials": 2, "space": "fastface.yaml"}, tags={"question": "which window?"},
        texts={"config.yaml": config, "environment.json": environment}, data=DATA,
    )  # fmt: skip
    settings_ = {"haar_window_fraction": 0.02, "patience_fraction": 0.05, "decay_factor": 2}
    mirror = CurveMirror(tracker)
    statuses: list[Status] = ["FINISHED", "FAILED", "KILLED"]
    trials = []
    for number, status in enumerate(statuses):
        name = trial_name(number, "fastface", settings_)
        run_id = start_trial(
            tracker, parent=sweep, number=number, name=name, params={**settings_, "sched.name": "ff"}, data=DATA
        )
        write(tmp_path / f"{number}.csv", curve(0, 60))
        mirror.follow(run_id, tmp_path / f"{number}.csv", texts={"config.yaml": config})
        mirror.log_metrics(run_id, step=29, metrics={"accuracy": 0.5 + number / 7})
        mirror.finish(
            run_id, status, metrics={"final_loss": 0.25}, tags={"reason": "x"}, texts={"traceback.txt": "why"}
        )
        trials.append(run_id)
    assert not mirror.close(timeout=20)
    finish(tracker, sweep, "FINISHED", metrics={"best_value": 0.75}, tags={"best_trial": "1"})

    client = MlflowClient(tracker.uri)
    parent = client.get_run(sweep)
    assert parent.info.run_name == "first sweep"
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"trials": "2", "space": "fastface.yaml"}
    assert parent.data.metrics == {"best_value": 0.75}
    assert parent.data.tags["question"] == "which window?"
    assert parent.data.tags[TAG_KIND] == "sweep"
    assert Path(client.download_artifacts(sweep, "config.yaml")).read_text() == config
    recorded = json.loads(Path(client.download_artifacts(sweep, "environment.json")).read_text())
    assert {"python", "packages", "processor", "cores", "accelerators"} <= recorded.keys()
    assert "mlflow" in recorded["packages"]
    children = client.search_runs([tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{sweep}'")
    assert {run.info.run_id for run in children} == set(trials)
    for number, (run_id, status) in enumerate(zip(trials, statuses, strict=True)):
        run = client.get_run(run_id)
        assert run.info.run_name == f"trial {number} · fastface · haar window 0.02 · patience 0.05 · decay factor 2"
        assert run.info.status == status
        assert run.info.end_time >= run.info.start_time
        assert run.data.tags[TAG_TRIAL] == str(number)
        assert run.data.tags["reason"] == "x"
        assert run.data.tags["mlflow.source.name"] == "fastface-tuner"
        assert run.data.params["haar_window_fraction"] == "0.02"
        assert run.data.metrics["final_loss"] == 0.25
        assert stored(tracker.uri, run_id) == expected(curve(0, 60))
        assert [(m.step, m.value) for m in client.get_metric_history(run_id, "accuracy")] == [(29, 0.5 + number / 7)]
        assert {item.path for item in client.list_artifacts(run_id)} == {"config.yaml", "traceback.txt"}
        assert run.inputs is not None
        (used,) = run.inputs.dataset_inputs
        assert used.dataset.name == "orl_faces"
        assert DATA.digest.startswith(used.dataset.digest)
        assert json.loads(str(used.dataset.profile)) == {"identities": 40, "images": 400}
        assert json.loads(used.dataset.source) == {"uri": "/data/orl_faces"}
        times = [metric.timestamp for metric in client.get_metric_history(run_id, METRIC_LOSS)]
        assert times == sorted(times)
        assert times[-1] <= run.info.end_time


def test_long_values_and_odd_names_are_recorded(tracker: Tracker) -> None:
    data = DataDescription("d" * 900, "x" * 64, "synthetic", {})
    params = {"a.b/c d-e": 0.1, "what?*": True, "none": None, "long": "x" * 7000, **{f"p{i}": i for i in range(150)}}
    sweep = start_sweep(tracker, name="n" * 400, params=params, tags={"t?": "y" * 9000}, data=data)
    run = MlflowClient(tracker.uri).get_run(sweep)
    assert run.data.params["a.b/c d-e"] == "0.1"
    assert run.data.params["what__"] == "true"
    assert run.data.params["long"].startswith("x" * 5000)
    assert len(run.data.params) == 154
    assert run.data.tags["t_"].startswith("y" * 5000)


def test_a_store_that_breaks_says_what_it_could_not_do(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    FlakyCalls(tracker.client, "create_run", monkeypatch).before = 1
    with pytest.raises(UserError, match=r"record trial 3: connection to http://\*\*\*@host lost$"):
        start_trial(tracker, parent="p", number=3, name="trial 3", params={})


def test_curve_is_mirrored_while_it_is_written(tracker: Tracker, trial: str, tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    mirror = CurveMirror(tracker, poll_seconds=0.01)
    mirror.follow(trial, path)  # before the file is there
    points = curve(0, 400)
    with CurveWriter(path) as writer:
        for part in (points[:7], points[7:100]):
            for point in part:
                writer.write(point)
            writer.flush()
            sofar = read_curve(path)
            wait_until(lambda: stored(tracker.uri, trial) == expected(sofar))  # noqa: B023  called at once
        for point in points[100:]:
            writer.write(point)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])  # the writer was killed within its last line
    mirror.finish(trial, "KILLED")
    assert not mirror.close(timeout=20)
    assert stored(tracker.uri, trial) == expected(points[:-1])
    assert read_mirrored_curve(tracker.client, trial) == points[:-1]


@pytest.mark.parametrize(("before", "after"), [(3, 0), (0, 1), (2, 2)])
def test_failed_batches_are_sent_again_without_gaps_or_repeats(
    before: int, after: int, tracker: Tracker, trial: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = FlakyCalls(tracker.client, "log_batch", monkeypatch)
    flaky.before, flaky.after = before, after
    mirror = CurveMirror(tracker, poll_seconds=0.01, first_retry_seconds=0.001)
    write(tmp_path / "curve.csv", curve(0, 650))  # three batches
    mirror.follow(trial, tmp_path / "curve.csv")
    mirror.log_metrics(trial, step=649, metrics={"accuracy": 0.75})
    mirror.finish(trial, "FINISHED", metrics={"accuracy": 0.75, "final_loss": 0.5}, tags={"note": "kept"})
    assert not mirror.close(timeout=20)
    assert mirror.problem is None
    assert flaky.calls == before + after + 3
    assert stored(tracker.uri, trial) == expected(curve(0, 650))
    client = MlflowClient(tracker.uri)
    assert [(m.step, m.value) for m in client.get_metric_history(trial, "accuracy")] == [(649, 0.75)]
    assert [(m.step, m.value) for m in client.get_metric_history(trial, "final_loss")] == [(649, 0.5)]
    assert client.get_run(trial).data.tags["note"] == "kept"
    assert client.get_run(trial).info.status == "FINISHED"


@pytest.mark.parametrize("call", ["set_terminated", "log_text"])
def test_failed_ending_is_tried_again(
    call: str, tracker: Tracker, trial: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = FlakyCalls(tracker.client, call, monkeypatch)
    flaky.before, flaky.after = 1, 1
    mirror = CurveMirror(tracker, poll_seconds=0.01, first_retry_seconds=0.001)
    mirror.finish(trial, "FAILED", texts={"traceback.txt": "why"})
    assert not mirror.close(timeout=20)
    assert flaky.calls == 3
    assert MlflowClient(tracker.uri).get_run(trial).info.status == "FAILED"


def test_store_that_stays_away_is_shown_and_what_is_unsent_is_told(
    tracker: Tracker, trial: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = FlakyCalls(tracker.client, "log_batch", monkeypatch)
    flaky.before = 1_000_000
    mirror = CurveMirror(tracker, poll_seconds=0.01, first_retry_seconds=0.01)
    write(tmp_path / "curve.csv", curve(0, 50))
    mirror.follow(trial, tmp_path / "curve.csv")
    wait_until(lambda: mirror.problem)
    write(tmp_path / "curve.csv", curve(0, 80))  # training goes on
    mirror.finish(trial, "FINISHED")
    start = time.monotonic()
    unsent = mirror.close(timeout=0.3)
    assert time.monotonic() - start < 2
    assert unsent
    assert unsent.run_ids == (trial,)
    assert unsent.points == 80
    assert unsent.problem is not None
    assert "connection to http://***@host lost" in unsent.problem
    assert "\n" not in unsent.problem

    flaky.before = 0
    later = CurveMirror(tracker)  # a later process
    later.follow(trial, tmp_path / "curve.csv", resumed=True)
    later.finish(trial, "FINISHED")
    assert not later.close(timeout=20)
    assert stored(tracker.uri, trial) == expected(curve(0, 80))


def test_resumed_run_gets_only_what_it_lacks(tracker: Tracker, trial: str, tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    for stop, status in ((0, "KILLED"), (500, "KILLED"), (510, "KILLED"), (600, "FINISHED")):
        write(path, curve(0, stop))  # the resumed trial writes its curve anew
        mirror = CurveMirror(tracker, poll_seconds=0.01)
        mirror.follow(trial, path, resumed=True)
        if stop >= 500:
            mirror.log_metrics(trial, step=499, metrics={"accuracy": 0.5})  # and is evaluated again
        wait_until(lambda: MlflowClient(tracker.uri).get_run(trial).info.status == "RUNNING")
        mirror.finish(trial, "KILLED" if status == "KILLED" else "FINISHED")
        assert not mirror.close(timeout=20)
        assert MlflowClient(tracker.uri).get_run(trial).info.status == status
    assert stored(tracker.uri, trial) == expected(curve(0, 600))
    assert [m.step for m in MlflowClient(tracker.uri).get_metric_history(trial, "accuracy")] == [499]


def test_curve_that_is_started_again_while_followed_is_not_repeated(
    tracker: Tracker, trial: str, tmp_path: Path
) -> None:
    mirror = CurveMirror(tracker, poll_seconds=0.01)
    mirror.follow(trial, tmp_path / "curve.csv")
    for stop in (300, 20, 350):
        write(tmp_path / "curve.csv", curve(0, stop))
        time.sleep(0.1)
    mirror.finish(trial, "FINISHED")
    assert not mirror.close(timeout=20)
    assert stored(tracker.uri, trial) == expected(curve(0, 350))


def test_deleted_run_and_damaged_curve_do_not_hold_up_the_others(tracker: Tracker, trial: str, tmp_path: Path) -> None:
    sweep = start_sweep(tracker, name="sweep", params={})
    deleted = start_trial(tracker, parent=sweep, number=1, name="trial 1", params={})
    damaged = start_trial(tracker, parent=sweep, number=2, name="trial 2", params={})
    tracker.client.delete_run(deleted)
    (tmp_path / "damaged.csv").write_bytes(b"step,loss,lr,detector_response\n0,1.0,0.1,\n1,abc,0.1,\n")
    write(tmp_path / "good.csv", curve(0, 50))
    mirror = CurveMirror(tracker)
    mirror.follow(deleted, tmp_path / "good.csv")
    mirror.follow(damaged, tmp_path / "damaged.csv")
    mirror.follow(trial, tmp_path / "good.csv")
    for run_id in (deleted, damaged, trial):
        mirror.finish(run_id, "FINISHED")
    unsent = mirror.close(timeout=20)
    assert set(unsent.run_ids) == {deleted, damaged}
    assert unsent.problem is not None
    assert stored(tracker.uri, trial) == expected(curve(0, 50))
    assert MlflowClient(tracker.uri).get_run(damaged).info.status == "FINISHED"


def test_locked_sqlite_is_waited_for(tracker: Tracker, trial: str, tmp_path: Path) -> None:
    mirror = CurveMirror(tracker, poll_seconds=0.01)
    write(tmp_path / "curve.csv", curve(0, 50))
    with sqlite3.connect(tmp_path / "store/mlflow.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        mirror.follow(trial, tmp_path / "curve.csv")
        mirror.finish(trial, "FINISHED")
        assert time.monotonic() - start < 0.2
        time.sleep(0.3)
        other.rollback()
    other.close()
    assert not mirror.close(timeout=20)
    assert stored(tracker.uri, trial) == expected(curve(0, 50))


def test_values_that_are_not_finite_and_odd_metric_names_are_recorded(
    tracker: Tracker, trial: str, tmp_path: Path
) -> None:
    write(tmp_path / "curve.csv", [CurvePoint(0, 1.0, 0.1), CurvePoint(1, math.nan, 0.1), CurvePoint(2, math.inf, 0.1)])
    mirror = CurveMirror(tracker)
    mirror.follow(trial, tmp_path / "curve.csv")
    mirror.finish(trial, "FAILED", metrics={"tar@far=1e-2": 0.5})
    assert not mirror.close(timeout=20)
    losses = [value for _, value in stored(tracker.uri, trial)[METRIC_LOSS]]
    assert losses[0] == 1.0
    assert math.isnan(losses[1])
    assert losses[2] > 1e308
    assert MlflowClient(tracker.uri).get_run(trial).data.metrics["tar_far_1e-2"] == 0.5


def test_driver_never_waits_for_the_store(
    tracker: Tracker, trial: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: Any, **named: Any) -> None:
        time.sleep(1)

    monkeypatch.setattr(tracker.client, "log_batch", slow)
    mirror = CurveMirror(tracker, poll_seconds=0.01)
    write(tmp_path / "curve.csv", curve(0, 5000))
    mirror.follow(trial, tmp_path / "curve.csv")
    time.sleep(0.05)
    start = time.monotonic()
    mirror.log_metrics(trial, step=1, metrics={"accuracy": 0.5})
    mirror.finish(trial, "FINISHED")
    assert time.monotonic() - start < 0.2
    unsent = mirror.close(timeout=0.1)
    assert unsent.run_ids == (trial,)
    assert 0 < unsent.points <= 5000


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_outbox_gives_every_step_once_in_order_however_it_is_asked(data: st.DataObject, tmp_path_factory: Any) -> None:
    """Reads, failures (the same batch again), endings and growing files in any order."""
    path = tmp_path_factory.mktemp("outbox") / "curve.csv"
    points = curve(0, data.draw(st.integers(0, 900)))
    known = data.draw(st.integers(-1, 60))
    box = Outbox(path, start_ms=1000)
    box.skip({METRIC_LOSS: (known, 2000)} if known >= 0 else {})
    sent: list[tuple[str, int, float]] = []
    box.put(3, {"accuracy": 0.5}, time_ms=1500)

    def drain() -> None:
        while (batch := box.next_batch()) is not None:
            assert 0 < len(batch.metrics) + len(batch.tags) <= 1000
            if data.draw(st.booleans()):
                assert box.next_batch() is batch
                continue
            sent.extend((metric.key, metric.step, metric.value) for metric in batch.metrics)
            box.acknowledge()

    for stop in sorted(data.draw(st.lists(st.integers(0, len(points)), max_size=4))):
        write(path, points[:stop])
        drain()
    write(path, points)
    box.ending = Ending("FINISHED", {"final_loss": 0.25, "accuracy": 0.5}, {}, 9000)
    drain()
    assert box.complete
    assert box.unsent_points() == 0
    for key, values in expected([point for point in points if point.step > known]).items():
        assert [(step, value) for name, step, value in sent if name == key] == values
    assert [value for name, _, value in sent if name == "final_loss"] == [0.25]
