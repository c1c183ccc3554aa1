"""One sweep per GPU, one process per sweep: who has a lock, who waits, and what a dead process leaves."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tuner.cli.main import main
from tuner.errors import UserError
from tuner.names import LOCK_FILE
from tuner.sweep.devices import VISIBLE, Gpu, first_visible, gpus
from tuner.sweep.lock import UNKNOWN, device_lock, is_running, locks_folder, sweep_lock

GPU = Gpu("GPU-11111111-aaaa", "NVIDIA One")
OTHER = Gpu("GPU-22222222-bbbb", "NVIDIA Two")
PRELUDE = """
import os, signal, subprocess, sys, time
from pathlib import Path
from tuner.sweep.devices import Gpu
from tuner.sweep.lock import device_lock, sweep_lock
def say(line): print(line, flush=True)
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell in the background had made deaf to it
"""


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lock no real GPU."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)


@contextmanager
def process(code: str) -> Iterator[subprocess.Popen[str]]:
    """Run code beside this process; it ends when its standard input does."""
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(code)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def heard(started: subprocess.Popen[str]) -> str:
    """Return the process's next line."""
    assert started.stdout is not None
    line = started.stdout.readline().strip()
    assert line, started.communicate()[1]
    return line


def holding(folder: Path, *, lock: str = "sweep_lock(folder)") -> str:
    return f"""
        folder = Path({str(folder)!r})
        with {lock}:
            say("held")
            sys.stdin.read()
    """


def test_the_second_process_is_told_in_one_line_who_runs_the_sweep_and_may_after_the_first(tmp_path: Path) -> None:
    with process(holding(tmp_path)) as first:
        assert heard(first) == "held"
        with pytest.raises(UserError) as refused, sweep_lock(tmp_path):
            pass
        holder = is_running(tmp_path)
        first.communicate("")
    text = str(refused.value)
    assert "\n" not in text
    for part in (str(tmp_path), f"process {first.pid} on {socket.gethostname()}, since 20", "--wait"):
        assert part in text
    assert holder is not None
    assert (holder.pid, holder.sweep) == (first.pid, str(tmp_path))
    assert is_running(tmp_path) is None
    with sweep_lock(tmp_path):
        assert is_running(tmp_path) is not None


def test_with_wait_the_second_says_what_it_waits_for_and_goes_on_when_the_first_ends(tmp_path: Path) -> None:
    waiting = holding(tmp_path, lock="sweep_lock(folder, wait=True, tell=say)")
    with process(holding(tmp_path)) as first:
        assert heard(first) == "held"
        with process(waiting) as second:
            line = heard(second)
            assert f"process {first.pid} on" in line
            assert "waiting" in line
            first.kill()
            assert heard(second) == "held"
            holder = is_running(tmp_path)
        assert holder is not None
        assert holder.pid == second.pid


def test_ctrl_c_ends_the_wait_and_leaves_the_lock_to_its_holder(tmp_path: Path) -> None:
    waiting = holding(tmp_path, lock="sweep_lock(folder, wait=True, tell=say)")
    with process(holding(tmp_path)) as first:
        assert heard(first) == "held"
        with process(waiting) as second:
            assert "waiting" in heard(second)
            second.send_signal(signal.SIGINT)
            _, errors = second.communicate(timeout=20)
            assert "KeyboardInterrupt" in errors
        holder = is_running(tmp_path)
        assert holder is not None
        assert holder.pid == first.pid


def test_a_killed_process_leaves_no_lock_though_its_children_live_on(tmp_path: Path) -> None:
    code = f"""
        folder = Path({str(tmp_path)!r})
        with sweep_lock(folder), device_lock(Gpu("{GPU.id}"), sweep=folder):
            started = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL)
            forked = os.fork()
            if forked == 0:
                time.sleep(60)
                os._exit(0)
            say(f"{{started.pid}} {{forked}}")
            sys.stdin.read()
    """
    with process(code) as first:
        children = [int(word) for word in heard(first).split()]
        try:
            assert is_running(tmp_path) is not None
            first.kill()
            first.wait(20)
            assert (tmp_path / LOCK_FILE).read_text() != ""  # what the dead process wrote is there, and means nothing
            deadline = time.monotonic() + 10
            while is_running(tmp_path) is not None and time.monotonic() < deadline:
                time.sleep(0.05)  # a child that was just forked may not have had its turn yet
            assert is_running(tmp_path) is None
            with sweep_lock(tmp_path), device_lock(GPU, sweep=tmp_path):
                holder = is_running(tmp_path)
                assert holder is not None
                assert holder.pid == os.getpid()
            for child in children:
                os.kill(child, 0)  # they are there still
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)


def test_looking_whether_a_sweep_runs_never_keeps_it_from_running(tmp_path: Path) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            is_running(tmp_path)

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(30):
            with sweep_lock(tmp_path):
                time.sleep(0.001)
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


def test_a_folder_without_a_lock_is_not_running_and_a_lock_that_says_nothing_counts(tmp_path: Path) -> None:
    assert is_running(tmp_path) is None
    assert is_running(tmp_path / "missing") is None
    (tmp_path / LOCK_FILE).write_text("not ours")
    assert is_running(tmp_path) is None
    with sweep_lock(tmp_path):
        (tmp_path / LOCK_FILE).write_text("")
        assert is_running(tmp_path) == UNKNOWN
        with pytest.raises(UserError, match="another one does"), sweep_lock(tmp_path):
            pass


def test_a_lock_file_that_is_a_link_is_refused_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / LOCK_FILE).symlink_to(tmp_path / "target")
    with pytest.raises(UserError, match=LOCK_FILE), sweep_lock(tmp_path):
        pass
    assert (tmp_path / "target").read_text() == "precious"


def test_each_gpu_is_locked_by_itself_and_the_cpu_not_at_all(tmp_path: Path) -> None:
    with process(holding(tmp_path, lock=f"device_lock(Gpu({GPU.id!r}, {GPU.name!r}), sweep=folder)")) as first:
        assert heard(first) == "held"
        with device_lock(OTHER, sweep=tmp_path), device_lock(None, sweep=tmp_path), device_lock(None, sweep=tmp_path):
            pass
        with pytest.raises(UserError) as refused, device_lock(GPU, sweep=tmp_path / "second"):
            pass
    for part in (str(GPU), f"{tmp_path} does", str(first.pid), "--wait", VISIBLE):
        assert part in str(refused.value)


def test_what_is_locked_is_what_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "1,0")
    with device_lock(OTHER, sweep=tmp_path):
        assert os.environ[VISIBLE] == OTHER.id
    assert os.environ[VISIBLE] == "1,0"
    monkeypatch.delenv(VISIBLE)
    with device_lock(GPU, sweep=tmp_path):
        assert os.environ[VISIBLE] == GPU.id
    assert VISIBLE not in os.environ


@pytest.mark.parametrize("trap", ["link", "file", "open to others"])
def test_a_folder_of_locks_that_others_could_have_made_is_refused(tmp_path: Path, trap: str) -> None:
    folder = locks_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    if trap == "link":
        folder.symlink_to(tmp_path / "elsewhere")
    elif trap == "file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(UserError, match="only you can write"), device_lock(GPU, sweep=tmp_path):
        pass
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that puts a program of this name and this behaviour on the path."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv(VISIBLE, raising=False)

    def install(script: str) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return install


TWO_GPUS = f"echo '{GPU.id}, {GPU.name}'; echo '{OTHER.id}, {OTHER.name}'"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, GPU),
        ("0", GPU),
        ("1,0", OTHER),
        ("GPU-2222", OTHER),
        ("MIG-33", Gpu("MIG-33")),
        ("", None),
        ("-1", None),
        ("7", None),
    ],
)
def test_a_sweep_uses_the_first_gpu_that_it_may_see(
    nvidia_smi: Callable[[str], None], visible: str | None, expected: Gpu | None
) -> None:
    nvidia_smi(TWO_GPUS)
    assert gpus() == [GPU, OTHER]
    assert first_visible({} if visible is None else {VISIBLE: visible}) == expected


def test_a_driver_that_does_not_answer_means_no_gpu(
    nvidia_smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tuner.sweep.devices._DRIVER", tmp_path / "missing")
    nvidia_smi("echo 'NVIDIA-SMI has failed'; exit 9")
    assert gpus() == []
    assert first_visible({}) is None
    monkeypatch.setattr("tuner.sweep.devices._DRIVER", tmp_path)
    assert first_visible({VISIBLE: "3"}) == Gpu("3")


def test_a_sweep_on_a_gpu_in_use_says_so_and_leaves_nothing_behind(
    tmp_path: Path,
    nvidia_smi: Callable[[str], None],
    mlflow_store: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mlflow_store(tmp_path)
    nvidia_smi(TWO_GPUS)
    other = tmp_path / "other"
    with process(holding(other, lock=f"device_lock(Gpu({GPU.id!r}), sweep=folder)")) as first:
        assert heard(first) == "held"
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["fastface-tuner", "sweep", "smoke", "--name", "second"])
        with pytest.raises(SystemExit) as ending:
            main()
    assert ending.value.code == 2
    errors = capsys.readouterr().err.strip()
    assert len(errors.splitlines()) == 1
    assert f"{other} does (process {first.pid}" in errors
    assert sorted(tmp_path.rglob("*")) == before
