"""`fastface-tuner doctor`: what data of every form is, and each thing that can be wrong with it, in one line."""

import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from records import encoded_face, payload, training_set, write_records
from test_ijb import write_ijb
from typer.testing import CliRunner

from tuner.cli.main import app
from tuner.data import checkup, image_checkup
from tuner.data.checkup import check_data
from tuner.data.findings import Checkup
from tuner.errors import UserError


def faces(root: Path, *, people: int = 5, each: int = 3, size: int = 112) -> Path:
    for person in range(people):
        folder = root / f"person{person}"
        folder.mkdir(parents=True)
        for number in range(each):
            (folder / f"{number}.png").write_bytes(encoded_face(100 * person + number, size=size))
    return root


def bin_set(path: Path, *, size: int = 112, pairs: int = 12) -> Path:
    images = [encoded_face(seed, size=size) for seed in range(2 * pairs)]
    path.write_bytes(pickle.dumps((images, [bool(number % 2) for number in range(pairs)])))
    return path


def problems(found: Checkup) -> list[str]:
    return [str(each).removeprefix("problem: ") for each in found.findings if each.problem]


def notes(found: Checkup) -> list[str]:
    return [str(each).removeprefix("note: ") for each in found.findings if not each.problem]


def test_a_good_folder_is_fit_and_told_in_plain_lines(tmp_path: Path) -> None:
    faces(tmp_path / "faces")
    done = CliRunner().invoke(app, ["doctor", str(tmp_path / "faces"), "--full"])
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0] == f"{tmp_path / 'faces'}: a folder of identities"
    assert lines[1:3] == ["5 identities, 15 images (3 each)", "image sizes, of all images: 112x112 (15)"]
    assert lines[3].startswith("decoded at 112x112: 551 KiB; ")
    assert lines[4:] == ["fit"]


def test_the_outcome_as_json(tmp_path: Path) -> None:
    (faces(tmp_path / "faces") / "person1" / "0.png").write_bytes(b"no image")
    done = CliRunner().invoke(app, ["doctor", str(tmp_path / "faces"), "--json"])
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert (found["fit"], found["identities"], found["images"], found["images_damaged"]) == (False, 5, 15, 1)
    assert found["image_sizes"] == {"112x112": 14}
    [finding] = found["findings"]
    assert finding["problem"]
    assert finding["names"] == ["person1/0.png (it is not an image)"]


@pytest.mark.parametrize("name", ["nowhere", "null\0byte", "x" * 5000])
def test_no_such_path(name: str) -> None:
    with pytest.raises(UserError, match="DATA must be a folder or file of faces"):
        check_data(Path(name))


def test_each_thing_that_is_wrong_with_a_folder_is_told_at_once(tmp_path: Path) -> None:
    root = faces(tmp_path / "faces", people=6)
    whole = (root / "person0" / "0.png").read_bytes()
    (root / "person0" / "0.png").write_bytes(whole[: len(whole) // 2])
    (root / "person1" / "1.png").write_bytes(b"")
    (root / "person1" / "2.png").unlink()
    (root / "person1" / "2.png").symlink_to(tmp_path / "gone.png")
    (root / "empty").mkdir()
    (root / "texts").mkdir()
    (root / "texts" / "readme.md").write_text("no image")
    (root / "part2.tar.gz").write_bytes(b"")
    (root / "notes.txt").write_text("")
    (root / "person2" / "inner").mkdir()
    (root / "person3" / "itself").symlink_to("itself")
    (root / "loose.png").write_bytes(whole)
    for number in (1, 2):
        (root / "person4" / f"{number}.png").unlink()
    found = check_data(root)
    assert found.numbers["identities"] == 6
    wrong = problems(found)
    assert any("2 images of 15 looked at cannot be decoded" in each for each in wrong)
    assert any("person0/0.png" in each and "person1/1.png" in each for each in wrong)
    assert "1 image that is no file: a broken link, or a device: person1/2.png" in wrong
    assert "1 folder without an image, but with other things; add images or move out: texts" in wrong
    odd = notes(found)
    assert "1 archive not unpacked; unpack what belongs to the set: part2.tar.gz" in odd
    assert "1 image in the folder itself, which belong to nobody: loose.png" in odd
    assert "1 empty folder, which is left out: empty" in odd
    assert "1 folder inside identities, which is left out: person2/inner" in odd
    assert "1 identity with one image only, of which no pair can be made: person4" in odd
    assert any("not named as an image" in each and "notes.txt" in each for each in odd)
    assert len(wrong) + len(odd) == 9


def test_copies_sizes_and_grey_images(tmp_path: Path) -> None:
    from PIL import Image

    root = faces(tmp_path / "faces", size=112)
    image = (root / "person0" / "0.png").read_bytes()
    (root / "person0" / "copy.png").write_bytes(image)
    (root / "person1" / "copy.png").write_bytes(image)
    Image.new("L", (92, 112), 100).save(root / "person2" / "grey.png")
    found = check_data(root, full=True)
    assert problems(found) == [
        "1 image the same as one of another person; remove one of each: person1/copy.png = person0/0.png"
    ]
    assert "1 image the same as another one: person0/copy.png = person0/0.png" in notes(found)
    assert any(each.startswith("1 image of 18 looked at grey") for each in notes(found))
    assert any(each.startswith("1 image of 18 looked at not 112x112, so probably not aligned") for each in notes(found))
    assert check_data(root).fit  # copies are looked for in all images only


def test_a_large_set_is_looked_at_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_checkup, "SAMPLE", 4)
    shares: list[float] = []
    found = check_data(faces(tmp_path / "faces", size=16), progress=shares.append)
    assert found.numbers["images_looked_at"] == 4
    assert "looked at 4 of 15 images; --full looks at all, also for copies" in found.facts
    assert check_data(tmp_path / "faces", full=True).numbers["images_looked_at"] == 15
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_folders_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    faces(tmp_path / "outer" / "inner", size=16)
    assert any("one folder deeper; give" in each for each in problems(check_data(tmp_path / "outer")))
    assert any("belong to nobody" in each for each in problems(check_data(tmp_path / "outer" / "inner" / "person0")))
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "faces.zip").write_bytes(b"PK")
    assert any("1 archive not unpacked" in each for each in problems(check_data(tmp_path / "packed")))
    (tmp_path / "nothing").mkdir()
    assert problems(check_data(tmp_path / "nothing")) == ["at least 4 identities are needed, but there are 0"]


def test_images_that_do_not_fit_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "free_bytes", lambda _: 1000)
    monkeypatch.setattr(checkup, "MEMORY_BYTES", 1000)
    [problem] = problems(check_data(faces(tmp_path / "faces", size=16)))
    assert problem.startswith("the decoded images take 551 KiB, but 1000 B are free")


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("vectors", [True, False])
def test_a_good_set_of_records_is_fit(tmp_path: Path, header: bool, vectors: bool) -> None:
    path, _ = training_set(tmp_path, [0, 0, 1, 1, 2, 2, 3, 3], header=header, vectors=vectors)
    for data in (path, tmp_path):
        found = check_data(data, full=True)
        assert problems(found) == []
        assert (found.numbers["identities"], found.numbers["images"]) == (4, 8)
        assert found.numbers["image_sizes"] == {"16x16": 8}


def _drop_a_line(folder: Path) -> None:
    index = folder / "train.idx"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))


def _cut(folder: Path) -> None:
    data = (folder / "train.rec").read_bytes()
    (folder / "train.rec").write_bytes(data[: len(data) - 40])


def _overlap(folder: Path) -> None:
    index = folder / "train.idx"
    lines = [line.split("\t") for line in index.read_text().splitlines()]
    lines[2][1] = str(int(lines[2][1]) + 8)
    index.write_text("".join(f"{key}\t{offset}\n" for key, offset in lines))


def _spoil_an_image(folder: Path) -> None:
    data = bytearray((folder / "train.rec").read_bytes())
    place = data.index(b"IHDR")
    data[place : place + 4] = b"XXXX"
    (folder / "train.rec").write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda folder: (folder / "train.idx").unlink(), "must be in the `.idx` file beside it"),
        (lambda folder: (folder / "train.idx").write_text("1\t2\t3\n"), "it has 3 columns"),
        (lambda folder: (folder / "train.idx").write_text("1\t999999\n"), "cannot be there"),
        (lambda folder: (folder / "property").write_text("2,16,16\n"), "`property` names 2 classes"),
        (lambda folder: (folder / "property").write_text("x\n"), "num_classes,height,width"),
        (_drop_a_line, "bytes of train.rec belong to no key of train.idx"),
        (_cut, "1 record of 8 not whole; copy the .rec and the .idx file again: key 8 at byte"),
        (_overlap, "of 8 not whole"),
        (_spoil_an_image, "1 image of 8 looked at cannot be decoded; replace or remove: key 1"),
    ],
)
def test_each_thing_that_is_wrong_with_records(tmp_path: Path, harm: Any, expected: str) -> None:
    training_set(tmp_path, [0, 0, 1, 1, 2, 2, 3, 3], header=False)
    harm(tmp_path)
    found = check_data(tmp_path, full=True)
    assert not found.fit
    assert any(expected in each for each in problems(found)), problems(found)


def test_gaps_of_labels_single_images_and_a_property_of_another_set_are_noted(tmp_path: Path) -> None:
    training_set(tmp_path, [0, 0, 2, 2, 5, 5, 9], property_file=False)
    (tmp_path / "property").write_text("20,112,112\n")
    found = check_data(tmp_path)
    assert found.fit
    assert any(each.startswith("labels go from 0 to 9, and 6 below that have no image") for each in notes(found))
    assert "1 identity with one image only, of which no pair can be made: 9" in notes(found)
    assert "property names 20 classes, but the labels make 10" in notes(found)
    assert "property names images of 112x112, but none looked at has that size" in notes(found)


def test_records_without_a_key_for_an_image_of_the_header(tmp_path: Path) -> None:
    payloads = {0: payload(b"", [5.0, 9.0]), **{key: payload(encoded_face(key), float(key)) for key in (1, 2, 4)}}
    write_records(tmp_path / "train.rec", payloads)
    assert any("key 3 is missing" in each for each in problems(check_data(tmp_path)))


def test_verification_sets_one_and_a_folder_of_them(tmp_path: Path) -> None:
    found = check_data(bin_set(tmp_path / "mine.bin"), full=True)
    assert problems(found) == notes(found) == []
    assert found.facts[0] == "24 images, 12 pairs (6 of one person)"
    bin_set(tmp_path / "lfw.bin", size=16)
    (tmp_path / "agedb_30.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    found = check_data(tmp_path)
    assert found.kind == "a folder of verification sets"
    assert any(each.startswith("agedb_30.bin: ") and "is no data" in each for each in problems(found))
    assert "lfw.bin: the published set of that name has 6,000 pairs" in notes(found)
    assert len(problems(found)) == 1


def test_a_list_of_pairs(tmp_path: Path) -> None:
    faces(tmp_path / "faces")
    lines = [f"faces/person{n % 5}/0.png faces/person{(n + n % 2) % 5}/1.png {1 - n % 2}" for n in range(12)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    found = check_data(tmp_path / "pairs.txt")
    assert (found.kind, problems(found)) == ("a list of pairs", [])
    (tmp_path / "faces" / "person0" / "0.png").unlink()
    assert any("faces/person0/0.png (No such file" in each for each in problems(check_data(tmp_path / "pairs.txt")))


def test_ijb(tmp_path: Path) -> None:
    root = write_ijb(tmp_path / "ijb")
    found = check_data(root)
    assert (found.kind, problems(found), notes(found)) == ("ijbx, 1:1", [], [])
    assert found.facts[:2] == ["8 images, 5 pairs (2 of one person)", "4 templates"]
    (root / "loose_crop" / "3.jpg").write_bytes(b"")
    assert any("loose_crop/3.jpg" in each for each in problems(check_data(root)))
    (root / "loose_crop" / "3.jpg").unlink()
    assert problems(check_data(root)) == ["1 image that the lists name not in loose_crop; unpack it again: 3.jpg"]
    (root / "meta" / "ijbx_face_tid_mid.txt").unlink()
    assert any("must hold one file `*_face_tid_mid.txt`" in each for each in problems(check_data(root)))


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".png", ".idx", ".bin", ".rec", ".txt", ".dat", ""])
@pytest.mark.parametrize("seed", range(4))
def test_no_file_makes_it_stumble(tmp_path: Path, suffix: str, seed: int) -> None:
    rng = random.Random(f"{suffix}{seed}")  # noqa: S311 - no secret
    path = tmp_path / f"file{suffix}"
    path.write_bytes([b"", b"text\n", rng.randbytes(300), b"\x80\x04" + rng.randbytes(50)][seed])
    if suffix == ".rec":
        path.with_suffix(".idx").write_bytes(b"0\t0\n" if seed % 2 else rng.randbytes(20))
    done = CliRunner().invoke(app, ["doctor", str(path)], catch_exceptions=False)
    assert done.exit_code == 1
    assert "problem" in done.output


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert not check_data(tmp_path / "pipe").fit
    os.mkfifo(faces(tmp_path / "faces", size=16) / "person0" / "pipe.png")
    assert any("person0/pipe.png" in each for each in problems(check_data(tmp_path / "faces")))
