"""Every file that a sweep leaves behind: damaged or foreign, it is named, and never taken for a fresh start."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from stages_toy import FINGERPRINT, alone, plan, quick_disk, shared  # noqa: F401
from test_ledger import plan_of, run

from tuner.analysis.sharing import Verification, read_verification, write_verification
from tuner.curves import CurvePoint, CurveWriter, read_curve
from tuner.errors import UserError
from tuner.evaluations import EvaluationWriter, read_evaluations
from tuner.search.ledger import Ledger
from tuner.stages.store import StageStore
from tuner.sweep.folder import SweepDescription, SweepFolder


def sweep_yaml(folder: Path) -> tuple[Path, Callable[[], object]]:
    sweep = SweepFolder(folder)
    sweep.write(SweepDescription(name="first", trials=3, tracking_uri="sqlite:///x.db", parent_run_id="abc"))
    return sweep.description, sweep.read


def study_journal(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / "study.journal"
    run(Ledger.create(path, plan=plan_of()), 2)
    return path, lambda: Ledger.open(path).trials()


def curve_csv(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / "curve.csv"
    with CurveWriter(path) as curve:
        for step in range(50):
            curve.write(CurvePoint(step, 1 / (step + 1), 0.1, step / 7))
    return path, lambda: read_curve(path)


def evaluations_jsonl(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / "evaluations.jsonl"
    with EvaluationWriter(path) as evaluations:
        for steps in (10, 20, 30):
            evaluations.write(steps, {"accuracy": steps / 70})
    return path, lambda: read_evaluations(path)


def verify_json(folder: Path) -> tuple[Path, Callable[[], object]]:
    write_verification(folder, Verification(trials=(), deterministic=True))
    return folder / "verify.json", lambda: read_verification(folder)


FILES = (sweep_yaml, study_journal, curve_csv, evaluations_jsonl, verify_json)


@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("damage", ["zeros", "foreign", "binary", "middle", "version"])
def test_a_damaged_or_foreign_file_is_an_error_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], tuple[Path, Callable[[], object]]], damage: str
) -> None:
    path, read = make(tmp_path)
    content = path.read_bytes()
    assert read() is not None
    middle = len(content) // 2
    match damage:
        case "zeros":
            changed = bytes(len(content)) + b"\n"
        case "foreign":
            changed = b"name,value\nx,1\ny,2\nz,3\n"
        case "binary":
            changed = b"\x89PNG\r\n\x1a\n\xff\xfe\n\n\n"
        case "middle":
            changed = content[:middle] + b"\x00\xff\x00" + content[middle + 3 :]
        case _:
            changed = content.replace(b'"format": 1', b'"format": 7').replace(b"format: 1", b"format: 7")
            changed = changed.replace(b'"format":1', b'"format":7').replace(b"step,loss", b"steps,loss")
    assert changed != content
    path.write_bytes(changed)
    with pytest.raises((UserError, ValueError)) as caught:
        read()
    if isinstance(caught.value, UserError):  # the readers of curves say the line, their callers the file
        assert str(path) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    else:
        assert "line" in str(caught.value)
    assert path.read_bytes() == changed


def test_a_sweep_that_is_there_is_never_begun_again(tmp_path: Path) -> None:
    path, _ = sweep_yaml(tmp_path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        sweep_yaml(tmp_path)
    assert path.read_bytes() == before
    path.write_bytes(b"\x00")
    with pytest.raises(UserError, match="first"):
        SweepFolder(tmp_path).check_free("first")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_steps_of_other_runs_are_not_served_under_a_folder_that_was_renamed(tmp_path: Path) -> None:
    other = StageStore(tmp_path).shelf({"workload": "other"})
    shared(plan(), other)
    shutil.move(other.folder, StageStore(tmp_path).root / "kept")
    shelf = StageStore(tmp_path).shelf(FINGERPRINT)
    shutil.move(tmp_path / "kept", shelf.folder)
    with pytest.raises(UserError, match=r"fingerprint\.json must describe"):
        StageStore(tmp_path).shelf(FINGERPRINT)


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"{}", b'{"format": 1, "checksum": 5}'])
def test_a_damaged_note_of_what_a_shelf_holds_is_told_and_written_again(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    shared(plan(), StageStore(tmp_path).shelf(FINGERPRINT))
    (path,) = tmp_path.rglob("fingerprint.json")
    before = path.read_bytes()
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        shelf = StageStore(tmp_path).shelf(FINGERPRINT)
    assert f"{path} is damaged" in caplog.text
    assert path.read_bytes() == before
    assert json.loads(before)["fingerprint"] == FINGERPRINT
    result, counts = shared(plan(), shelf)
    assert (result, counts.executed) == (alone(plan()), 0)
