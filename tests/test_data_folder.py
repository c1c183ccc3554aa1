"""Faces from a folder: what is found, in which order, how it is decoded, and what is said of folders that do not do."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from tuner.data import folder as folder_module
from tuner.data.faces import FaceSet
from tuner.data.folder import IMAGE_SUFFIXES, decode
from tuner.data.source import load_faces
from tuner.errors import UserError

ORL = Path(__file__).parents[1].parent / "shared" / "data" / "orl_faces"


def picture(seed: int, *, size: tuple[int, int] = (20, 20)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BOX)


def make_root(root: Path, *, identities: int = 4, images: int = 3, suffix: str = "png") -> Path:
    for identity in range(identities):
        (root / f"p{identity}").mkdir(parents=True)
        for image in range(images):
            picture(100 * identity + image).save(root / f"p{identity}" / f"{image}.{suffix}")
    return root


def load(root: Path, *, size: int = 16) -> FaceSet:
    return load_faces(str(root), image_size=size, identities=4, images_per_identity=2)


def test_images_and_labels_follow_the_sorted_names(tmp_path: Path) -> None:
    root = tmp_path / "faces"
    for name in ("b", "a", "Ünal", "c 1", "é"):
        (root / name).mkdir(parents=True)
        for image in ("2.PNG", "10.png", "1.jpg"):
            picture(len(name) + len(image)).save(root / name / image)
    faces = load(root)
    assert faces.names == ("a", "b", "c 1", "Ünal", "é")
    assert faces.labels.tolist() == [label for label in range(5) for _ in range(3)]
    assert faces.source == str(root)
    expected = [decode(root / "a" / name, image_size=16) for name in ("1.jpg", "10.png", "2.PNG")]
    assert np.array_equal(faces.images[:3], np.stack(expected))


def test_the_order_of_the_file_system_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_root(tmp_path / "faces")
    first = load(root)
    plain = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(plain(self), reverse=True)))
    again = load_faces(str(root), image_size=16, identities=4, images_per_identity=2, cache=tmp_path / "other")
    assert again.digest == first.digest


def test_what_is_no_image_of_an_identity_is_ignored(tmp_path: Path) -> None:
    root = make_root(tmp_path / "faces")
    expected = load(root)
    picture(0).save(root / "in_the_root.png")
    (root / "p0" / "notes.txt").write_text("not an image")
    (root / "p0" / "._0.png").write_text("left by another system")
    (root / "p0" / "deeper.png").mkdir()
    (root / ".hidden").mkdir()
    (root / ".hidden" / "a.txt").write_text("x")
    (root / "empty").mkdir()
    faces = load(root)
    assert faces.names == expected.names
    assert faces.digest == expected.digest


def test_links_are_followed(tmp_path: Path) -> None:
    root = make_root(tmp_path / "elsewhere")
    links = tmp_path / "links"
    links.mkdir()
    for identity in ("p0", "p1", "p2"):
        (links / identity).symlink_to(root / identity)
    (links / "p3").mkdir()
    for image in (root / "p3").iterdir():
        (links / "p3" / image.name).symlink_to(image)
    assert load(links).digest == load(root).digest


def test_a_cached_folder_is_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_root(tmp_path / "faces")
    calls: list[tuple[int, int]] = []
    first = load_faces(
        str(root), image_size=16, identities=4, images_per_identity=2, progress=lambda *done: calls.append(done)
    )
    assert calls == [(12, 12)]

    def refuse(path: Path, *, image_size: int) -> None:
        raise AssertionError(f"{path} was decoded again")

    monkeypatch.setattr(folder_module, "decode", refuse)
    second = load(root)
    assert np.array_equal(first.images, second.images)
    assert first.digest == second.digest
    with pytest.raises(AssertionError, match="decoded again"):
        load(root, size=32)


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    root = make_root(tmp_path / "faces", suffix="bmp")
    before = load(root)
    status = (root / "p1" / "1.bmp").stat()
    picture(999).save(root / "p1" / "1.bmp")
    os.utime(root / "p1" / "1.bmp", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert (root / "p1" / "1.bmp").stat().st_size == status.st_size
    after = load(root)
    assert after.digest != before.digest
    changed = [index for index in range(12) if not np.array_equal(after.images[index], before.images[index])]
    assert changed == [4]
    (root / "p1" / "1.bmp").unlink()
    assert len(load(root).labels) == 11


# Decoding


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES - {".pgm"}))
def test_every_format_decodes(suffix: str, tmp_path: Path) -> None:
    gradient = np.linspace(0, 255, 32, dtype=np.uint8)[None, :, None].repeat(32, 0).repeat(3, 2)
    Image.fromarray(gradient).save(tmp_path / f"face{suffix}")
    assert np.abs(decode(tmp_path / f"face{suffix}", image_size=32).astype(int) - gradient).max() < 12


def test_greyscale_of_8_and_16_bits_becomes_rgb(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "face.pgm")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "face.png")
    (tmp_path / "deep.pgm").write_bytes(b"P5 16 16 65535\n" + (grey.astype(">u2") * 257).tobytes())
    for name in ("face.pgm", "face.png", "deep.pgm"):
        assert np.array_equal(decode(tmp_path / name, image_size=16), grey[..., None].repeat(3, -1)), name


def test_the_largest_centred_square_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2).copy()).save(tmp_path / "tall.png")
    for name in ("wide.png", "tall.png"):
        assert np.array_equal(decode(tmp_path / name, image_size=5), np.full((5, 5, 3), 200)), name


def test_the_camera_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    turned = image.getexif()
    turned[274] = 3  # upside down
    image.save(tmp_path / "face.png", exif=turned)
    assert np.array_equal(decode(tmp_path / "face.png", image_size=8), np.asarray(image)[::-1, ::-1])


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_a_truncated_image_is_named(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another library told Pillow to fill up truncated images."""
    root = make_root(tmp_path / "faces")
    path = root / "p2" / f"broken{suffix}"
    picture(1, size=(64, 64)).convert("L" if suffix == ".pgm" else "RGB").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UserError, match=r"every image must decode to its end, but .*broken.*; replace") as raised:
        load(root)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_no_image_is_named(content: bytes, tmp_path: Path) -> None:
    root = make_root(tmp_path / "faces")
    (root / "p2" / "7.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"p2/7\.jpg"):
        load(root)


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    root = make_root(tmp_path / "faces")
    (root / "p2" / "7.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match=r"p2/7\.jpg` does not \(No such file"):
        load(root)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on damaged TIFF tags
def test_damaged_bytes_decode_or_are_refused(tmp_path: Path) -> None:
    """Whatever a file holds, the user sees an image or one clear line, never a traceback from the decoder."""
    rng = np.random.default_rng(0)
    for suffix, mode in (("jpg", "RGB"), ("png", "P"), ("pgm", "L"), ("bmp", "RGB"), ("tif", "RGB"), ("webp", "RGB")):
        buffer = io.BytesIO()
        kind = {"jpg": "JPEG", "pgm": "PPM", "tif": "TIFF"}.get(suffix, suffix.upper())
        picture(3).convert(mode).save(buffer, kind)
        sound = buffer.getvalue()
        for _ in range(60):
            data = bytearray(sound)
            for place in rng.integers(0, min(len(data), 200), rng.integers(1, 6)):
                data[place] = rng.integers(0, 256)
            path = tmp_path / f"damaged.{suffix}"
            path.write_bytes(data)
            try:
                assert decode(path, image_size=16).shape == (16, 16, 3)
            except UserError as error:
                assert "\n" not in str(error)


# Folders that do not do


def test_folders_that_do_not_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`.*nowhere` does not exist; give the path"):
        load(tmp_path / "nowhere")
    (tmp_path / "file.zip").write_text("x")
    with pytest.raises(UserError, match=r"`.*file\.zip` is a file; give the folder"):
        load(tmp_path / "file.zip")
    (tmp_path / "nobody").mkdir()
    with pytest.raises(UserError, match=r"at least 4 identities are needed.*holds 0"):
        load(tmp_path / "nobody")
    with pytest.raises(UserError, match=r"at least 4 identities are needed.*holds 1"):
        load(make_root(tmp_path / "one", identities=1))
    picture(0).save(tmp_path / "nobody" / "0.png")
    with pytest.raises(UserError, match="images in the root belong to nobody"):
        load(tmp_path / "nobody")


def test_an_identity_without_images_is_named(tmp_path: Path) -> None:
    root = make_root(tmp_path / "faces")
    (root / "p9").mkdir()
    (root / "p9" / "0.gif").write_text("not read")
    with pytest.raises(UserError, match=r"`.*p9` has none; add images or move it out"):
        load(root)


def test_a_folder_one_level_too_high_is_named(tmp_path: Path) -> None:
    make_root(tmp_path / "sets" / "train")
    with pytest.raises(UserError, match=r"`.*train` has none"):
        load(tmp_path / "sets")


@pytest.mark.skipif(not ORL.is_dir(), reason="The Database of Faces (AT&T Laboratories Cambridge) is not beside us")
def test_the_database_of_faces() -> None:
    faces = load(ORL, size=48)
    assert faces.num_identities == 40
    assert faces.images.shape == (400, 48, 48, 3)
    assert np.bincount(faces.labels).tolist() == [10] * 40
    assert faces.names[:3] == ("s1", "s10", "s11")
    assert (faces.images == faces.images[..., :1]).all()  # greyscale
    assert 80 < faces.images.mean() < 140
