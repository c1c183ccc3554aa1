"""IJB 1:1: the text files, the alignment, and template figures equal to a reference that follows the protocol."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_curve
from sklearn.preprocessing import normalize

from tuner.data.decoder import UndecodableError
from tuner.data.ijb import TEMPLATE_POINTS, aligned_crop, load_ijb, similarity
from tuner.errors import UserError
from tuner.training.templates import (
    FARS,
    pair_similarities,
    tar_at_nearest_far,
    tar_of_templates,
    template_embeddings,
    verify_templates,
)

# Image, template, medium, detector score: templates out of order, media shared by templates, a video of three frames.
IMAGES = [
    ("1.jpg", 7, 100, 0.9),
    ("2.jpg", 7, 100, 0.8),
    ("3.jpg", 3, 100, 1.0),
    ("4.jpg", 7, 101, 0.5),
    ("5.jpg", 40, 102, 0.7),
    ("6.jpg", 3, 100, 0.6),
    ("7.jpg", 3, 100, 0.3),
    ("8.jpg", 5, 103, 0.95),
]
PAIRS = [(7, 3, 1), (3, 40, 0), (40, 5, 1), (5, 7, 0), (7, 40, 0)]


def write_ijb(root: Path, *, meta: str = "meta") -> Path:
    """Write a set of the published layout, with crops that hold their face at other places and sizes."""
    folder = root / meta
    folder.mkdir(parents=True, exist_ok=True)
    (root / "loose_crop").mkdir(exist_ok=True)
    (folder / "ijbx_face_tid_mid.txt").write_text("".join(f"{n} {t} {m}\n" for n, t, m, _ in IMAGES))
    (folder / "ijbx_template_pair_label.txt").write_text("".join(f"{a} {b} {s}\n" for a, b, s in PAIRS))
    lines = []
    for number, (name, _, _, score) in enumerate(IMAGES):
        points = TEMPLATE_POINTS * (1 + 0.1 * number) + number
        lines.append(" ".join([name, *(f"{value:.4f}" for value in points.reshape(-1)), f"{score}"]))
        pixels = np.random.default_rng(number).integers(0, 256, (130 + 9 * number, 140, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "loose_crop" / name)
    (folder / "ijbx_name_5pts_score.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("meta", ["meta", "."])
def test_the_text_files_are_read(tmp_path: Path, meta: str) -> None:
    faces = load_ijb(write_ijb(tmp_path, meta=meta))
    ids = np.array([3, 5, 7, 40])
    assert faces.name == "ijbx"
    assert faces.num_templates == 4
    assert ids[faces.template].tolist() == [t for _, t, _, _ in IMAGES]
    assert faces.medium.tolist() == [m for _, _, m, _ in IMAGES]
    assert faces.scores.tolist() == [s for _, _, _, s in IMAGES]
    assert np.allclose(faces.points[0], TEMPLATE_POINTS, atol=1e-4)
    assert faces.files[2] == tmp_path / "loose_crop" / "3.jpg"
    assert ids[faces.pairs.left].tolist() == [a for a, _, _ in PAIRS]
    assert ids[faces.pairs.right].tolist() == [b for _, b, _ in PAIRS]
    assert faces.pairs.same.tolist() == [s == 1 for _, _, s in PAIRS]
    assert sum(len(block) for block in faces.crops()) == len(IMAGES)


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("ijbx_face_tid_mid.txt", "9.jpg 7", "must hold 3 fields"),
        ("ijbx_face_tid_mid.txt", "9.jpg", "must hold 3 fields"),
        ("ijbx_face_tid_mid.txt", "9.jpg a b", "must hold 3 fields"),
        ("ijbx_face_tid_mid.txt", "9.jpg 7 1", "same images in the same order"),
        ("ijbx_name_5pts_score.txt", "9.jpg" + " 1" * 10, "must hold 12 fields"),
        ("ijbx_name_5pts_score.txt", "9.jpg" + " nan" * 11, "same images"),
        ("ijbx_template_pair_label.txt", "7 3", "must hold 3 fields"),
        ("ijbx_template_pair_label.txt", "7 3 2", "must be 1 or 0"),
        ("ijbx_template_pair_label.txt", "7 8 1", "template 8 has none"),
        ("ijbx_template_pair_label.txt", "99999 7 1", "template 99999 has none"),
        ("ijbx_template_pair_label.txt", "\x00\x80", "must hold 3 fields"),
    ],
)
def test_damaged_text_files_are_told(tmp_path: Path, file: str, line: str, says: str) -> None:
    root = write_ijb(tmp_path)
    with (root / "meta" / file).open("a") as opened:
        opened.write(line + "\n")
    with pytest.raises(UserError, match=says) as raised:
        load_ijb(root)
    assert "\n" not in str(raised.value)


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must hold one file `\*_face_tid_mid\.txt`, .* holds 0"):
        load_ijb(tmp_path)
    root = write_ijb(tmp_path)
    (root / "meta" / "ijbx_template_pair_label.txt").write_text("")
    with pytest.raises(UserError, match=r"pair_label\.txt` must hold 3 fields, but .*no data"):
        load_ijb(root)
    write_ijb(tmp_path)
    (root / "loose_crop" / "4.jpg").unlink()
    with pytest.raises(UserError, match=r"4\.jpg` does not \(No such file|4\.jpg` does not \(.*No such file"):
        list(load_ijb(root).crops())


# Alignment


@given(
    angle=st.floats(-3, 3), scale=st.floats(0.3, 4), x=st.floats(-50, 50), y=st.floats(-50, 50), seed=st.integers(0, 99)
)
def test_a_similarity_is_found_again(angle: float, scale: float, x: float, y: float, seed: int) -> None:
    points = np.random.default_rng(seed).normal(0, 30, (5, 2))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = similarity(points, points @ turn.T + [x, y])
    assert np.allclose(matrix, np.column_stack([turn, [x, y]]), atol=1e-9)


def test_similarity_is_the_least_squares_one() -> None:
    """Nearby matrices of the same kind are no better; numpy's solver agrees."""
    rng = np.random.default_rng(0)
    source, target = rng.normal(0, 30, (5, 2)), rng.normal(0, 30, (5, 2))
    rows = [[x, -y, 1, 0] for x, y in source] + [[y, x, 0, 1] for x, y in source]
    a, b, c, d = np.linalg.lstsq(np.array(rows), target.T.reshape(-1))[0]
    assert np.allclose(similarity(source, target), [[a, -b, c], [b, a, d]], atol=1e-12)


def test_a_face_is_brought_to_its_place(tmp_path: Path) -> None:
    """A pattern drawn turned and twice as large comes out as drawn upright, to a few grey levels."""

    def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 128 + 100 * np.sin(x / 9) * np.cos(y / 7)

    angle, scale, shift = 0.3, 2.0, np.array([60.0, 20.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    columns, rows = np.meshgrid(np.arange(320), np.arange(320))
    upright = (np.stack([columns, rows], -1) - shift) @ np.linalg.inv(turn).T
    Image.fromarray(pattern(upright[..., 0], upright[..., 1]).round().astype(np.uint8)).save(tmp_path / "a.png")
    crop = aligned_crop(tmp_path / "a.png", TEMPLATE_POINTS @ turn.T + shift)
    columns, rows = np.meshgrid(np.arange(112), np.arange(112))
    inside = (slice(40, 105), slice(40, 105), 0)
    assert np.abs(crop[inside] - pattern(columns, rows)[inside[:2]]).max() < 3


def test_landmarks_of_no_face_are_told(tmp_path: Path) -> None:
    Image.new("RGB", (50, 50)).save(tmp_path / "a.png")
    for points in (np.ones((5, 2)), TEMPLATE_POINTS * 0):
        with pytest.raises(UndecodableError, match="of no face"):
            aligned_crop(tmp_path / "a.png", points)


# Figures


def reference_templates(features: np.ndarray) -> np.ndarray:
    """Follow the published aggregation: mean within a medium, sum over media, L2."""
    weighted = features * np.array([score for *_, score in IMAGES])[:, None]
    templates, media = np.array([t for _, t, _, _ in IMAGES]), np.array([m for _, _, m, _ in IMAGES])
    rows = []
    for template in np.unique(templates):
        of_template = weighted[templates == template]
        of_media = [
            of_template[media[templates == template] == medium].mean(axis=0)
            for medium in np.unique(media[templates == template])
        ]
        rows.append(np.sum(of_media, axis=0))
    return normalize(np.array(rows))


def reference_tar(scores: np.ndarray, same: np.ndarray, fars: tuple[float, ...]) -> list[float]:
    """Follow the published reading of the curve."""
    fpr, tpr, _ = roc_curve(same, scores)
    fpr, tpr = np.flipud(fpr), np.flipud(tpr)
    return [tpr[min(zip(np.abs(fpr - far), range(len(fpr)), strict=True))[1]] for far in fars]


@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(1, 7), max_size=3, unique=True))
@settings(max_examples=40, deadline=None)
def test_templates_equal_the_reference(seed: int, cuts: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """However the embeddings come in blocks."""
    root = tmp_path_factory.getbasetemp() / "ijb"
    faces = load_ijb(root if root.exists() else write_ijb(root))
    features = np.random.default_rng(seed).normal(size=(len(IMAGES), 6)) * 20
    blocks = np.split(features, sorted(cuts))
    templates = template_embeddings(faces, blocks)
    expected = reference_templates(features)
    assert np.allclose(templates, expected, rtol=0, atol=1e-12)
    scores = np.sum(expected[faces.pairs.left] * expected[faces.pairs.right], axis=1)
    assert pair_similarities(templates, faces.pairs.left, faces.pairs.right) == pytest.approx(scores, abs=1e-12)
    tar = tar_of_templates(faces, blocks)
    assert list(tar) == list(FARS)
    assert list(tar.values()) == pytest.approx(reference_tar(scores, faces.pairs.same, FARS), abs=1e-12)


@given(
    seed=st.integers(0, 2**32 - 1),
    num_pairs=st.integers(2, 300),
    steps=st.sampled_from([2, 10, 1000, 10**9]),
    fars=st.lists(st.floats(0, 1) | st.sampled_from(FARS), min_size=1, max_size=8),
)
@settings(max_examples=150, deadline=None)
def test_tar_equals_the_reference(seed: int, num_pairs: int, steps: int, fars: list[float]) -> None:
    rng = np.random.default_rng(seed)
    same = rng.random(num_pairs) < rng.random()
    same[:2] = True, False
    scores = np.round(rng.normal(np.where(same, 0.3, 0), 0.3) * steps) / steps
    got = tar_at_nearest_far(scores, same, fars=fars)
    assert got == pytest.approx(reference_tar(scores, same, tuple(fars)), abs=1e-12)


def test_golden_table() -> None:
    """Two genuine pairs (0.9, 0.4) and four impostors (0.8, 0.5, 0.3, 0.1), by hand.

    From the strictest threshold on the curve (FAR, TAR) is (0, 0), (0, 1/2), (1/4, 1/2), (1/2, 1/2), (1/2, 1),
    (3/4, 1), (1, 1). It does not bend at (1/4, 1/2) and (3/4, 1), which are dropped.
    So 1e-6 to 1e-1 and 0.24 are nearest to FAR 0: 1/2. Exactly between 0 and 1/2, 0.25 takes the larger: 1.
    """
    scores = np.array([0.9, 0.4, 0.8, 0.5, 0.3, 0.1])
    same = np.array([True, True, False, False, False, False])
    assert tar_at_nearest_far(scores, same, fars=[*FARS, 0.24, 0.25, 0.26, 1.0]) == [0.5] * 7 + [1.0] * 3


def test_golden_template(tmp_path: Path) -> None:
    """Template 7: medium 100 has (10, 0) * 0.9 and (0, 10) * 0.8, mean (4.5, 4); medium 101 has (1, 1) * 0.5."""
    faces = load_ijb(write_ijb(tmp_path))
    features = np.zeros((8, 2))
    features[[0, 1, 3]] = [10, 0], [0, 10], [1, 1]
    expected = np.array([5.0, 4.5]) / np.hypot(5.0, 4.5)
    templates = template_embeddings(faces, [features])
    assert templates[2] == pytest.approx(expected, abs=1e-15)
    assert templates[0].tolist() == [0, 0]


def test_a_network_is_scored_from_the_crops(tmp_path: Path) -> None:
    """Flip-sum with its length kept, whatever the batch."""
    faces = load_ijb(write_ijb(tmp_path))
    weights = np.random.default_rng(1).normal(size=(112 * 112 * 3, 4))

    def embed(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1) / 255 @ weights

    crops = np.concatenate(list(faces.crops()))
    assert crops.shape == (8, 112, 112, 3)
    features = embed(crops) + embed(crops[:, :, ::-1])
    templates = reference_templates(features)
    scores = np.sum(templates[faces.pairs.left] * templates[faces.pairs.right], axis=1)
    expected = dict(zip(FARS, reference_tar(scores, faces.pairs.same, FARS), strict=True))
    for batch_size in (3, 128):
        assert verify_templates(faces, embed, batch_size=batch_size) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("number", [0, 7, 9])
def test_the_number_of_embeddings_is_checked(tmp_path: Path, number: int) -> None:
    with pytest.raises(ValueError, match="there must be 8 embeddings"):
        template_embeddings(load_ijb(write_ijb(tmp_path)), [np.ones((number, 2))] if number else [])


def test_memory_is_bound_by_chunks() -> None:
    """A million pairs of length 128 would gather 2 GB at once; in chunks it takes 8 MB of scores and a chunk."""
    templates = np.random.default_rng(0).normal(size=(100, 128))
    left = np.random.default_rng(1).integers(0, 100, 1_000_000)
    tracemalloc.start()
    scores = pair_similarities(templates, left, left[::-1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20
    some = np.arange(0, 1_000_000, 99_999)
    assert scores[some] == pytest.approx(np.sum(templates[left[some]] * templates[left[::-1][some]], axis=1))


def _endless(block: np.ndarray) -> Iterator[np.ndarray]:
    while True:
        yield block


def test_too_many_embeddings_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="but there are more"):
        template_embeddings(load_ijb(write_ijb(tmp_path)), _endless(np.ones((3, 2))))
