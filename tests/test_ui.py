"""`fastface-tuner ui`: a real server on a finished sweep, ended with all that it started."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from fake_sweep import FakeSweep
from made_sweep import make_sweep
from mlflow import MlflowClient
from typer.testing import CliRunner

from tuner.cli.main import app
from tuner.errors import UserError
from tuner.search import dashboard
from tuner.sweep.servers import Servers, free_port
from tuner.tracking.ui import server_address, server_command

SECRET = "s3cret"  # noqa: S105 - of the test


def fetched(address: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return answer.status, answer.read()


def group_of(pid: int) -> list[str]:
    """Return the command lines of the processes that `pid` started, directly or not."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in table.splitlines()]
    known = {str(pid)}
    while more := {row[0] for row in rows if row[1] in known} - known:
        known |= more
    return [f"{row[0]} {row[2]}" for row in rows if row[0] in known - {str(pid)}]


def test_the_ui_shows_the_sweep_and_leaves_no_process_behind(
    tmp_path: Path, mlflow_store: Callable[[Path], str]
) -> None:
    sweep = FakeSweep(tmp_path / "sweeps" / "first", mlflow_store(tmp_path))
    sweep.run()
    sweep.view.close("FINISHED", timeout=20)
    command = [sys.executable, "-m", "tuner.cli.main", "ui", "first", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = list(iter(process.stdout.readline, "Ctrl-C ends it\n"))
        page, charts = (line.partition(": ")[2].strip() for line in said[:2])
        base, _, place = page.partition("/#/")
        assert fetched(base)[0] == 200
        experiment = MlflowClient(sweep.tracker.uri).get_run(sweep.parent).info.experiment_id
        assert place.partition("?")[0] == f"experiments/{experiment}/runs/{sweep.parent}"
        assert f"tags.`mlflow.parentRunId` = '{sweep.parent}'" in unquote(charts)
        body = json.dumps({"experiment_ids": [experiment], "max_results": 50}).encode()
        request = urllib.request.Request(
            f"{base}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
        )
        runs = json.loads(urllib.request.urlopen(request, timeout=10).read())["runs"]
        tags: dict[str, dict[str, Any]] = {
            run["info"]["run_id"]: {tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in runs
        }
        assert sum(each.get("mlflow.parentRunId") == sweep.parent for each in tags.values()) == len(runs) - 1
        assert re.search(r"setting .*: accuracy 0\.", tags[sweep.parent]["mlflow.note.content"])
        if dashboard.is_installed():
            address = next(line for line in said if "dashboard" in line).partition(": ")[2].strip()
            found = json.loads(fetched(f"{address.removesuffix('dashboard/')}api/studies")[1])
            assert found["study_summaries"][0]["study_name"] == "sweep"
        children = group_of(process.pid)
        assert children
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    for child in children:
        assert not Path("/proc", child.split()[0]).exists(), child


def test_a_server_that_is_there_is_only_pointed_to(
    tmp_path: Path, mlflow_store: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store says http, and no server is started."""
    from tuner.tracking import store

    parent = MlflowClient(mlflow_store(tmp_path)).create_run("0").info.run_id
    make_sweep(Path("sweeps/first"), [0.5], uri="http://***@host:5000", parent=parent)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setattr(store, "reconnect", lambda *_, **__: store.Tracker(uri))
    monkeypatch.setattr(dashboard, "is_installed", lambda: False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@host:5000")
    result = CliRunner().invoke(app, ["ui", "first"])
    assert result.exit_code == 0, result.output
    assert f"http://host:5000/#/experiments/0/runs/{parent}" in result.output
    assert SECRET not in result.output


def test_no_password_stands_in_a_command_line() -> None:
    uri = f"postgresql://me:{SECRET}@host/db"
    command, environment = server_command(uri, host="127.0.0.1", port=5000)
    assert SECRET not in " ".join(command)
    assert uri in environment.values()
    assert server_address(uri) is None
    assert server_address(f"https://me:{SECRET}@host:5000/") == "https://host:5000"


def test_a_taken_port_is_told_and_the_usual_one_is_given_up_for_another() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be used"):
            free_port("127.0.0.1", port, usual=5000)
        assert free_port("127.0.0.1", None, usual=port) != port
    with pytest.raises(UserError, match="must be an address of this machine"):
        free_port("192.0.2.1", None, usual=5000)


def test_a_server_that_ends_is_told_without_its_password_and_its_children_end_too(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid}; echo cannot open postgresql://me:{SECRET}@host/db >&2; exit 3"
    with pytest.raises(UserError) as caught, Servers() as servers:
        servers.start("the server", ["sh", "-c", script], environment={}, address="http://127.0.0.1:9/")
        servers.wait_until_they_answer()
    assert "cannot open postgresql://***@host/db" in str(caught.value)
    deadline = time.monotonic() + 5
    while Path("/proc", pid.read_text().strip(), "fd").exists() and time.monotonic() < deadline:
        if _is_zombie(int(pid.read_text())):
            break
        time.sleep(0.05)
    assert not Path("/proc", pid.read_text().strip()).exists() or _is_zombie(int(pid.read_text()))


def _is_zombie(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_sigterm_ends_it_too_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Servers() as servers:
        os.kill(os.getpid(), signal.SIGTERM)
        servers.wait()
        assert servers.stopped
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_sweep_whose_store_is_gone_costs_one_line() -> None:
    make_sweep(Path("sweeps/first"), [0.5], uri="sqlite:////nowhere/mlflow.db")
    result = CliRunner().invoke(app, ["ui", "first"])
    assert isinstance(result.exception, UserError)
    assert "/nowhere/mlflow.db is not there" in str(result.exception)
