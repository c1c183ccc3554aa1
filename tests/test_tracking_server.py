"""The same against a real `mlflow server`: over HTTP, with a password in the address, and while it hangs."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mirrored import read_mirrored_curve, trial_run, trial_runs
from mlflow import MlflowClient
from tracking_server import TrackingServer

from tuner.curves import CurvePoint, CurveWriter
from tuner.names import METRIC_LOSS, METRIC_LR
from tuner.tracking.environment import DataDescription
from tuner.tracking.mirror import CurveMirror
from tuner.tracking.outbox import Ending
from tuner.tracking.runs import finish, start_sweep
from tuner.tracking.store import connect

SECRET = "5ecret"  # noqa: S105


@pytest.fixture
def server(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> Iterator[TrackingServer]:
    server = TrackingServer(tmp_path / "server", mlflow_store(tmp_path / "server"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


def wait_for_problem(mirror: CurveMirror) -> str:
    deadline = time.monotonic() + 20
    while (problem := mirror.problem) is None:
        assert time.monotonic() < deadline, "the mirror does not notice that the server hangs"
        time.sleep(0.01)
    return problem


def test_a_server_gets_the_whole_sweep_also_when_it_hangs_meanwhile(
    server: TrackingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = connect(f"http://me:{SECRET}@{server.host}")
    data = DataDescription("rendered", "0" * 64, "synthetic", {"images": 4800})
    sweep = start_sweep(tracker, name="sweep", params={}, texts={"config.yaml": "seed: 0\n"}, data=data)
    points = [CurvePoint(step, 46 / (1 + step) ** 0.3, 0.1) for step in range(2000)]

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mirror = CurveMirror(tracker, parent=sweep, poll_seconds=0.01, first_retry_seconds=0.01)
    mirror.follow("a", trial=trial_run(sweep, decay_factor=2), folder=tmp_path)
    with CurveWriter(tmp_path / "curve.csv") as writer:
        for point in points:
            if point.step == 500:
                server.hang()
            writer.write(point)
            if point.step % 100 == 99:
                writer.flush()
                time.sleep(0.01)
    problem = wait_for_problem(mirror)
    assert tracker.shown in problem
    assert SECRET not in problem
    server.wake()  # it now works off the requests that were given up, and those sent again
    texts = {"traceback.txt": "why"}
    mirror.finish("a", Ending(status="FAILED", time_ms=1, metrics={"final_loss": 0.1 + 0.2}, texts=texts))
    assert not mirror.close(timeout=30)
    assert mirror.problem is None
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    finish(tracker, sweep, "FINISHED")

    client = MlflowClient(server.uri)
    (run,) = trial_runs(client, sweep)
    trial = run.info.run_id
    for key, values in ((METRIC_LOSS, [p.loss for p in points]), (METRIC_LR, [p.lr for p in points])):
        history = client.get_metric_history(trial, key)
        assert [(metric.step, metric.value) for metric in history] == list(enumerate(values))
    assert read_mirrored_curve(client, trial) == points
    assert run.info.status == "FAILED"
    assert run.data.metrics["final_loss"] == 0.1 + 0.2
    assert run.data.tags["mlflow.parentRunId"] == sweep
    assert run.data.params == {"decay_factor": "2"}
    assert Path(client.download_artifacts(sweep, "config.yaml")).read_text() == "seed: 0\n"
    assert Path(client.download_artifacts(trial, "traceback.txt")).read_text() == "why"
    assert client.get_run(sweep).info.status == "FINISHED"
    assert SECRET not in str(run.to_dictionary())
    printed = capfd.readouterr()
    assert SECRET not in printed.out + printed.err
    assert "View run" not in printed.out
