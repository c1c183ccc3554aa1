"""RecordIO: what an encoder wrote is read back, and what is damaged is told, without reading beside the record."""

import os
import pickle
import re
import struct
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import MAGIC, encoded_face, face_pixels, framed, payload, training_set, write_records

from tuner.data.faces import FaceSet
from tuner.data.recordio import RecordFile, read_property
from tuner.data.source import load_faces
from tuner.errors import UserError

images = st.lists(st.sampled_from([MAGIC, b"\0", b"ab", b"\xff\xd8jpg!", MAGIC[:3]]), max_size=12).map(b"".join)
float32 = st.floats(width=32, allow_nan=False)
records = st.tuples(images, float32 | st.lists(float32, min_size=1, max_size=5))


@given(written=st.dictionaries(st.integers(0, 2**62), records, min_size=1, max_size=8), data=st.data())
@settings(max_examples=150, deadline=None)
def test_what_was_written_is_read_back(
    written: dict[int, tuple[bytes, float | list[float]]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Both kinds of header, split records, and an index in any order."""
    folder = tmp_path_factory.mktemp("records")
    order = data.draw(st.permutations(list(written)))
    payloads = {key: payload(image, labels, key=key) for key, (image, labels) in written.items()}
    file = RecordFile(write_records(folder / "a.rec", payloads, order=order))
    heads = file.heads()
    assert file.keys.tolist() == sorted(written)
    for row, key in enumerate(sorted(written)):
        image, labels = written[key]
        expected = labels if isinstance(labels, list) else [labels]
        record = file.read(file.row(key))
        assert (record.image, record.labels.tolist()) == (image, expected)
        assert record.flag == (len(labels) if isinstance(labels, list) else 0)
        assert (heads.sizes[row], heads.labels[row], heads.flags[row]) == (len(image), expected[0], record.flag)


def test_a_header_may_be_split(tmp_path: Path) -> None:
    """Key and labels may look like the magic number too."""
    number = struct.unpack("<f", MAGIC)[0]
    data = struct.pack("<IfQQ", 2, 0.0, 0xCED7230A, 0) + 2 * MAGIC + b"image"
    file = RecordFile(write_records(tmp_path / "a.rec", {5: data, 6: payload(b"x", 1.0)}))
    assert file.read(0).labels.tolist() == [number, number]
    assert file.read(0).image == b"image"
    assert file.heads().labels.tolist() == [number, 1.0]


def test_many_heads_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.data.recordio._ROWS_AT_ONCE", 3)
    path = write_records(tmp_path / "a.rec", {key: payload(MAGIC * (key % 2), float(key)) for key in range(10)})
    assert RecordFile(path).heads().labels.tolist() == list(range(10))


def _image_of(file: RecordFile, row: int) -> tuple[int, bytes]:
    return os.getpid(), file.read(row).image


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_file(tmp_path: Path, method: str) -> None:
    """Workers get the open file and read at the same time; a pickle of it is small, whatever the size of the set."""
    path = write_records(tmp_path / "a.rec", {key: payload(bytes([key]) * 5000, 0.0) for key in range(60)})
    file = RecordFile(path)
    assert len(pickle.dumps(file)) < 1000
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        read = list(pool.map(_image_of, [file] * 60, range(60)))
    assert [image for _, image in read] == [bytes([key]) * 5000 for key in range(60)]
    assert os.getpid() not in {process for process, _ in read}


# Damage: one line that names file, key and offset


def refuse(path: Path, *says: str) -> None:
    """Open and read all of `path`, which must end in one line that says all of this."""
    with pytest.raises(UserError) as raised:
        file = RecordFile(path)
        file.heads()
        for row in range(len(file)):
            file.read(row)
    message = str(raised.value)
    assert "\n" not in message
    for text in says:
        assert text in message, message


def three(folder: Path) -> Path:
    return write_records(folder / "set.rec", {key: payload(encoded_face(key), 1.0) for key in (1, 2, 3)})


def offset(path: Path, key: int) -> int:
    found = re.search(rf"^{key}\t(\d+)$", path.with_suffix(".idx").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_a_truncated_file_is_told(tmp_path: Path) -> None:
    path = three(tmp_path)
    size, last = path.stat().st_size, offset(path, 3)
    for length in (size - 1, size - 4, last + 40, last + 12, last + 8):
        os.truncate(path, length)
        refuse(path, f"`{path}`", "key 3", f"byte {last}", "is cut off", f"ends at byte {length}")
    for length in (last + 7, last, 5, 0):
        os.truncate(path, length)
        refuse(path, f"`{path}`", f"the file has {length} bytes")


def test_overlapping_records_are_told(tmp_path: Path) -> None:
    path = three(tmp_path)
    index, second = path.with_suffix(".idx"), offset(path, 2)
    index.write_text(f"1\t0\n2\t{second}\n7\t{second + 8}\n3\t{offset(path, 3)}\n")
    refuse(path, "key 2 at byte", f"overlaps that of key 7, which starts at byte {second + 8}")
    index.write_text(f"1\t0\n2\t{second}\n7\t{second}\n")
    refuse(path, "key 2 at byte", "overlaps that of key 7")


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (b"\0" * 40, "no magic number at byte 0"),
        (MAGIC + struct.pack("<I", 8) + b"12345678", "8 bytes, but its header takes 24"),
        (MAGIC + struct.pack("<I", 24) + struct.pack("<IfQQ", 1, 0, 0, 0), "names 1 labels"),
        (MAGIC + struct.pack("<I", 24) + struct.pack("<IfQQ", 2**32 - 1, 0, 0, 0), "names 4294967295 labels"),
        (MAGIC + struct.pack("<I", 2 << 29), "kind 2 out of order at byte 0"),
        (MAGIC + struct.pack("<I", 3 << 29), "kind 3 out of order at byte 0"),
        (MAGIC + struct.pack("<I", 7 << 29 | 24) + bytes(24), "kind 7 out of order"),
        (2 * (MAGIC + struct.pack("<I", 1 << 29)), "kind 1 out of order at byte 8"),
        (MAGIC + struct.pack("<I", 1 << 29) + framed(b""), "kind 0 out of order at byte 8"),
        (MAGIC + struct.pack("<I", 1 << 29) + 50 * (MAGIC + struct.pack("<I", 2 << 29)), "is cut off"),
        (MAGIC + struct.pack("<I", 2**29 - 1) + bytes(24), "is cut off"),
    ],
)
def test_damaged_records_are_told(tmp_path: Path, record: bytes, says: str) -> None:
    (tmp_path / "a.rec").write_bytes(record)
    (tmp_path / "a.idx").write_text("4\t0\n")
    refuse(tmp_path / "a.rec", f"`{tmp_path}/a.rec`", "key 4 at byte 0", says)


def test_a_chain_of_parts_is_not_walked_beyond_the_next_record(tmp_path: Path) -> None:
    """Many records that claim one long tail of parts would otherwise take quadratic time."""
    count = 20_000
    tail = count * (MAGIC + struct.pack("<I", 2 << 29))
    firsts = b"".join(MAGIC + struct.pack("<I", 1 << 29 | 8 * (count - 1 - i)) for i in range(count))
    (tmp_path / "a.rec").write_bytes(firsts + tail)
    (tmp_path / "a.idx").write_text("".join(f"{key}\t{8 * key}\n" for key in range(count)))
    file = RecordFile(tmp_path / "a.rec")
    for row in range(count):
        with pytest.raises(UserError, match=r"overlaps|cut off"):
            file.read(row)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (b"", "input contained no data"),
        (b"\n", "input contained no data"),
        (b"1\n", "1 columns"),
        (b"1\t0\t0\n", "3 columns"),
        (b"1\t0\n2\n", "columns changed"),
        (b"1 0\n", "could not convert"),
        (b"1\t0.5\n", "could not convert"),
        (b"1\t99999999999999999999\n", "could not convert"),
        (b"\xff\xfe\0\0", "decode"),
        (b"1\t0\n1\t80\n", "key 1 is there at least twice"),
        (b"-1\t0\n", "key -1 at byte 0 cannot be there"),
        (b"1\t-4\n", "key 1 at byte -4 cannot be there"),
        (b"1\t2\n", "key 1 at byte 2 cannot be there"),
        (b"1\t9223372036854775807\n", "key 1 at byte 9223372036854775807 cannot be there"),
        (b"1\t9223372036854775804\n", "key 1 at byte 9223372036854775804 cannot be there"),
    ],
)
def test_a_damaged_index_is_told(tmp_path: Path, index: bytes, says: str) -> None:
    path = three(tmp_path)
    path.with_suffix(".idx").write_bytes(index)
    refuse(path, "set.", says)


def test_missing_files_are_told(tmp_path: Path) -> None:
    path = three(tmp_path)
    path.with_suffix(".idx").rename(tmp_path / "else.idx")
    refuse(path, "set.idx`: No such file", "put it there")
    path.unlink()
    (tmp_path / "else.idx").rename(path.with_suffix(".idx"))
    refuse(path, f"must be in `{path}`, but No such file")


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=400, deadline=None)
def test_fuzzed_files_are_read_or_refused(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.getbasetemp() / "fuzzed.rec"
    write_records(path, {key: payload(MAGIC * int(rng.integers(3)) + b"image", 1.0) for key in range(4)})
    for file in (path, path.with_suffix(".idx")):
        data = bytearray(file.read_bytes())
        for place in rng.integers(0, len(data), rng.integers(0, 4)):
            data[place] = rng.choice(list(b"\x00\x01\x20\x60\xff\t\n0159"))
        file.write_bytes(data[: rng.integers(len(data) // 2, len(data) + 1)] if rng.random() < 0.3 else data)
    try:
        opened = RecordFile(path)
        heads = opened.heads()
        for row in range(len(opened)):
            record = opened.read(row)
            assert (heads.sizes[row], heads.flags[row]) == (len(record.image), record.flag)
    except UserError as error:
        assert "\n" not in str(error)
        assert "fuzzed." in str(error)


# Faces


def load(source: Path) -> FaceSet:
    return load_faces(str(source), image_size=16, identities=4, images_per_identity=2)


LABELS = [3, 0, 3, 1, 1, 5, 0, 5, 5]


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("header", [False, True])
def test_faces_of_a_set(tmp_path: Path, vectors: bool, header: bool) -> None:
    path, encoded = training_set(tmp_path / "set", LABELS, vectors=vectors, header=header)
    faces = load(tmp_path / "set")
    assert faces.names == ("0", "1", "3", "5")
    assert [faces.names[label] for label in faces.labels] == [str(label) for label in LABELS]
    assert np.array_equal(faces.images, np.stack([face_pixels(image) for image in encoded]))
    assert isinstance(faces.images, np.memmap)
    assert load(path).digest == faces.digest


def test_a_record_at_key_0_with_an_image_is_an_image(tmp_path: Path) -> None:
    payloads = {key: payload(encoded_face(key), float(key % 4)) for key in range(8)}
    assert len(load(write_records(tmp_path / "a.rec", payloads)).labels) == 8
    payloads[0] = payload(encoded_face(0), [1.0, 2.0])
    assert len(load(write_records(tmp_path / "b.rec", payloads)).labels) == 8


def test_a_missing_image_of_the_header_is_told(tmp_path: Path) -> None:
    path, _ = training_set(tmp_path, LABELS)
    lines = path.with_suffix(".idx").read_text().splitlines(keepends=True)
    path.with_suffix(".idx").write_text("".join(line for line in lines if not line.startswith("4\t")))
    with pytest.raises(UserError, match=r"train\.idx` must name every record, but key 4 is missing"):
        load(path)
    path.with_suffix(".idx").write_text("".join(lines[:6]))
    with pytest.raises(UserError, match="key 6 is missing"):
        load(path)


def test_a_header_beyond_float32_is_corrected_by_the_keys() -> None:
    """20,000,001 images: the header says 20,000,002 as 20,000,002 +- 2; the first record without an image decides."""
    from tuner.data import records as records_module
    from tuner.data.recordio import Heads

    class Keys:
        def __init__(self, count: int) -> None:
            self.keys = np.arange(count)

        def __len__(self) -> int:
            return len(self.keys)

    for num_images in (2**24 + 2, 20_000_001):
        file = Keys(num_images + 9)
        sizes = np.zeros(len(file), dtype=np.int8)
        sizes[1 : num_images + 1] = 1
        ones = np.broadcast_to(np.int64(2), len(file))
        label = np.broadcast_to(np.float32(num_images + 1), len(file))
        rows = records_module._image_rows(file, Heads(label, ones, sizes))  # type: ignore[arg-type]
        assert (rows[0], rows[-1], len(rows)) == (1, num_images, num_images)


@pytest.mark.parametrize("label", [-1.0, 0.5, float("nan"), float("inf")])
def test_labels_number_identities(tmp_path: Path, label: float) -> None:
    payloads = {key: payload(encoded_face(key), float(key % 4)) for key in range(1, 9)}
    payloads[3] = payload(encoded_face(3), label)
    with pytest.raises(UserError, match=r"key 3 at byte \d+ has the label .*, which numbers no identity"):
        load(write_records(tmp_path / "a.rec", payloads))


def test_an_image_that_does_not_decode_is_told(tmp_path: Path) -> None:
    payloads = {key: payload(encoded_face(key), float(key % 4)) for key in range(1, 9)}
    payloads[3] = payload(encoded_face(3)[:-30], 1.0)
    path = write_records(tmp_path / "a.rec", payloads)
    with pytest.raises(UserError, match=rf"key 3 at byte {offset(path, 3)} holds an image that does not decode \(.+\)"):
        load(path)
    payloads[3] = payload(b"", 1.0)
    with pytest.raises(UserError, match=r"key 3 at byte \d+ holds no image"):
        load(write_records(tmp_path / "b.rec", payloads))


def test_the_property_file_is_checked(tmp_path: Path) -> None:
    path, _ = training_set(tmp_path, LABELS)
    assert read_property(tmp_path / "property") == (6, 16, 16)
    (tmp_path / "property").write_text("6,16,16\nmore\n")
    load(path)
    (tmp_path / "property").write_text("5,16,16\n")
    with pytest.raises(UserError, match=r"key 6 at byte \d+ has the label 5, but `property` names 5 classes"):
        load(path)
    for text in ("", "6,16", "6,16,16,1", "a,b,c", "0,16,16", "\xff"):
        (tmp_path / "property").write_text(text)
        with pytest.raises(UserError, match="must be `num_classes,height,width`"):
            load(path)


def test_a_changed_set_is_read_again(tmp_path: Path) -> None:
    path, _ = training_set(tmp_path, LABELS)
    before = load(path).digest
    training_set(tmp_path, [*LABELS, 5])
    assert len(load(path).labels) == len(LABELS) + 1
    assert load(path).digest != before


def test_too_few_identities_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"at least 4 identities are needed.* holds 2"):
        load(training_set(tmp_path, [0, 1, 0, 1])[0])
