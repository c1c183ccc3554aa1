"""Whatever becomes of the tracking server, a sweep's driver does not wait, and MLflow shows the same in the end."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fake_sweep import FAILING, SPACE, STEPS, TRIALS, FakeSweep, assert_shown, shown
from mirrored import trial_runs, wait_until
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from tracking_server import SlowWay, TrackingServer

from tuner.cli.main import main
from tuner.config.space_file import space_from_text
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.sweep.folder import SweepDescription, SweepFolder
from tuner.sweep.lock import sweep_lock
from tuner.sweep.view import RunView
from tuner.tracking import mirror
from tuner.tracking.store import Tracker

Command = Callable[..., tuple[int, str, str]]
Shown = list[dict[str, Any]]
PATIENT_SECONDS = 60
DRIVER_SECONDS = 2.5
"""What a driver may wait for disk and views on a busy machine; a call of a store that hangs takes longer."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "LAST_RETRY_SECONDS", 0.5)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, mlflow_store: Callable[[Path], str], request: pytest.FixtureRequest
) -> Iterator[TrackingServer]:
    folder = tmp_path_factory.mktemp("server")
    server = TrackingServer(folder, mlflow_store(folder))
    try:
        server.start(wait=False)
        request.getfixturevalue("undisturbed")  # which takes as long as the server's start
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Callable[[Path], str]) -> Shown:
    """Return what MLflow shows of the sweep when nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep = FakeSweep(folder / "sweep", mlflow_store(folder))
    sweep.run()
    assert sweep.view.close("FINISHED", timeout=PATIENT_SECONDS) == []
    assert sweep.progress.messages == []
    found = shown(sweep.tracker.client, sweep.parent)
    assert [entry["status"] for entry in found].count("FINISHED") >= 4
    curves = [[step for step, _ in entry["metrics"]["loss"]] for entry in found[1:]]
    assert curves[0] == list(range(STEPS))
    assert any("duplicate_of" in entry["tags"] for entry in found)
    assert found[1 + FAILING]["texts"]["traceback.txt"].endswith("why")
    return found


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fastface-tuner", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            main()
        return int(ending.value.code or 0), *capsys.readouterr()

    return run


def program(folder: Path, uri: str, seconds: str) -> list[str]:
    """Return the command that runs the fake sweep in a process of its own."""
    return [sys.executable, str(Path(__file__).with_name("fake_sweep.py")), str(folder / "sweep"), uri, seconds]


def test_a_server_that_is_killed_and_restarted_gets_the_same_sweep(
    server: TrackingServer,
    tmp_path: Path,
    undisturbed: Shown,
    command: Command,
) -> None:
    """It dies while trial 1 trains, is back for trial 4, and dies again before the sweep ends."""
    sweep = FakeSweep(tmp_path / "sweep", server.uri)

    def happen(number: int, steps: int) -> None:
        if (number, steps) == (1, 30):
            wait_until(lambda: len(trial_runs(MlflowClient(server.uri), sweep.parent)) == 2)
            server.kill()
        if (number, steps) == (4, 30):
            server.start()
            wait_until(lambda: len(trial_runs(MlflowClient(server.uri), sweep.parent)) == 5, seconds=PATIENT_SECONDS)
            server.kill()

    sweep.run(happen)
    assert sweep.waited < DRIVER_SECONDS
    said = sweep.view.close("FINISHED", timeout=1)
    assert f"send it with: fastface-tuner sync {tmp_path / 'sweep'}" in said[-1]
    told = [message for message in (*sweep.progress.messages, *said[:-1]) if message.startswith("MLflow")]
    assert ["answers again" in message for message in told] == [False, True, False]

    code, out, err = command("sync", str(tmp_path / "sweep"))
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert server.host in err
    server.start()
    code, out, err = command("sync", str(tmp_path / "sweep"))
    assert (code, err) == (0, "")
    assert "trial 6: made its run" in out
    client = MlflowClient(server.uri)
    assert_shown(shown(client, sweep.parent), undisturbed)
    assert [record.run_id for record in Ledger.open(sweep.folder.journal).trials()] == [
        run.info.run_id for run in trial_runs(client, sweep.parent)
    ]
    assert command("sync", str(tmp_path / "sweep")) == (0, "nothing to send\n", "")


def test_a_driver_that_is_killed_while_the_server_hangs_leaves_no_gap_and_no_repeat(
    server: TrackingServer, tmp_path: Path, undisturbed: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last requests are still with the server when the next driver asks for what is there."""
    program = [
        sys.executable,
        str(Path(__file__).with_name("fake_sweep.py")),
        str(tmp_path / "sweep"),
        server.uri,
        "0.1",
    ]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            number, steps = map(int, line.split())
            if (number, steps) == (1, 20):
                server.hang()
            if (number, steps) == (3, 10):
                driver.kill()
    resumed = FakeSweep(tmp_path / "sweep", server.uri)
    assert [record.state for record in resumed.ledger.trials()][-1] == "RUNNING"
    resumed.run(lambda number, steps: server.wake() if (number, steps) == (4, 30) else None)
    assert resumed.waited < DRIVER_SECONDS
    resumed.view.close("FINISHED", timeout=PATIENT_SECONDS)
    assert_shown(shown(MlflowClient(server.uri), resumed.parent), undisturbed)
    assert all(record.mirrored for record in resumed.ledger.trials())


def test_a_slow_server_slows_nothing(server: TrackingServer, tmp_path: Path, undisturbed: Shown) -> None:
    way = SlowWay(server.host, seconds=0.0)
    sweep = FakeSweep(tmp_path / "sweep", way.uri)
    way.seconds = 3.0
    began = time.monotonic()
    sweep.run()
    assert time.monotonic() - began < TRIALS * 2  # a call for each trial would take longer
    assert sweep.waited < DRIVER_SECONDS
    assert sweep.progress.messages == []
    way.seconds = 0.0
    assert sweep.view.close("FINISHED", timeout=PATIENT_SECONDS) == []
    assert_shown(shown(MlflowClient(server.uri), sweep.parent), undisturbed)
    way.close()


def test_a_locked_database_slows_nothing(
    tmp_path: Path, mlflow_store: Callable[[Path], str], undisturbed: Shown
) -> None:
    sweep = FakeSweep(tmp_path / "sweep", mlflow_store(tmp_path))
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        sweep.run()
        assert sweep.waited < DRIVER_SECONDS
        other.rollback()
    sweep.view.close("FINISHED", timeout=PATIENT_SECONDS)
    assert_shown(shown(sweep.tracker.client, sweep.parent), undisturbed)


def test_an_interrupted_sweep_is_shown_as_such_and_goes_on_under_the_same_runs(
    tmp_path: Path, mlflow_store: Callable[[Path], str], undisturbed: Shown,
    command: Command,
) -> None:  # fmt: skip
    uri = mlflow_store(tmp_path)
    with subprocess.Popen(program(tmp_path, uri, "0.05"), stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if line == "2 40\n":
                driver.send_signal(signal.SIGKILL)
    assert command("sync", str(tmp_path / "sweep"))[0] == 0
    client, folder = MlflowClient(uri), SweepFolder(tmp_path / "sweep")
    before = [record.run_id for record in Ledger.open(folder.journal).trials()]
    parent = folder.read().parent_run_id
    assert [run.info.status for run in trial_runs(client, parent)] == ["FINISHED", "FINISHED", "KILLED"]
    assert client.get_run(parent).info.status == "KILLED"
    assert command("sync", str(tmp_path / "sweep")) == (0, "nothing to send\n", "")

    resumed = FakeSweep(tmp_path / "sweep", uri)
    wait_until(lambda: client.get_run(parent).info.status == "RUNNING")

    def happen(number: int, steps: int) -> None:
        if (number, steps) == (2, 10):
            wait_until(lambda: client.get_run(before[2] or "").info.status == "RUNNING")

    resumed.run(happen)
    assert resumed.view.close("FINISHED", timeout=PATIENT_SECONDS) == []
    assert_shown(shown(client, parent), undisturbed)
    assert [record.run_id for record in resumed.ledger.trials()][:3] == before


def test_everything_is_made_again_from_ledger_and_files(
    tmp_path: Path, mlflow_store: Callable[[Path], str], undisturbed: Shown,
    command: Command, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """No trial ever got a run, one lost its files, and one file is damaged."""
    uri = mlflow_store(tmp_path)
    sweep = FakeSweep(tmp_path / "sweep", uri)

    def refuse(*arguments: Any, **named: Any) -> None:
        raise MlflowException("down")

    with monkeypatch.context() as patch:
        for call in ("create_run", "log_batch", "set_terminated", "search_runs"):
            patch.setattr(sweep.tracker.client, call, refuse)
        sweep.run()
        assert "sync" in sweep.view.close("FINISHED", timeout=0.1)[-1]
    for name in ("curve.csv", "evaluations.jsonl"):
        (sweep.folder.trial(0) / name).unlink()
    curve = sweep.folder.trial(1) / "curve.csv"
    whole = curve.read_bytes()
    curve.write_bytes(whole.replace(b"\n50,", b"\nfifty,"))
    code, out, _ = command("sync", str(tmp_path / "sweep"))
    assert code == 0
    assert any("trial 0" in line and "curve.csv is missing" in line for line in out.splitlines())
    assert any("damaged" in line and str(curve) in line for line in out.splitlines())
    curve.write_bytes(whole)
    assert command("sync", str(tmp_path / "sweep"))[0] == 0
    found = shown(sweep.tracker.client, sweep.parent)
    assert [found[0], *found[2:]] == [undisturbed[0], *undisturbed[2:]]
    assert found[1]["metrics"]["accuracy"][-1][1] == undisturbed[1]["metrics"]["accuracy"][-1][1]
    assert found[1]["status"] == "FINISHED"
    assert command("sync", str(tmp_path / "sweep")) == (0, "nothing to send\n", "")


def test_an_artifact_that_was_cut_off_is_sent_again(
    tmp_path: Path, mlflow_store: Callable[[Path], str], undisturbed: Shown,
    command: Command, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As by a server that is killed while it writes one: the name is there, the text is not whole."""
    sweep = FakeSweep(tmp_path / "sweep", mlflow_store(tmp_path))
    client = sweep.tracker.client
    log_text = client.log_text

    def log_part(run_id: str, text: str, artifact_file: str) -> None:
        log_text(run_id, text[:3], artifact_file)
        raise MlflowException("down")

    with monkeypatch.context() as patch:
        patch.setattr(client, "log_text", log_part)
        sweep.run()
        assert "sync" in sweep.view.close("FINISHED", timeout=1)[-1]
    first = trial_runs(client, sweep.parent)[0].info.run_id
    assert [held.file_size for held in client.list_artifacts(first)] == [3]
    assert command("sync", str(tmp_path / "sweep"))[0] == 0
    assert_shown(shown(client, sweep.parent), undisturbed)


def test_a_sweep_that_runs_is_left_alone(tmp_path: Path, mlflow_store: Callable[[Path], str], command: Command) -> None:
    sweep = FakeSweep(tmp_path / "sweep", mlflow_store(tmp_path))
    with sweep_lock(tmp_path / "sweep"):
        code, out, err = command("sync", str(tmp_path / "sweep"))
    assert (code, out) == (2, "")
    assert "a sweep that runs sends its runs itself" in err
    sweep.view.close("KILLED", timeout=PATIENT_SECONDS)


def test_a_store_that_has_no_such_sweep_is_refused_and_left_as_it_is(
    tmp_path: Path, mlflow_store: Callable[[Path], str], command: Command
) -> None:
    sweep = FakeSweep(tmp_path / "sweep", mlflow_store(tmp_path))
    sweep.view.close("KILLED", timeout=PATIENT_SECONDS)
    other = mlflow_store(tmp_path / "other")
    code, _, err = command("sync", str(tmp_path / "sweep"), "--tracking-uri", other)
    assert (code, len(err.splitlines())) == (1, 1)
    assert "has no run" in err
    assert [entry.name for entry in MlflowClient(other).search_experiments()] == ["Default"]
    code, _, err = command("sync", str(tmp_path / "sweep"), "--tracking-uri", "sqlite:///absent.db")
    assert (code, len(err.splitlines())) == (1, 1)
    assert not Path("absent.db").exists()


def test_of_many_trials_that_are_all_sent_none_is_looked_up_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    endless = SPACE.replace("{choices: [4, 10]}", "{low: 2.0, high: 9.0}")
    folder = SweepFolder(tmp_path)
    folder.write(SweepDescription(name="many", trials=200, tracking_uri="http://127.0.0.1:9", parent_run_id="p"))
    ledger = Ledger.create(folder.journal, plan=make_plan(space_from_text(endless, file="x.yaml")))
    for number in range(200):
        assert ledger.ask() is not None
        ledger.annotate(number, run_id=f"run {number}")
        ledger.tell(number, value=0.5)
        ledger.mark_mirrored(number)
    began = time.monotonic()
    view = RunView(ledger, folder=folder, tracker=Tracker("http://127.0.0.1:9"))
    view.catch_up()
    assert view.drain(hear=pytest.fail) is None
    assert time.monotonic() - began < 1


def test_a_store_that_was_moved_is_not_made_anew(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> None:
    uri = mlflow_store(tmp_path)
    FakeSweep(tmp_path / "sweep", uri).view.close("KILLED", timeout=PATIENT_SECONDS)
    (tmp_path / "mlflow.db").rename(tmp_path / "moved.db")
    sweep = FakeSweep(tmp_path / "sweep", uri)
    sweep.run()
    assert "mlflow.db is not there" in sweep.view.close("FINISHED", timeout=0.2)[-1]
    assert not (tmp_path / "mlflow.db").exists()
