"""Whatever happens to a process or a disk: no wrong state is ever served, and what is damaged is dropped and told."""

import errno
import json
import logging
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import time
import zlib
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stages_toy import FINGERPRINT, Toy, alone, decaying, plan, quick_disk, shared  # noqa: F401

from tuner.stages.files import ROW_BYTES
from tuner.stages.recorder import Recorder
from tuner.stages.runner import SharedRun
from tuner.stages.shelf import Shelf
from tuner.stages.store import StageStore
from tuner.stages.tree import Plan
from tuner.stages.upkeep import prune, summaries

EVALUATE_AT = (20, 60)
TRIALS = (decaying(9), decaying(3), decaying(3, factor=3.0), plan("multi_step", {"milestones": "31"}))
NEXT_TRIALS = (*TRIALS[1:], decaying(4), decaying(9, total_steps=61))
EXPECTED = [alone(trial, EVALUATE_AT) for trial in NEXT_TRIALS]


def open_shelf(folder: Path) -> Shelf:
    return StageStore(folder).shelf(FINGERPRINT)


def run_all(folder: Path) -> None:
    """Run all trials as a process does that has just started; each must give what it gives alone."""
    shelf = open_shelf(folder)
    for trial, expected in zip(NEXT_TRIALS, EXPECTED, strict=True):
        shelf.refresh()
        result, counts = shared(trial, shelf, EVALUATE_AT)
        assert result == expected
        assert counts.executed - counts.repeated + counts.shared == trial.total_steps


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store that some trials have filled."""
    folder = tmp_path_factory.mktemp("filled")
    for trial in TRIALS:
        shared(trial, open_shelf(folder), EVALUATE_AT, checkpoint_every=10)
    return folder


def copy(filled: Path, folder: str) -> list[Path]:
    """Copy a store, and return its files in a fixed order."""
    shutil.copytree(filled, folder, dirs_exist_ok=True)
    return sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.stat().st_size)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_damage_to_any_file_is_found_and_made_good(filled: Path, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        files = copy(filled, folder)
        # Stage ids are different in each session; file names are not.
        kind = data.draw(st.sampled_from(sorted({path.suffix for path in files})))
        files = [path for path in files if path.suffix == kind]
        path = files[data.draw(st.integers(0, len(files) - 1))]
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "truncate", "delete", "append", "zeros", "another"])):
            case "flip":
                content[place] ^= 1 << data.draw(st.integers(0, 7))
            case "truncate":
                del content[place:]
            case "append":
                content += bytes(data.draw(st.binary(min_size=1, max_size=40)))
            case "zeros":  # as after a power cut
                content[place:] = bytes(len(content) - place)
            case "another":
                content[:] = files[data.draw(st.integers(0, len(files) - 1))].read_bytes()
            case "delete":
                path.unlink()
        if path.exists():
            path.write_bytes(content)
        run_all(Path(folder))


@pytest.mark.parametrize("kind", ["stage.json", "steps.bin", "20.json", "*.pt"])
def test_damage_is_told_with_the_name_of_the_file(
    filled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    copy(filled, str(tmp_path))
    damaged = sorted(tmp_path.rglob(kind))
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 8
        path.write_bytes(content)
    run_all(tmp_path)
    told = [path for path in damaged if f"{path}" in caplog.text]
    assert told
    if kind in ("20.json", "*.pt"):
        assert not any(path.exists() and path.read_bytes() == content for path in told)


@pytest.mark.parametrize(
    "kind",
    ["fingerprint.json", "register.jsonl", "savings.jsonl", "stage.json", "steps.bin", "20.json", "*.pt"],
)
@pytest.mark.parametrize("damage", ["nested", "folder"])
def test_what_can_neither_be_read_nor_parsed_is_damage_too(
    filled: Path, tmp_path: Path, kind: str, damage: str
) -> None:
    copy(filled, str(tmp_path))
    for path in sorted(tmp_path.rglob(kind)):
        if damage == "nested":
            path.write_bytes(b"[" * 200_000 + b"\n")
        else:
            path.unlink()
            path.mkdir()
    run_all(tmp_path)
    assert len(summaries(StageStore(tmp_path))) == 1
    prune(StageStore(tmp_path), checkpoint_bytes=0)
    run_all(tmp_path)


def test_a_number_of_the_register_that_is_no_number_is_damage(filled: Path, tmp_path: Path) -> None:
    copy(filled, str(tmp_path))
    for path in tmp_path.rglob("register.jsonl"):
        path.write_text(path.read_text().replace("60", "1e999"))
    run_all(tmp_path)


def test_rows_after_a_damaged_one_are_dropped_and_what_branched_off_them(
    filled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy(filled, str(tmp_path))
    first = min(tmp_path.rglob("steps.bin"))
    content = bytearray(first.read_bytes())
    content[5 * ROW_BYTES + 6] ^= 1
    first.write_bytes(content)
    assert open_shelf(tmp_path).tree.walk(TRIALS[0]).stop == 5
    assert "the row of step 5 is damaged" in caplog.text
    assert "steps before it are lost" in caplog.text
    run_all(tmp_path)


def test_a_checkpoint_under_the_name_of_another_is_not_served(
    filled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy(filled, str(tmp_path))
    for folder in tmp_path.rglob("checkpoints"):
        steps = sorted(folder.iterdir(), key=lambda path: int(path.name.split("-")[0]))
        for path, name in [(path, path.name.partition("-")[2]) for path in steps]:
            path.rename(folder / f"{int(path.name.split('-')[0]) - 1}-{name}")
    run_all(tmp_path)
    assert "holds another state" in caplog.text


def test_a_number_that_changed_in_an_evaluation_is_noticed(
    filled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy(filled, str(tmp_path))
    for path in tmp_path.rglob("evaluations/*.json"):
        path.write_text(path.read_text().replace('"seen": ', '"seen": 1'))
    run_all(tmp_path)
    assert "this evaluation is dropped" in caplog.text


def test_a_checkpoint_that_holds_a_pickled_object_is_not_run(
    filled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "attacked"),)

    store = tmp_path / "store"
    copy(filled, str(store))
    content = pickle.dumps({"state": Attack()}, protocol=2)
    for path in store.rglob("*.pt"):
        name = f"{path.name.split('-')[0]}-{len(content)}-{zlib.crc32(content):08x}.pt"
        path.with_name(name).write_bytes(content)
        path.unlink()
    run_all(store)
    assert not (tmp_path / "attacked").exists()
    assert "cannot be read" in caplog.text


@given(st.integers(0, 140), st.booleans())
@settings(max_examples=12, deadline=None)
def test_on_a_full_disk_training_goes_on_and_nothing_wrong_is_left(room: int, rows_fail: bool) -> None:
    left = room

    def use_room(_: int = 0) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def limited(recorder: Recorder, **row: float) -> None:
        use_room()
        append(recorder, **row)

    append = Recorder.append
    with TemporaryDirectory() as folder:
        with pytest.MonkeyPatch.context() as patch:
            if rows_fail:
                patch.setattr(Recorder, "append", limited)
            else:
                patch.setattr(os, "fsync", use_room)
            run_all(Path(folder))
        run_all(Path(folder))


def test_a_file_that_the_system_cuts_short_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The limit on a file's size is a full disk as the system makes it: the row in the middle is written in part."""
    trial = plan("constant")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (25 * ROW_BYTES + 7, hard))
    try:
        result, _ = shared(trial, open_shelf(tmp_path), checkpoint_every=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result == alone(trial)
    assert caplog.text.count("training goes on") == 1
    assert open_shelf(tmp_path).tree.walk(trial).stop == 25
    assert "is unfinished" not in caplog.text
    run_all(tmp_path)


def test_a_store_that_cannot_be_made_is_told_once_a_trial(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder")
    run_all(tmp_path / "file" / "store")
    assert caplog.text.count("training goes on") == len(NEXT_TRIALS)


def test_what_a_killed_process_left_half_written_is_swept(filled: Path, tmp_path: Path) -> None:
    copy(filled, str(tmp_path))
    shelf = open_shelf(tmp_path)
    (shelf.folder / "scratch" / "tmp1").write_bytes(b"half")
    shelf.refresh()
    assert (shelf.folder / "scratch" / "tmp1").exists()  # It may be of this moment.
    os.utime(shelf.folder / "scratch" / "tmp1", (time.time() - 60,) * 2)
    shelf.refresh()
    assert not (shelf.folder / "scratch" / "tmp1").exists()


def _run_for_ever(folder: str, ready: Connection) -> None:
    """Run trials that write all the time, until somebody kills this process."""
    logging.disable()
    shelf = open_shelf(Path(folder))
    ready.send(None)
    for number in range(10**6):
        trial: Plan = NEXT_TRIALS[number % len(NEXT_TRIALS)]
        shelf.refresh()
        for _ in SharedRun(trial, build=Toy, shelf=shelf, evaluate_at=EVALUATE_AT, checkpoint_every=1).events():
            pass


def test_processes_killed_at_any_moment_leave_nothing_wrong(tmp_path: Path) -> None:
    moments = random.Random(0)  # noqa: S311 - no secret
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hypothesis", "pytest", "tuner.stages.runner"])
    for round_ in range(6):
        store = tmp_path / str(round_ // 2)
        processes = []
        for _ in range(2):  # two at once on one store
            here, there = context.Pipe()
            process = context.Process(target=_run_for_ever, args=(str(store), there), daemon=True)
            process.start()
            processes.append((process, here))
        for _, here in processes:
            assert here.poll(60)
        time.sleep(moments.uniform(0, 0.15))
        for process, _ in processes:
            process.kill()
            process.join()
    for store in tmp_path.iterdir():
        run_all(store)
        for line in (next(store.iterdir()) / "savings.jsonl").read_text().splitlines():
            assert json.loads(line)["shared"] >= 0
