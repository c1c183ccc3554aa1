"""The same against a real `mlflow server`: over HTTP, with a password in the address, and while it hangs."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mirrored import read_mirrored_curve
from mlflow import MlflowClient

from tuner.curves import CurvePoint, CurveWriter
from tuner.names import METRIC_LOSS, METRIC_LR
from tuner.tracking.mirror import CurveMirror
from tuner.tracking.runs import DataDescription, finish, start_sweep, start_trial
from tuner.tracking.store import connect

START_SECONDS = 60
SECRET = "5ecret"  # noqa: S105


@pytest.fixture
def server(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> Iterator[tuple[str, int]]:
    """Start a tracking server on loopback; yield its host and port, and its process group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = mlflow_store(tmp_path / "server")
    command = ["server", "--backend-store-uri", store, "--artifacts-destination", str(tmp_path / "server/artifacts")]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for_health(f"http://127.0.0.1:{port}/health")
        yield f"127.0.0.1:{port}", process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_health(address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(address, timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.1)
        else:
            return


def wait_for_problem(mirror: CurveMirror) -> str:
    deadline = time.monotonic() + 20
    while (problem := mirror.problem) is None:
        assert time.monotonic() < deadline, "the mirror does not notice that the server hangs"
        time.sleep(0.01)
    return problem


def test_a_server_gets_the_whole_sweep_also_when_it_hangs_meanwhile(
    server: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    host, group = server
    tracker = connect(f"http://me:{SECRET}@{host}")
    data = DataDescription("rendered", "0" * 64, "synthetic", {"images": 4800})
    sweep = start_sweep(tracker, name="sweep", params={}, texts={"config.yaml": "seed: 0\n"}, data=data)
    trial = start_trial(tracker, parent=sweep, number=0, name="trial 0", params={"decay_factor": 2})
    points = [CurvePoint(step, 46 / (1 + step) ** 0.3, 0.1) for step in range(2000)]

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mirror = CurveMirror(tracker, poll_seconds=0.01, first_retry_seconds=0.01)
    mirror.follow(trial, tmp_path / "curve.csv")
    with CurveWriter(tmp_path / "curve.csv") as writer:
        for point in points:
            if point.step == 500:
                os.killpg(group, signal.SIGSTOP)
            writer.write(point)
            if point.step % 100 == 99:
                writer.flush()
                time.sleep(0.01)
    problem = wait_for_problem(mirror)
    assert tracker.shown in problem
    assert SECRET not in problem
    os.killpg(group, signal.SIGCONT)  # it now works off the requests that were given up, and those sent again
    mirror.finish(trial, "FAILED", metrics={"final_loss": 0.1 + 0.2}, texts={"traceback.txt": "why"})
    assert not mirror.close(timeout=30)
    assert mirror.problem is None
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    finish(tracker, sweep, "FINISHED")

    client = MlflowClient(f"http://{host}")
    for key, values in ((METRIC_LOSS, [p.loss for p in points]), (METRIC_LR, [p.lr for p in points])):
        history = client.get_metric_history(trial, key)
        assert [(metric.step, metric.value) for metric in history] == list(enumerate(values))
    assert read_mirrored_curve(client, trial) == points
    run = client.get_run(trial)
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
