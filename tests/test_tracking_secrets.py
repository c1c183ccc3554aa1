"""A password in the address of the tracking server is nowhere to be found, whatever happens to the server."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mirrored import wait_until
from tracking_server import TrackingServer

from tuner.cli.main import main
from tuner.names import TRACKING_URI_VARIABLE
from tuner.tracking.store import Tracker
from tuner.tracking.uri import reopen_uri

CANARY = "c4nary"


@pytest.fixture
def server(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> Iterator[TrackingServer]:
    server = TrackingServer(tmp_path / "server", mlflow_store(tmp_path / "server"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Return a folder for Ray's own files, whose sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="ft-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_no_password_is_left_anywhere_by_a_sweep_whose_server_goes_away(
    server: TrackingServer, ray_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    address = f"http://me:{CANARY}@{server.host}"
    workplace = tmp_path / "work"
    workplace.mkdir()
    monkeypatch.chdir(workplace)
    monkeypatch.delenv(TRACKING_URI_VARIABLE)
    monkeypatch.setenv("RAY_TMPDIR", str(ray_folder))
    sweep = [sys.executable, "-m", "tuner.cli.main", "sweep", "smoke", "--steps", "100000", "--name", "first"]
    said = list[str]()
    with subprocess.Popen(
        [*sweep, "--tracking-uri", address], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        curve = Path("sweeps/first/trials/0000/curve.csv")
        wait_until(lambda: (curve.exists() and curve.stat().st_size) or process.poll() is not None, seconds=120)
        server.kill()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("MLflow:") and not any(earlier.startswith("MLflow:") for earlier in said):
                time.sleep(0.5)
                process.send_signal(signal.SIGINT)
            said.append(line)
    assert process.returncode == 130
    assert any(line.startswith("MLflow: the tracking store") and server.host in line for line in said)
    assert any("fastface-tuner sync first" in line for line in said)

    def tool(*arguments: str, uri: str, code: int) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["fastface-tuner", *arguments, "--tracking-uri", uri])
        with pytest.raises(SystemExit) as ending:
            main()
        assert (ending.value.code or 0) == code
        captured = capfd.readouterr()
        return (captured.out + captured.err).splitlines()

    capfd.readouterr()
    for refused in (
        tool("sync", "first", uri=address, code=1),
        tool("sweep", "smoke", "--name", "second", uri=address, code=2),
        tool("sync", "first", uri=f"{address}:x", code=2),
    ):
        assert len(refused) == 1
        said += refused
    server.start()
    mended = tool("sync", "first", uri=address, code=0)
    assert any("trial 0" in line for line in mended)
    said += mended
    said += tool("report", "first", uri=address, code=0)

    assert CANARY not in "".join(said)
    assert "Traceback" not in "".join(said)
    server.kill()
    left = [path for folder in (tmp_path, ray_folder) for path in folder.rglob("*") if path.is_file()]
    assert {"sweep.yaml", "study.journal", "mlflow.db", "environment.json", "report.html"} <= {
        path.name for path in left
    }
    assert any(path.is_relative_to(ray_folder) for path in left)
    assert [path for path in left if CANARY.encode() in path.read_bytes()] == []


def test_a_store_is_shown_without_its_password() -> None:
    assert CANARY not in repr(Tracker(f"http://me:{CANARY}@host")) + str(Tracker(f"http://me:{CANARY}@host"))


def test_a_recorded_store_gets_its_password_from_the_process_that_opens_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded, whole = "http://***@host:5000/x", f"http://me:{CANARY}@host:5000/x"
    monkeypatch.setenv(TRACKING_URI_VARIABLE, "http://other:5000")
    assert reopen_uri(recorded, None) == "http://host:5000/x"
    assert reopen_uri(recorded, whole) == whole
    assert reopen_uri(recorded, "http://moved:5000") == "http://moved:5000"
    monkeypatch.setenv(TRACKING_URI_VARIABLE, whole)
    assert reopen_uri(recorded, None) == whole
    assert reopen_uri("sqlite:////data/a.db", None) == "sqlite:////data/a.db"
    assert reopen_uri("postgresql://host/db?password=***&x=1", None) == "postgresql://host/db?x=1"
