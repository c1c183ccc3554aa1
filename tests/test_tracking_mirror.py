"""Whatever the store does, MLflow ends up with the whole curve, bit for bit, and every run with its true status."""

import json
import math
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mirrored import histories, read_mirrored_curve, trial_run, trial_runs, wait_until
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tuner.curves import CurvePoint, CurveWriter, read_curve
from tuner.errors import UserError
from tuner.evaluations import EvaluationWriter
from tuner.names import METRIC_LOSS, METRIC_LR, METRIC_RESPONSE, TAG_KIND
from tuner.tracking.environment import DataDescription, describe_environment
from tuner.tracking.mirror import CurveMirror
from tuner.tracking.outbox import Ending, Outbox, Row
from tuner.tracking.runs import Status, TrialRun, finish, start_sweep, trial_name
from tuner.tracking.spool import Spool
from tuner.tracking.store import Tracker, connect

KEYS = (METRIC_LOSS, METRIC_LR, METRIC_RESPONSE)
DATA = DataDescription("orl_faces", "ab" * 32, "/data/orl_faces", {"identities": 40, "images": 400})


def write_evaluations(folder: Path, evaluations: Sequence[Mapping[str, float]]) -> None:
    with EvaluationWriter(folder / "evaluations.jsonl") as writer:
        for entry in evaluations:
            writer.write(int(entry["steps"]), {key: value for key, value in entry.items() if key != "steps"})


@pytest.fixture
def tracker(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> Tracker:
    return connect(mlflow_store(tmp_path / "store"))


@pytest.fixture
def sweep(tracker: Tracker) -> str:
    return start_sweep(tracker, name="sweep", params={})


def ending(status: Status, **details: Any) -> Ending:
    return Ending(status=status, time_ms=time.time_ns() // 1_000_000, **details)


def curve(start: int, stop: int) -> list[CurvePoint]:
    """Return points with losses that no short decimal stands for, and a response from step 5 on."""
    return [
        CurvePoint(step, math.exp(-step / 77) + 1e-17 * step, 0.1 / (1 + step // 40), None if step < 5 else 1e-3 / step)
        for step in range(start, stop)
    ]


def write(folder: Path, points: list[CurvePoint]) -> None:
    with CurveWriter(folder / "curve.csv") as writer:
        for point in points:
            writer.write(point)


def stored(uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Return the histories of the curve's metrics as a client of its own sees them."""
    return histories(MlflowClient(uri), run_id, *KEYS)


def only(tracker: Tracker, sweep: str) -> str:
    """Return the id of the sweep's only trial's run."""
    (run,) = trial_runs(MlflowClient(tracker.uri), sweep)
    return str(run.info.run_id)


def expected(points: list[CurvePoint]) -> dict[str, list[tuple[int, float]]]:
    return {
        METRIC_LOSS: [(point.step, point.loss) for point in points],
        METRIC_LR: [(point.step, point.lr) for point in points],
        METRIC_RESPONSE: [(point.step, point.response) for point in points if point.response is not None],
    }


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
    mirror = CurveMirror(tracker, parent=sweep)
    statuses: list[Status] = ["FINISHED", "FAILED", "KILLED"]
    begun_ms = time.time_ns() // 1_000_000 - 60_000
    for number, status in enumerate(statuses):
        trial = TrialRun(
            parent=sweep, number=number, name=trial_name(number, "fastface", settings_),
            params={**settings_, "sched.name": "ff"}, start_ms=begun_ms,
        )  # fmt: skip
        write(tmp_path / f"{number}", curve(0, 60))
        evaluations = [{"steps": 30, "accuracy": 0.5 + number / 7}]
        write_evaluations(tmp_path / f"{number}", evaluations)
        mirror.follow(f"label {number}", trial=trial, folder=tmp_path / f"{number}", texts={"config.yaml": config})
        mirror.finish(
            f"label {number}",
            ending(
                status, metrics={"final_loss": 0.25}, tags={"reason": "x"}, texts={"traceback.txt": "why"},
                shared_with={"label 0": 7, "elsewhere/3": 2} if number else {},
            ),
        )  # fmt: skip
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
    runs = trial_runs(client, sweep)
    assert len(runs) == 3
    for number, (run, status) in enumerate(zip(runs, statuses, strict=True)):
        run_id = run.info.run_id
        assert run.info.run_name == f"trial {number} · fastface · haar window 0.02 · patience 0.05 · decay factor 2"
        assert run.info.status == status
        assert run.info.start_time == begun_ms
        assert run.info.end_time >= run.info.start_time
        assert run.data.tags[TAG_KIND] == "trial"
        assert run.data.tags["reason"] == "x"
        assert run.data.tags["mlflow.source.name"] == "fastface-tuner"
        if number:
            assert run.data.tags["shared_with"] == f"{runs[0].info.run_id} (7 steps), elsewhere/3 (2 steps)"
        assert run.data.params["haar_window_fraction"] == "0.02"
        assert run.data.metrics["final_loss"] == 0.25
        assert stored(tracker.uri, run_id) == expected(curve(0, 60))
        assert histories(client, run_id, "accuracy") == {"accuracy": [(29, 0.5 + number / 7)]}
        assert {item.path for item in client.list_artifacts(run_id)} == {"config.yaml", "traceback.txt"}
        assert run.inputs is not None
        (used,) = run.inputs.dataset_inputs
        assert used.dataset.name == "orl_faces"
        assert DATA.digest.startswith(used.dataset.digest)
        assert json.loads(str(used.dataset.profile)) == {"identities": 40, "images": 400}
        assert json.loads(used.dataset.source) == {"uri": "/data/orl_faces"}
        times = [metric.timestamp for metric in client.get_metric_history(run_id, METRIC_LOSS)]
        assert times == sorted(times)
        assert times[0] >= begun_ms
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
    with pytest.raises(UserError, match=r"record the sweep: connection to http://\*\*\*@host lost$"):
        start_sweep(tracker, name="sweep", params={})


def test_curve_is_mirrored_while_it_is_written(tracker: Tracker, sweep: str, tmp_path: Path) -> None:
    mirror = CurveMirror(tracker, parent=sweep, poll_seconds=0.01)
    mirror.follow("a", trial=trial_run(sweep), folder=tmp_path)  # before the file is there
    wait_until(lambda: trial_runs(tracker.client, sweep))
    trial = only(tracker, sweep)
    points = curve(0, 400)
    with CurveWriter(tmp_path / "curve.csv") as writer:
        for part in (points[:7], points[7:100]):
            for point in part:
                writer.write(point)
            writer.flush()
            sofar = read_curve(tmp_path / "curve.csv")
            wait_until(lambda: stored(tracker.uri, trial) == expected(sofar))  # noqa: B023  called at once
        for point in points[100:-1]:
            writer.write(point)
    write(tmp_path / "whole", points)
    last_line = (tmp_path / "whole" / "curve.csv").read_bytes().splitlines()[-1]
    with (tmp_path / "curve.csv").open("ab") as file:
        file.write(last_line[:-9])  # the writer was killed within its last line
    mirror.finish("a", ending("KILLED"))
    assert not mirror.close(timeout=20)
    assert stored(tracker.uri, trial) == expected(points[:-1])
    assert read_mirrored_curve(tracker.client, trial) == points[:-1]


@pytest.mark.parametrize(("before", "after"), [(3, 0), (0, 1), (2, 2)])
def test_failed_batches_are_sent_again_without_gaps_or_repeats(
    before: int, after: int, tracker: Tracker, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = FlakyCalls(tracker.client, "log_batch", monkeypatch)
    flaky.before, flaky.after = before, after
    mirror = CurveMirror(tracker, parent=sweep, poll_seconds=0.01, first_retry_seconds=0.001)
    write(tmp_path, curve(0, 650))  # three batches
    write_evaluations(tmp_path, [{"steps": 650, "accuracy": 0.75}])
    mirror.follow("a", trial=trial_run(sweep), folder=tmp_path)
    mirror.finish("a", ending("FINISHED", metrics={"accuracy": 0.75, "final_loss": 0.5}, tags={"note": "kept"}))
    assert not mirror.close(timeout=20)
    assert mirror.problem is None
    trial = only(tracker, sweep)
    assert stored(tracker.uri, trial) == expected(curve(0, 650))
    client = MlflowClient(tracker.uri)
    assert histories(client, trial, "accuracy", "final_loss") == {"accuracy": [(649, 0.75)], "final_loss": [(649, 0.5)]}
    assert client.get_run(trial).data.tags["note"] == "kept"
    assert client.get_run(trial).info.status == "FINISHED"


@pytest.mark.parametrize("call", ["create_run", "log_inputs", "set_terminated", "log_text", "search_runs"])
def test_whatever_fails_is_tried_again_and_no_run_is_made_twice(
    call: str, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = start_sweep(tracker, name="sweep", params={}, data=DATA)
    flaky = FlakyCalls(tracker.client, call, monkeypatch)
    flaky.before, flaky.after = 1, 2
    mirror = CurveMirror(tracker, parent=sweep, poll_seconds=0.01, first_retry_seconds=0.001)
    mirror.follow("a", trial=trial_run(sweep, decay_factor=2))
    mirror.finish("a", ending("FAILED", texts={"traceback.txt": "why"}))
    assert not mirror.close(timeout=20)
    assert flaky.calls >= 2
    run = MlflowClient(tracker.uri).get_run(only(tracker, sweep))
    assert run.info.status == "FAILED"
    assert run.data.params == {"decay_factor": "2"}
    assert len(run.inputs.dataset_inputs) == 1
    assert Path(tracker.client.download_artifacts(run.info.run_id, "traceback.txt")).read_text() == "why"


def test_a_run_that_the_server_made_unheard_is_not_left_behind(
    tracker: Tracker, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hung makes the run of a request that was given up, after it has made the one asked for again."""
    create = tracker.client.create_run
    monkeypatch.setattr(
        tracker.client, "create_run", lambda *args, **named: (create(*args, **named), create(*args, **named))[0]
    )
    mirror = CurveMirror(tracker, parent=sweep, poll_seconds=0.01)
    write(tmp_path, curve(0, 30))
    mirror.follow("a", trial=trial_run(sweep), folder=tmp_path)
    mirror.finish("a", ending("FINISHED"))
    assert not mirror.close(timeout=20)
    assert stored(tracker.uri, only(tracker, sweep)) == expected(curve(0, 30))


def test_store_that_stays_away_is_told_once_and_what_is_unsent_is_sent_later(
    tracker: Tracker, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = FlakyCalls(tracker.client, "log_batch", monkeypatch)
    flaky.before = 1_000_000
    mirror = CurveMirror(tracker, parent=sweep, poll_seconds=0.01, first_retry_seconds=0.01)
    write(tmp_path, curve(0, 50))
    mirror.follow("a", trial=trial_run(sweep), folder=tmp_path)
    wait_until(lambda: mirror.problem and flaky.calls > 3)
    write(tmp_path, curve(0, 80))  # training goes on
    mirror.finish("a", ending("FINISHED"))
    start = time.monotonic()
    unsent = mirror.close(timeout=0.3)
    assert time.monotonic() - start < 2
    assert (unsent.runs, unsent.steps) == (1, 80)
    (text,) = [news.text for news in mirror.news() if news.text]
    assert text == unsent.problem
    assert "connection to http://***@host lost" in text
    assert "\n" not in text

    flaky.before = 0
    later = CurveMirror(tracker, parent=sweep)  # a later process, which does not know the run's id
    later.follow("a", trial=trial_run(sweep), folder=tmp_path, ending=ending("FINISHED"))
    assert not later.close(timeout=20)
    assert stored(tracker.uri, only(tracker, sweep)) == expected(curve(0, 80))


def test_the_return_of_the_store_is_told(
    tracker: Tracker, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = FlakyCalls(tracker.client, "log_batch", monkeypatch)
    mirror = CurveMirror(tracker, parent=sweep, poll_seconds=0.01, first_retry_seconds=0.01)
    texts: list[str] = []
    for stop in (10, 20):
        flaky.before = 5
        write(tmp_path, curve(0, stop))
        if stop == 10:
            mirror.follow("a", trial=trial_run(sweep), folder=tmp_path)
        wait_until(lambda: (texts.extend(news.text for news in mirror.news() if news.text), flaky.before == 0)[1])
        wait_until(lambda: mirror.problem is None)
    mirror.finish("a", ending("FINISHED"))
    assert not mirror.close(timeout=20)
    texts += [news.text for news in mirror.news() if news.text]
    assert ["answers again" in text for text in texts] == [False, True, False, True]


def test_resumed_run_gets_only_what_it_lacks(tracker: Tracker, sweep: str, tmp_path: Path) -> None:
    for stop, status in ((0, "KILLED"), (500, "KILLED"), (510, "KILLED"), (600, "FINISHED")):
        write(tmp_path, curve(0, stop))  # the resumed trial writes its curve anew, and is evaluated again
        evaluations = [{"steps": 500, "accuracy": 0.5}] if stop >= 500 else []
        write_evaluations(tmp_path, evaluations)
        mirror = CurveMirror(tracker, parent=sweep, poll_seconds=0.01)
        mirror.follow("a", trial=trial_run(sweep), folder=tmp_path, spool=tmp_path)
        wait_until(lambda: [run.info.status for run in trial_runs(tracker.client, sweep)] == ["RUNNING"])
        mirror.finish("a", ending("KILLED" if status == "KILLED" else "FINISHED"))
        assert not mirror.close(timeout=20)
        assert MlflowClient(tracker.uri).get_run(only(tracker, sweep)).info.status == status
    trial = only(tracker, sweep)
    assert stored(tracker.uri, trial) == expected(curve(0, 600))
    assert histories(tracker.client, trial, "accuracy") == {"accuracy": [(499, 0.5)]}
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["curve.csv", "evaluations.jsonl"]


@pytest.mark.parametrize("taken", ["before", "after"])
def test_a_batch_that_was_under_way_when_the_process_died_is_not_there_twice(
    taken: str, tracker: Tracker, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server hangs, the process dies, and the server takes the batch before or after the next process asks."""
    write(tmp_path, curve(0, 200))
    hung: list[Any] = []

    def hang(*arguments: Any, **named: Any) -> None:
        if "metrics" not in named:
            log_batch(*arguments, **named)
            return
        hung.append((arguments, named))
        raise MlflowException("timed out")

    log_batch = tracker.client.log_batch
    with monkeypatch.context() as patch:
        patch.setattr(tracker.client, "log_batch", hang)
        dying = CurveMirror(tracker, parent=sweep)
        dying.follow("a", trial=trial_run(sweep), folder=tmp_path, spool=tmp_path)
        assert dying.close(timeout=0.3)

    def wake() -> None:
        arguments, named = hung[0]
        log_batch(*arguments, **named)

    time.sleep(0.05)  # the next process would give the points other times
    if taken == "before":
        wake()
    write(tmp_path, curve(0, 300))
    later = CurveMirror(tracker, parent=sweep)
    later.follow("a", trial=trial_run(sweep), folder=tmp_path, spool=tmp_path, ending=ending("FINISHED"))
    assert not later.close(timeout=20)
    if taken == "after":
        wake()
    assert stored(tracker.uri, only(tracker, sweep)) == expected(curve(0, 300))


def test_curve_that_is_started_again_while_followed_is_not_repeated(
    tracker: Tracker, sweep: str, tmp_path: Path
) -> None:
    mirror = CurveMirror(tracker, parent=sweep, poll_seconds=0.01)
    mirror.follow("a", trial=trial_run(sweep), folder=tmp_path)
    for stop in (300, 20, 350):
        write(tmp_path, curve(0, stop))
        time.sleep(0.1)
    mirror.finish("a", ending("FINISHED"))
    assert not mirror.close(timeout=20)
    assert stored(tracker.uri, only(tracker, sweep)) == expected(curve(0, 350))


def test_deleted_run_and_damaged_files_do_not_hold_up_the_others(
    tracker: Tracker, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/curve.csv").write_bytes(b"step,loss,lr,detector_response\n0,1.0,0.1,\n1,abc,0.1,\n")
    (tmp_path / "damaged/evaluations.jsonl").write_text('{"steps": "many"}\n')
    write(tmp_path / "good", curve(0, 50))
    mirror = CurveMirror(tracker, parent=sweep, poll_seconds=0.01)
    for number, key in enumerate(("deleted", "damaged", "good")):
        folder = tmp_path / ("damaged" if key == "damaged" else "good")
        mirror.follow(key, trial=trial_run(sweep, number), folder=folder)
    wait_until(lambda: len(trial_runs(tracker.client, sweep)) == 3)
    ids = [run.info.run_id for run in trial_runs(tracker.client, sweep)]
    tracker.client.delete_run(ids[0])
    for key in ("deleted", "damaged", "good"):
        mirror.finish(key, ending("FINISHED", metrics={"final_loss": 0.5}))
    unsent = mirror.close(timeout=20)
    assert unsent.runs == 1
    assert unsent.problem is not None
    (damage,) = [news.done.damage for news in mirror.news() if news.done and news.done.damage]
    assert str(tmp_path / "damaged") in damage
    assert stored(tracker.uri, ids[2]) == expected(curve(0, 50))
    assert MlflowClient(tracker.uri).get_run(ids[1]).info.status == "FINISHED"

    later = CurveMirror(tracker, parent=sweep, run_ids={"deleted": ids[0]})
    later.follow("deleted", trial=trial_run(sweep), folder=tmp_path / "good", ending=ending("FINISHED"))
    assert not later.close(timeout=20)
    assert [(news.key, news.gone) for news in later.news()] == [("deleted", True)]
    assert [run.info.run_id for run in trial_runs(tracker.client, sweep)] == ids[1:]


def test_a_run_that_the_store_cannot_take_does_not_hold_up_the_others(
    tracker: Tracker, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_text = tracker.client.log_text

    def refuse(run_id: str, text: str, file_name: str) -> None:
        if text == "ill":
            raise PermissionError("no writing there")
        log_text(run_id, text, file_name)

    monkeypatch.setattr(tracker.client, "log_text", refuse)
    mirror = CurveMirror(tracker, parent=sweep, poll_seconds=0.01, first_retry_seconds=0.001)
    write(tmp_path, curve(0, 50))
    mirror.follow("the sweep", run_id=sweep)
    for number, text in enumerate(("well", "ill", "well", "ill", "well")):
        mirror.follow(f"{number}", trial=trial_run(sweep, number), folder=tmp_path, texts={"config.yaml": text})
        mirror.finish(f"{number}", ending("FINISHED"))
    wait_until(lambda: [run.info.status for run in trial_runs(tracker.client, sweep)].count("FINISHED") == 3)
    mirror.finish("the sweep", ending("FINISHED"))
    unsent = mirror.close(timeout=2)
    assert (unsent.runs, unsent.steps) == (2, 0)
    assert unsent.problem is not None
    assert "no writing there" in unsent.problem
    statuses = [run.info.status for run in trial_runs(tracker.client, sweep)]
    assert statuses == ["FINISHED", "RUNNING", "FINISHED", "RUNNING", "FINISHED"]
    assert tracker.client.get_run(sweep).info.status == "FINISHED"


def test_a_run_that_is_sent_before_one_it_shares_with_names_it_by_its_id_all_the_same(
    tracker: Tracker, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store refuses to make the first run until it has made the second, which is tried for once instead."""
    create_run, made = tracker.client.create_run, []

    def refuse(*arguments: Any, run_name: str, **named: Any) -> Any:
        if run_name == "trial 0" and not made:
            raise MlflowException("not now")
        made.append(run_name)
        return create_run(*arguments, run_name=run_name, **named)

    monkeypatch.setattr(tracker.client, "create_run", refuse)
    mirror = CurveMirror(tracker, parent=sweep, poll_seconds=0.01, first_retry_seconds=0.01)
    write(tmp_path, curve(0, 50))
    mirror.follow("0", trial=trial_run(sweep, 0), folder=tmp_path)
    mirror.follow("1", trial=trial_run(sweep, 1), folder=tmp_path)
    mirror.finish("1", ending("FINISHED", shared_with={"0": 20}))
    mirror.finish("0", ending("FINISHED"))
    assert not mirror.close(timeout=20)
    assert made == ["trial 1", "trial 0"]
    first, second = trial_runs(tracker.client, sweep)
    assert second.data.tags["shared_with"] == f"{first.info.run_id} (20 steps)"


def test_a_run_with_nothing_to_send_does_not_pass_for_an_answer(
    tracker: Tracker, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = FlakyCalls(tracker.client, "log_batch", monkeypatch)
    mirror = CurveMirror(tracker, parent=sweep, poll_seconds=0.01, first_retry_seconds=0.0001)
    mirror.follow("the sweep", run_id=sweep)
    mirror.follow("a", trial=trial_run(sweep), folder=tmp_path)
    wait_until(lambda: trial_runs(tracker.client, sweep))
    flaky.before = 20
    write(tmp_path, curve(0, 50))
    wait_until(lambda: flaky.before < 10)
    assert [news.text for news in mirror.news() if news.text] == [mirror.problem]
    flaky.before = 0
    mirror.close(timeout=20)


def test_locked_sqlite_is_waited_for(tracker: Tracker, sweep: str, tmp_path: Path) -> None:
    mirror = CurveMirror(tracker, parent=sweep, poll_seconds=0.01)
    write(tmp_path, curve(0, 50))
    with sqlite3.connect(tmp_path / "store/mlflow.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        mirror.follow("a", trial=trial_run(sweep), folder=tmp_path)
        mirror.finish("a", ending("FINISHED"))
        assert time.monotonic() - start < 0.2
        time.sleep(0.3)
        other.rollback()
    other.close()
    assert not mirror.close(timeout=20)
    assert stored(tracker.uri, only(tracker, sweep)) == expected(curve(0, 50))


def test_values_that_are_not_finite_and_odd_metric_names_are_recorded(
    tracker: Tracker, sweep: str, tmp_path: Path
) -> None:
    write(tmp_path, [CurvePoint(0, 1.0, 0.1), CurvePoint(1, math.nan, 0.1), CurvePoint(2, math.inf, 0.1)])
    mirror = CurveMirror(tracker, parent=sweep)
    mirror.follow("a", trial=trial_run(sweep), folder=tmp_path, spool=tmp_path)
    mirror.finish("a", ending("FAILED", metrics={"tar@far=1e-2": 0.5}))
    assert not mirror.close(timeout=20)
    trial = only(tracker, sweep)
    losses = [value for _, value in stored(tracker.uri, trial)[METRIC_LOSS]]
    assert losses[0] == 1.0
    assert math.isnan(losses[1])
    assert losses[2] > 1e308
    assert MlflowClient(tracker.uri).get_run(trial).data.metrics["tar_far_1e-2"] == 0.5


def test_driver_never_waits_for_the_store(
    tracker: Tracker, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: Any, **named: Any) -> None:
        time.sleep(1)

    monkeypatch.setattr(tracker.client, "log_batch", slow)
    mirror = CurveMirror(tracker, parent=sweep, poll_seconds=0.01)
    write(tmp_path, curve(0, 5000))
    mirror.follow("a", trial=trial_run(sweep), folder=tmp_path)
    time.sleep(0.05)
    start = time.monotonic()
    mirror.log_metrics("a", Row(1, {"accuracy": 0.5}, 0))
    mirror.finish("a", ending("FINISHED"))
    assert time.monotonic() - start < 0.2
    unsent = mirror.close(timeout=0.1)
    assert unsent.runs == 1
    assert 0 < unsent.steps <= 5000


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_outbox_gives_every_step_once_in_order_however_it_is_asked(data: st.DataObject, tmp_path_factory: Any) -> None:
    """Reads, failures (the same batch again), processes that die, endings and growing files in any order."""
    folder = tmp_path_factory.mktemp("outbox")
    points = curve(0, data.draw(st.integers(0, 900)))
    known = data.draw(st.integers(-1, 60))
    sent: dict[tuple[str, int, int], float] = {(METRIC_LOSS, known, 2000): 0.0} if known >= 0 else {}

    def opened() -> Outbox:
        box = Outbox(folder, spool=Spool(folder), start_ms=1000)
        latest: dict[str, tuple[int, int]] = {}
        for key, step, time_ms in sent:
            latest[key] = max((step, time_ms), latest.get(key, (-1, 0)))
        box.skip("run", latest)
        return box

    def drain(box: Outbox) -> Outbox:
        while (batch := box.next_batch("run")) is not None:
            assert 0 < len(batch.metrics) <= 1000
            if data.draw(st.booleans()):
                assert box.next_batch("run") is batch
                continue
            late = data.draw(st.booleans()) and data.draw(st.booleans())
            if late:  # a process that dies; the next one asks the store before or after it takes the batch
                earlier = data.draw(st.booleans())
                sent.update({(m.key, m.step, m.timestamp): m.value for m in batch.metrics} if earlier else {})
                box = opened()
                box.ending = finishing
            sent.update({(metric.key, metric.step, metric.timestamp): metric.value for metric in batch.metrics})
            if not late:
                box.acknowledge()
        return box

    finishing: Ending | None = None
    box = opened()
    for stop in sorted(data.draw(st.lists(st.integers(0, len(points)), max_size=4))):
        write(folder, points[:stop])
        box = drain(box)
    write(folder, points)
    box.ending = finishing = Ending(status="FINISHED", time_ms=9000, metrics={"final_loss": 0.25, "accuracy": 0.5})
    box = drain(box)
    assert box.complete
    assert box.unsent_steps() == 0
    for key, values in expected([point for point in points if point.step > known]).items():
        found = sorted((step, value) for (name, step, _), value in sent.items() if name == key and step > known)
        assert found == values
    assert [value for (name, _, _), value in sent.items() if name == "final_loss"] == [0.25]
