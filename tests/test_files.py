"""State files: a growing one gets every line once, a record is whole or not there, and damage says where."""

import errno
import os
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.curves import CurvePoint, CurveReader, CurveWriter, read_curve
from tuner.errors import UserError
from tuner.files import GrowingFile, read_record, write_record, write_whole


def full_disk(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@given(st.lists(st.text("ab", max_size=9), max_size=30), st.data())
@settings(max_examples=60, deadline=None)
def test_a_growing_file_gets_every_line_once_whatever_part_of_it_the_disk_takes(
    lines: list[str], data: st.DataObject
) -> None:
    write = os.write

    def moody(descriptor: int, content: bytes) -> int:
        part = data.draw(st.integers(0, len(content)))
        return write(descriptor, content[:part]) if part else full_disk()

    with TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tuner.files._BLOCK", 16)
            patch.setattr(os, "write", moody)
            file = GrowingFile(path)
            for line in lines:
                file.write(f"{line}\n")
                written = path.read_text()
                assert "".join(f"{line}\n" for line in lines).startswith(written)
            if data.draw(st.booleans()):  # there is room in the end
                patch.undo()
            file.close()
        written = path.read_text()
        assert written == "" or written.endswith("\n")
        assert "".join(f"{line}\n" for line in lines).startswith(written)
        file = GrowingFile(path)
        file.write("anew\n")
        file.close()
        file.close()
        assert path.read_text() == "anew\n"


def test_what_is_missing_at_the_end_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with CurveWriter(tmp_path / "curve.csv") as curve:
        curve.write(CurvePoint(0, 1.5, 0.1))
        assert curve.flush()
        curve.write(CurvePoint(1, 1.25, 0.1))
        monkeypatch.setattr(os, "write", full_disk)
        assert not curve.flush()
    assert read_curve(tmp_path / "curve.csv") == [CurvePoint(0, 1.5, 0.1)]
    assert f"{tmp_path / 'curve.csv'}: the disk is full" in caplog.text


def test_one_process_at_a_time_writes_a_file_and_the_next_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = GrowingFile(tmp_path / "file")
    first.write("first\n")
    first.flush()
    monkeypatch.setattr("tuner.files.LOCK_SECONDS", 0.15)
    with pytest.raises(UserError, match="another one does"):
        GrowingFile(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "first\n"
    monkeypatch.setattr("tuner.files.LOCK_SECONDS", 20.0)
    threading.Timer(0.2, first.close).start()
    second = GrowingFile(tmp_path / "file")
    second.write("second\n")
    second.close()
    assert (tmp_path / "file").read_text() == "second\n"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"step,loss\n0,1.5\n", "line 1"),
        (b"step,loss,lr,detector_response\n0,1.5,0.1,\n1,x,0.1,\n", "line 3"),
        (b"step,loss,lr,detector_response\n0,1.5,0.1,\n2,1.5,0.1,\n", "line 3"),
        (b"step,loss,lr,detector_response\n0,1.5\n", "line 2"),
        (b"\x00\x00\n", "line 1"),
    ],
)
def test_a_file_that_is_no_curve_says_where(tmp_path: Path, content: bytes, place: str) -> None:
    (tmp_path / "curve.csv").write_bytes(content)
    with pytest.raises(ValueError, match=place):
        CurveReader(tmp_path / "curve.csv").read_new()


def test_a_record_is_replaced_whole_or_not_at_all_and_checked_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    with pytest.raises(FileNotFoundError):
        read_record(path, kind="test")
    write_record(path, {"value": 0.1 + 0.2}, kind="test")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            write_record(path, {"value": 2.0}, kind="test")
    assert read_record(path, kind="test") == {"value": 0.1 + 0.2}
    with pytest.raises(FileExistsError):
        write_whole(path, b"other", new=True)
    assert list(tmp_path.iterdir()) == [path]
    for content, reason in (
        (path.read_bytes().replace(b"0.3", b"0.4"), "damaged"),
        (path.read_bytes()[:20], "damaged"),
        (b"[]", "damaged"),
        (path.read_bytes().replace(b'"test"', b'"best"'), "another program"),
        (path.read_bytes().replace(b'"format": 1', b'"format": 2'), "must have format 1, but has 2"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=reason) as refused:
            read_record(path, kind="test")
        assert str(path) in str(refused.value)
