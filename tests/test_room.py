"""A full disk: nothing is written in half, what waits goes on, and what is asked for too much is refused."""

import errno
import logging
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from stages_toy import FINGERPRINT, quick_disk, shared  # noqa: F401
from stages_toy import plan as toy_plan
from test_stages_face import config

from tuner.cli.main import main
from tuner.config.space_file import load_space
from tuner.errors import NoRoomError, UserError
from tuner.room import FLOOR_BYTES, patiently, shortage, wait_for_room
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.stages.recorder import Recorder
from tuner.stages.store import StageStore
from tuner.stages.trial import TrialProgress, run_trial
from tuner.sweep import trial_process
from tuner.sweep.asked import Budget
from tuner.sweep.disk import check_disk, needs
from tuner.sweep.source import Sharing, SweepSource

MIB = 2**20
CPU = torch.device("cpu")


def full_disk(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Disk:
    """Stands for the file system: what it says of its room, and whether it takes what is written."""

    def __init__(self, *, free: int) -> None:
        self.free, self.total = free, 10**12

    def statvfs(self, _: object) -> Any:
        return SimpleNamespace(f_bavail=self.free, f_bfree=self.free, f_frsize=1, f_blocks=self.total)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Return a disk with room; waits are short."""
    disk = Disk(free=10**9)
    monkeypatch.setattr(os, "statvfs", disk.statvfs)
    monkeypatch.setattr("tuner.room.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("tuner.stages.trial.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("tuner.stages.trial._LOOK_SECONDS", 0.0)
    return disk


def test_some_room_is_left_alone_and_less_of_it_on_a_small_disk(tmp_path: Path, disk: Disk) -> None:
    disk.free = FLOOR_BYTES
    assert shortage(tmp_path) is None
    assert shortage(tmp_path / "not" / "yet" / "there") is None
    assert str(tmp_path) in str(shortage(tmp_path, needed=1))
    disk.free -= 1
    assert "64 MiB are needed" in str(shortage(tmp_path))
    disk.total = 50 * MIB
    disk.free = MIB
    assert shortage(tmp_path) is None
    assert shortage(tmp_path, needed=1) is not None


def test_a_wait_is_told_once_and_ends_when_there_is_room_or_patience_ends(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_room(tmp_path)
    assert caplog.text == ""
    disk.free = 0
    threading.Timer(0.1, lambda: setattr(disk, "free", 10**9)).start()
    wait_for_room(tmp_path)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "paused",
        f"there is room in {tmp_path} again",
    ]
    disk.free = 0
    monkeypatch.setattr("tuner.room.PATIENCE_SECONDS", 0.1)
    with pytest.raises(NoRoomError) as ended:
        wait_for_room(tmp_path)
    assert str(tmp_path) in str(ended.value)
    with pytest.raises(NoRoomError):
        patiently(full_disk, tmp_path)
    with pytest.raises(ZeroDivisionError):
        patiently(lambda: 1 // 0, tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def sizes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("share", [True, False])
def test_a_trial_pauses_before_it_writes_goes_on_when_there_is_room_and_ends_as_it_would_have(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture, share: bool
) -> None:
    (tmp_path / "undisturbed").mkdir()
    *_, expected = run_trial(config("4,8"), tmp_path / "undisturbed", device=CPU, store=None)
    (tmp_path / "paused").mkdir()
    store = StageStore(tmp_path / "store") if share else None
    paused, before = 0, dict[Path, int]()
    trial = run_trial(config("4,8"), tmp_path / "paused", device=CPU, store=store, label="a")
    for progress in trial:
        if progress.paused:
            paused += 1
            assert not progress.metrics
            # Whatever was on its way when the disk became full has been written once the second look finds it so.
            time.sleep(0.1 if paused % 3 == 2 else 0)
            assert paused % 3 != 0 or sizes(tmp_path) == before
            before = sizes(tmp_path)
            disk.free = 10**9 if paused % 3 == 0 else 0
        elif progress.steps in (0, 5, 6, 12):
            disk.free = 0
        last = progress
    assert paused >= 6
    assert (last.metrics, last.finished) == (expected.metrics, True)
    assert contents(tmp_path / "paused") == contents(tmp_path / "undisturbed")
    assert caplog.text.count("paused: 0 B are free") == caplog.text.count("going on") >= 2


@pytest.mark.parametrize("share", [True, False])
def test_a_quota_that_nobody_can_see_pauses_a_trial_too(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, share: bool
) -> None:
    """The disk says that it has room, and takes nothing now and then."""
    (tmp_path / "undisturbed").mkdir()
    *_, expected = run_trial(config("4,8"), tmp_path / "undisturbed", device=CPU, store=None)
    write, append, calls = os.write, Recorder.append, 0

    def now_and_then(action: Callable[..., Any]) -> Callable[..., Any]:
        def maybe(*arguments: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            return action(*arguments, **keywords) if calls % 7 < 4 else full_disk()

        return maybe

    monkeypatch.setattr(os, "write", now_and_then(write))
    monkeypatch.setattr(Recorder, "append", now_and_then(append))
    (tmp_path / "paused").mkdir()
    store = StageStore(tmp_path / "store") if share else None
    *_, last = run_trial(config("4,8"), tmp_path / "paused", device=CPU, store=store, label="a")
    monkeypatch.undo()
    assert (last.metrics, last.finished) == (expected.metrics, True)
    assert contents(tmp_path / "paused") == contents(tmp_path / "undisturbed")
    assert "paused: the disk of" in caplog.text
    if share:  # and all of it is on record
        (tmp_path / "again").mkdir()
        *_, again = run_trial(config("4,8"), tmp_path / "again", device=CPU, store=StageStore(tmp_path / "store"))
        assert (again.counts.executed, again.metrics) == (0, expected.metrics)


def test_a_trial_whose_disk_stays_full_ends_to_be_taken_up_again(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trial").mkdir()
    store = StageStore(tmp_path / "store")
    trial = run_trial(config("4,8"), tmp_path / "trial", device=CPU, store=store, label="a")
    monkeypatch.setattr("tuner.room.PATIENCE_SECONDS", 0.05)

    def until_it_ends() -> None:
        for progress in trial:
            if progress.steps == 6:
                disk.free = 0

    with pytest.raises(NoRoomError):
        until_it_ends()
    disk.free = 10**9
    *_, last = run_trial(config("4,8"), tmp_path / "trial", device=CPU, store=StageStore(tmp_path / "store"), label="a")
    assert last.finished
    assert last.counts.resumed >= 6


def test_the_actor_tells_such_an_end_apart_from_a_failure_and_the_sweep_keeps_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(*_: object, **__: object) -> Iterator[TrialProgress]:
        raise NoRoomError("the disk must have room")
        yield

    monkeypatch.setattr(trial_process, "run_trial", stuck)
    run = config("4,8").to_dict()
    process = trial_process.TrialProcess()
    process.begin(
        {
            "run": run,
            "folder": str(tmp_path),
            "threads": 1,
            "label": "",
            "store": None,
            "checkpoint_budget": 0,
            "stop": str(tmp_path / "stop"),
        }
    )
    result = process.step()
    logging.getLogger("tuner").handlers.clear()
    assert result["done"]
    assert "failed" not in result

    ledger = Ledger.create(tmp_path / "study.journal", plan=make_plan(load_space("smoke")))
    nothing: Any = None
    source = SweepSource(
        ledger, budget=Budget(trials=1), folder=nothing, view=nothing, progress=nothing, threads=1,
        sharing=Sharing(None, 0),
    )  # fmt: skip
    asked = ledger.ask()
    assert asked is not None
    with pytest.raises(NoRoomError, match="must have room"):
        source.ended(asked.number, result)
    assert [trial.state for trial in ledger.trials()] == ["RUNNING"]


def test_checkpoints_are_given_up_before_a_trial_has_to_wait_but_only_where_that_helps(
    tmp_path: Path, disk: Disk
) -> None:
    store = StageStore(tmp_path, checkpoint_budget=None)
    shared(toy_plan(), store.shelf(FINGERPRINT), checkpoint_every=5)
    checkpoints = sorted(tmp_path.rglob("*.pt"))
    each = checkpoints[0].stat().st_size
    assert len(checkpoints) > 5
    disk.free = FLOOR_BYTES - 100 * MIB
    assert not store.relieve_disk()
    assert sorted(tmp_path.rglob("*.pt")) == checkpoints
    before = sum(path.stat().st_size for path in checkpoints)

    def statvfs(_: object) -> Any:  # what is removed becomes free
        left = sum(path.stat().st_size for path in tmp_path.rglob("*.pt"))
        return SimpleNamespace(f_bavail=FLOOR_BYTES + before - left - 2 * each, f_frsize=1, f_blocks=10**12)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "statvfs", statvfs)
        assert store.relieve_disk()
        assert len(list(tmp_path.rglob("*.pt"))) in (len(checkpoints) - 2, len(checkpoints) - 3)
        assert store.relieve_disk(each // 2)


def test_a_checkpoint_that_does_not_fit_is_left_out_and_the_rest_recorded(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.free = FLOOR_BYTES  # room for all but the tensors
    trial = toy_plan()
    shared(trial, StageStore(tmp_path).shelf(FINGERPRINT), evaluate_at=(20, 60), checkpoint_every=5)
    assert not list(tmp_path.rglob("*.pt"))
    (_, metrics), counts = shared(trial, StageStore(tmp_path).shelf(FINGERPRINT), evaluate_at=(20, 60))
    assert (counts.executed, counts.shared, len(metrics)) == (0, 60, 2)


def test_a_sweep_that_does_not_fit_is_refused_and_one_that_may_not_is_told(tmp_path: Path, disk: Disk) -> None:
    found = needs(
        folder=tmp_path / "sweeps" / "x", store=tmp_path / "stages", database=tmp_path / "m.db", steps=10**5, trials=100
    )
    told: list[str] = []
    disk.free = 10**11
    check_disk(found, tell=told.append)
    assert told == []
    disk.free = 10**9
    check_disk(found, tell=told.append)
    assert len(told) == 1
    assert "MLflow 6.4 GiB" in told[0]
    assert "pauses" in told[0]
    disk.free = FLOOR_BYTES + 1000
    with pytest.raises(UserError, match=r"needs \d+ MiB free in .*sweeps/x to begin, but there are 64 MiB"):
        check_disk(found, tell=told.append)


def test_the_command_refuses_in_one_line_and_leaves_nothing_behind(
    tmp_path: Path,
    disk: Disk,
    mlflow_store: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mlflow_store(tmp_path)
    disk.free = 1000
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["fastface-tuner", "sweep", "smoke"])
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 2
    errors = capsys.readouterr().err.strip()
    assert len(errors.splitlines()) == 1
    assert "to begin, but there are 1000 B" in errors
    assert sorted(tmp_path.rglob("*")) == before


REAL_DISK = """
import os, threading, time
from pathlib import Path
from tuner import room
from tuner.config.space_file import load_space
from tuner.curves import CurvePoint, CurveWriter, read_curve
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.stages.store import StageStore
from stages_toy import FINGERPRINT, Toy, alone, plan
from tuner.stages.runner import SharedRun
from tuner.training.loop import StepReport

room.LOOK_SECONDS = 0.02
def fill():
    with open("ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1000))
        except OSError:
            pass
ledger = Ledger.create(Path("study.journal"), plan=make_plan(load_space("smoke")))
curve = CurveWriter(Path("curve.csv"))
trial = plan(total_steps=600)
run = SharedRun(trial, build=Toy, shelf=StageStore(Path("stages")).shelf(FINGERPRINT), checkpoint_every=50)
reports, waited = [], 0
for event in run.events():
    if isinstance(event, StepReport):
        reports.append(event)
        curve.write(CurvePoint(event.step, event.loss, event.lr))
        if event.step in (100, 300):
            fill()
        while not all([run.catch_up(), curve.flush()]):
            waited += 1
            if waited % 3 == 0:
                os.unlink("ballast")
curve.close()
assert waited == 6, waited
assert reports == alone(trial)[0]
assert [point.loss for point in read_curve(Path("curve.csv"))] == [report.loss for report in reports]
assert StageStore(Path("stages")).shelf(FINGERPRINT).tree.walk(trial).stop == 600
for number in range(3):
    fill()
    assert room.shortage(Path("study.journal")) is not None
    threading.Timer(0.1, os.unlink, ["ballast"]).start()
    assert ledger.ask().number == number
    ledger.tell(number, value=0.5)
assert len(Ledger.open(Path("study.journal")).trials()) == 3
print("sound")
"""


def test_on_a_real_full_disk(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=400k tmpfs {tmp_path} && cd {tmp_path} && "
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "sh", "-c", f"{mount} true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)])}
    script = textwrap.dedent(REAL_DISK)
    command = [unshare, "-rm", "sh", "-c", f'{mount} exec "$@"', "sh", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.strip() == "sound", done.stderr
    assert "paused" in done.stderr
