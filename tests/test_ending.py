"""Ctrl-C, SIGTERM and sudden death: who is asked to stop, who is not asked, and what stays behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tuner.sweep import ending as module
from tuner.sweep.ending import Ending

BOTH = pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])


@BOTH
def test_the_first_signal_is_raised_at_once(number: signal.Signals, raised: type[BaseException]) -> None:
    before = signal.getsignal(number)
    with pytest.raises(raised), Ending():
        signal.raise_signal(number)
        pytest.fail("it was not raised")
    assert signal.getsignal(number) == before


@BOTH
def test_what_got_lost_on_its_way_is_raised_again(number: signal.Signals, raised: type[BaseException]) -> None:
    with pytest.raises(raised), Ending() as ending:
        with suppress(raised):
            signal.raise_signal(number)
        with suppress(raised):
            ending.check()


@BOTH
def test_a_gentle_block_is_asked_to_stop_and_ends_by_itself(
    number: signal.Signals, raised: type[BaseException]
) -> None:
    asked: list[str] = []
    with pytest.raises(raised) as caught, Ending() as ending:
        with ending.gentle(lambda: asked.append("stop")):
            signal.raise_signal(number)
            asked.append("went on")
        asked.append("ended")
    assert asked == ["stop", "went on", "ended"]
    if number == signal.SIGTERM:
        assert isinstance(caught.value, SystemExit)
        assert caught.value.code == 143


def test_a_gentle_block_that_does_not_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GENTLE_SECONDS", 0.05)
    with pytest.raises(KeyboardInterrupt), Ending() as ending, ending.gentle(lambda: None):
        signal.raise_signal(signal.SIGINT)
        time.sleep(10)
        pytest.fail("it was not raised")


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    lines = "import os, signal, time\nfrom tuner.sweep import ending\nfrom tuner.sweep.ending import Ending\n"
    return subprocess.run([sys.executable, "-c", lines + code], capture_output=True, text=True, timeout=60)


def test_the_second_signal_ends_the_process_at_once() -> None:
    done = run(
        "with Ending() as each, each.gentle(lambda: print('asked', flush=True)):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('went on')\n"
    )
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "asked\n")


def test_after_ten_seconds_the_process_leaves_whatever_holds_it_up() -> None:
    done = run(
        "ending.GENTLE_SECONDS, ending.LAST_SECONDS = 0.1, 0.3\n"
        "with Ending() as each, each.gentle(lambda: None):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    while True:\n"
        "        try: time.sleep(10)\n"
        "        except SystemExit: print('held up', flush=True)\n"
    )
    assert (done.returncode, done.stdout) == (143, "held up\n")
    assert module.LAST_SECONDS < 10


def test_what_a_killed_sweep_started_does_not_outlive_it(tmp_path: Path) -> None:
    """A guarded process starts another one, whose log lies where that of a Ray process does, and is killed."""
    code = f"""
import os, pathlib, subprocess, sys, time
from tuner.sweep.guard import Guard
scratch = pathlib.Path({str(tmp_path)!r}) / f"fastface-tuner-{{os.getpid()}}-x"
logs = pathlib.Path({str(tmp_path)!r}) / f"session_2026_{{os.getpid()}}" / "logs"
scratch.mkdir(), logs.mkdir(parents=True)
with Guard():
    other = subprocess.Popen(["sleep", "100"], stdout=(logs / "raylet.out").open("w"), start_new_session=True)
    print(other.pid, flush=True)
    time.sleep(100)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as sweep:
        assert sweep.stdout is not None
        other = int(sweep.stdout.readline())
        assert Path(f"/proc/{other}").exists()
        sweep.kill()
    deadline = time.monotonic() + 10
    while (_alive(other) or [*tmp_path.glob("fastface*")]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(other)
    assert not [*tmp_path.glob("fastface*")]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
