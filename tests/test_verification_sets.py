"""Verification sets: every form is read, nothing that a pickle names runs, and the protocol is the published one."""

import os
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import encoded_face, face_pixels
from sklearn.metrics import accuracy_score, roc_curve
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize

from tuner.data.restricted_pickle import RefusedPickleError, read_plain_data
from tuner.data.verification_sets import VerificationSet, load_verification_set
from tuner.errors import UserError
from tuner.training.verify import flip_sum, verify

FACES = [encoded_face(seed) for seed in range(24)]
SAME = [True, False, False] * 4


def load(path: Path) -> VerificationSet:
    return load_verification_set(path, image_size=16)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def python2_pickle(images: list[bytes], same: list[bool]) -> bytes:
    """Write as Python 2 did at protocol 2: `str` items, and bool as an opcode."""
    items = b"".join(b"T" + len(image).to_bytes(4, "little") + image for image in images)
    flags = b"".join(b"\x88" if flag else b"\x89" for flag in same)
    return b"\x80\x02](" + items + b"e](" + flags + b"e\x86."


def python2_text_pickle(images: list[bytes], same: list[bool]) -> bytes:
    """Write as Python 2 did at protocol 0, in text; flags as `I01`."""
    items = b"".join(b"S" + ascii(image).encode()[1:] + b"\na" for image in images)
    flags = b"".join(b"I01\na" if flag else b"I00\na" for flag in same)
    return b"((lp0\n" + items + b"(lp1\n" + flags + b"tp2\n."


def old_numpy(data: bytes) -> bytes:
    """Return a text pickle of arrays as numpy 1 named itself."""
    assert b"numpy._core" in data
    return data.replace(b"numpy._core", b"numpy.core")


def arrays(images: list[bytes]) -> list[np.ndarray]:
    return [np.frombuffer(image, dtype=np.uint8) for image in images]


VARIANTS: dict[str, Callable[[], bytes]] = {
    "python 2 str": lambda: python2_pickle(FACES, SAME),
    "python 2 text": lambda: python2_text_pickle(FACES, SAME),
    "numpy 1": lambda: old_numpy(pickle.dumps((arrays(FACES), SAME), protocol=0)),
    "tuple": lambda: pickle.dumps((tuple(FACES), tuple(SAME))),
    "list": lambda: pickle.dumps([FACES, [int(flag) for flag in SAME]]),
    "numpy flags": lambda: pickle.dumps((FACES, list(np.array(SAME)))),
    "array of flags": lambda: pickle.dumps((FACES, np.array(SAME))),
    "array of numbers": lambda: pickle.dumps((FACES, np.array(SAME, dtype=np.int64))),
    "bytearrays": lambda: pickle.dumps(([bytearray(image) for image in FACES], SAME), protocol=5),
    "writable arrays": lambda: pickle.dumps(([array.copy() for array in arrays(FACES)], SAME), protocol=5),
}
for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
    VARIANTS[f"bytes {protocol}"] = lambda protocol=protocol: pickle.dumps((FACES, SAME), protocol=protocol)
    VARIANTS[f"arrays {protocol}"] = lambda protocol=protocol: pickle.dumps((arrays(FACES), SAME), protocol=protocol)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_form_of_a_set_is_read(tmp_path: Path, variant: str) -> None:
    faces = load(write(tmp_path / "mine.bin", VARIANTS[variant]()))
    assert faces.name == "mine"
    assert np.array_equal(faces.images, np.stack([face_pixels(image) for image in FACES]))
    assert faces.pairs.same.tolist() == SAME
    assert faces.pairs.left.tolist() == list(range(0, 24, 2))
    assert faces.pairs.right.tolist() == list(range(1, 24, 2))


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    first = load(write(tmp_path / "a.bin", VARIANTS["python 2 str"]()))
    assert load(write(tmp_path / "b.bin", VARIANTS["arrays 5"]())).digest == first.digest
    other = [not flag for flag in SAME]
    assert load(write(tmp_path / "c.bin", pickle.dumps((FACES, other)))).digest != first.digest


# What must not run


class Named:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._call


def hostile(mark: Path) -> dict[str, bytes]:
    command = f"touch {mark}"
    system = b"cposix\nsystem\n"
    return {
        "call": pickle.dumps((Named(os.system, command), SAME)),
        "text": system + b"(S'" + command.encode() + b"'\ntR.",
        "instance": b"(S'" + command.encode() + b"'\niposix\nsystem\n.",
        "object": b"(" + system + b"S'" + command.encode() + b"'\no.",
        "new object": b"\x80\x02" + system + b"U\x01a\x85\x81.",
        "eval": pickle.dumps((FACES, Named(eval, f"open({str(mark)!r}, 'w')"))),
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x0bos.getcwdbs\x93.",
        "through numpy": b"cnumpy._core.multiarray\nos.system\n.",
        "file": pickle.dumps(Named(np.fromfile, str(mark))),
        "load": pickle.dumps(Named(np.load, str(mark))),
        "codec": pickle.dumps(Named(__import__("_codecs").encode, "a" * 100, "idna")),
        "attribute": b"cbuiltins\ngetattr\n.",
        "persistent": b"Pmark\n.",
        "extension": b"\x82\x01.",
        "state of a class": b"cnumpy\nndarray\n}b.",
        "state of a name": b"cnumpy\nndarray\nNb.",
        "dict": pickle.dumps({"a": 1}),
        "set": pickle.dumps({1, 2}, protocol=4),
    }


@pytest.mark.parametrize("name", hostile(Path("mark")))
def test_what_a_pickle_names_does_not_run(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    path = write(tmp_path / "a.bin", hostile(mark)[name])
    with pytest.raises(UserError, match=r"must be a pickle of images .* but it (names|holds|sets|encodes) ") as raised:
        load(path)
    assert not mark.exists()
    assert "\n" not in str(raised.value)


def test_the_hostile_pickles_would_run(tmp_path: Path) -> None:
    """The test above is of use: Python's own reader runs them."""
    for name in ("call", "text", "instance", "object", "eval"):
        pickle.loads(hostile(tmp_path / name)[name])
        assert (tmp_path / name).exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b"a.",  # a bytearray of 4 EiB
        b"\x80\x04\x8e" + (2**36).to_bytes(8, "little") + b"a.",
        b"Nr\xff\xff\xff\x7f.",  # a memo of two thousand million entries
        b"\x80\x04\x95" + (2**63).to_bytes(8, "little") + b".",
        b"(" * 10_000,
        b")" + b"\x85" * 100_000 + b".",  # nested tuples
        b"I" + b"9" * 100_000 + b"\n.",
        b"cnumpy\ndtype\n(I5\nI6\ntR.",
        b"",
        b".",
        b"\x80\xff.",
        b"not a pickle",
    ],
)
def test_a_pickle_that_asks_for_much_gets_nothing(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UserError, match=r"must be a pickle of images"):
        load(write(tmp_path / "a.bin", data))


def numpy_array(kind: str, shape: str, content: str) -> bytes:
    """Return one item: an array of a type, a shape and bytes that need not fit."""
    head = "cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    kind = f"cnumpy\ndtype\n(S'{kind}'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
    return f"{head}(I1\n{shape}{kind}I0\nS'{content}'\ntb.".encode()


@pytest.mark.parametrize(
    ("kind", "shape", "content"),
    [
        ("u1", "(I4\nt", "abc"),
        ("u1", "(I1000000000000\nt", "abc"),
        ("u1", "(I-3\nt", "abc"),
        ("u1", "(I-1\nI-3\nt", "abc"),
        ("u1", "I3\n", "abc"),
        ("O8", "(I1\nt", "abcdefgh"),
        ("V3", "(I1\nt", "abc"),
        ("f8", "(I1\nt", "abcdefgh"),
    ],
)
def test_damaged_arrays_are_refused(kind: str, shape: str, content: str) -> None:
    sound = read_plain_data(numpy_array("u1", "(I3\nt", "abc"))
    assert sound.values("u1").tobytes() == b"abc"
    with pytest.raises(RefusedPickleError):
        read_plain_data(numpy_array(kind, shape, content)).values("u1", "b1", "i8")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ((FACES, SAME[:-1]), "24 images and 11 flags"),
        ((FACES[:-1], SAME), "23 images and 12 flags"),
        ((FACES, [2] * 12), "neither true nor false"),
        ((FACES, [None] * 12), "neither true nor false"),
        ((FACES, "abc"), "no list of flags"),
        (([1] * 24, SAME), "not bytes"),
        ((FACES, SAME, SAME), "something else"),
        (FACES, "something else"),
        ((FACES[:18], SAME[:9]), "at least 10 pairs and both kinds of them, but .* has 3 of one person and 6 of two"),
        ((FACES, [True] * 12), "has 12 of one person and 0 of two"),
        (([*FACES[:7], b"", *FACES[8:]], SAME), r"number 7 \(pair 3\) does not \(it is not an image\)"),
        (([*FACES[:7], FACES[7][:-200], *FACES[8:]], SAME), r"number 7 \(pair 3\) does not"),
    ],
)
def test_sets_that_do_not_do_are_told(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load(write(tmp_path / "a.bin", pickle.dumps(content)))


def test_a_missing_set_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.bin` must be readable, but No such file"):
        load(tmp_path / "nowhere.bin")


def test_another_number_of_pairs_than_published_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(write(tmp_path / "lfw.bin", pickle.dumps((FACES, SAME))))
    assert "has 12 pairs, but the published set of that name has 6000" in caplog.text


@given(seed=st.integers(0, 2**32 - 1), variant=st.sampled_from(sorted(VARIANTS)))
@settings(max_examples=300, deadline=None)
def test_fuzzed_pickles_are_read_or_refused(seed: int, variant: str) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(VARIANTS[variant]())
    opcodes = [opcode.code.encode("latin1")[0] for opcode in pickletools.opcodes]
    for place in rng.integers(0, min(len(data), 400), rng.integers(1, 8)):
        data[place] = rng.choice(opcodes) if rng.random() < 0.7 else rng.integers(256)
    try:
        read_plain_data(bytes(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.2 else data))
    except RefusedPickleError as error:
        assert "\n" not in str(error)


# A list of pairs of one's own images


def own_images(folder: Path) -> list[str]:
    (folder / "my faces").mkdir(parents=True)
    for number, face in enumerate(FACES[:8]):
        (folder / "my faces" / f"{number}.png").write_bytes(face)
        (folder / f"{number}.png").write_bytes(face)
    return [f"{number}.png" for number in range(8)]


def test_a_list_of_pairs_is_read(tmp_path: Path) -> None:
    """Paths start at the list's folder, an image that comes twice is decoded once, comments are skipped."""
    own_images(tmp_path)
    lines = ["\ufeff# mine", "", "0.png 1.png 1", f"  {tmp_path}/2.png   0.png\t0".replace("\t", " "), "3.png 3.png 1"]
    lines += ["my faces/4.png\tmy faces/5.png\t0\t".rstrip(), *["6.png 7.png 0"] * 6, "# end"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines), encoding="utf-8")
    decoded: list[tuple[int, int]] = []
    faces = load_verification_set(
        tmp_path / "pairs.txt", image_size=16, cache=tmp_path / "cache", progress=lambda *done: decoded.append(done)
    )
    assert faces.name == "pairs"
    assert np.array_equal(faces.images, np.stack([face_pixels(image) for image in FACES[:8]]))
    assert faces.pairs.left.tolist() == [0, 2, 3, 4, *[6] * 6]
    assert faces.pairs.right.tolist() == [1, 0, 3, 5, *[7] * 6]
    assert faces.pairs.same.tolist() == [True, False, True, False, *[False] * 6]
    assert decoded == [(8, 8)]
    assert 0 <= verify(faces, network, far=0.1).accuracy <= 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0.png 1.png 2", r"line 11 is not \(it is '0.png 1.png 2'\)"),
        ("0.png 1.png", "line 11 is not"),
        ("0.png 1.png 1 1", "line 11 is not"),
        ("my faces/0.png 1.png 1", "line 11 is not .*tabs between the fields"),
        ("\t1.png\t1", "line 11 is not"),
        ("0\0.png 1.png 1", "line 11 is not"),
        ("0.png 9.png 1", r"9\.png` does not \(No such file"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_lists_that_do_not_do_are_told(tmp_path: Path, line: str, says: str) -> None:
    names = own_images(tmp_path)
    text = "".join(f"{names[i % 8]} {names[(i + 1) % 8]} {i % 2}\n" for i in range(10)) + line
    (tmp_path / "pairs.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=says) as raised:
        load(tmp_path / "pairs.txt")
    assert "\n" not in str(raised.value)
    (tmp_path / "pairs.txt").write_text("0.png 1.png 1\n")
    with pytest.raises(UserError, match="at least 10 pairs"):
        load(tmp_path / "pairs.txt")


# The protocol


def network(images: np.ndarray) -> np.ndarray:
    """Return embeddings of different lengths that tell an image from its mirror image."""
    weights = np.random.default_rng(0).normal(size=(images[0].size, 8))
    return (images.reshape(len(images), -1) / 255 - 0.4) @ weights + 3.0


def reference(images: np.ndarray, same: np.ndarray, far: float) -> tuple[float, float, float]:
    """Follow the published protocol word by word, with scikit-learn."""
    embeddings = normalize(network(images) + network(images[:, :, ::-1].copy()))
    distances = np.sum(np.square(embeddings[0::2] - embeddings[1::2]), axis=1)
    thresholds, accuracies = np.arange(0, 4, 0.01), []
    for train, test in KFold(10, shuffle=False).split(distances):
        scores = [np.mean(same[train] == (distances[train] < threshold)) for threshold in thresholds]
        accuracies.append(accuracy_score(same[test], distances[test] < thresholds[int(np.argmax(scores))]))
    fpr, tpr, _ = roc_curve(same, -distances, drop_intermediate=False)
    return float(np.mean(accuracies)), float(np.std(accuracies)), float(tpr[fpr <= far].max())


def noisy_pairs(num_pairs: int, seed: int) -> tuple[list[bytes], list[bool]]:
    """Return pairs of encoded images, those of one person alike to some degree."""
    import io

    from PIL import Image

    rng = np.random.default_rng(seed)
    same, images = (rng.random(num_pairs) < 0.5).tolist(), []
    same[:2] = True, False
    for flag in same:
        first = rng.integers(0, 256, (16, 16, 3))
        second = first if flag else rng.integers(0, 256, first.shape)
        for pixels in (first, second + rng.normal(0, 90, first.shape)):
            buffer = io.BytesIO()
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "PNG")
            images.append(buffer.getvalue())
    return images, same


@pytest.mark.parametrize(("num_pairs", "batch_size"), [(10, 128), (57, 7), (80, 64)])
def test_the_protocol_equals_the_reference(tmp_path: Path, num_pairs: int, batch_size: int) -> None:
    images, same = noisy_pairs(num_pairs, num_pairs)
    faces = load(write(tmp_path / "a.bin", pickle.dumps((images, same))))
    scores = verify(faces, network, far=0.1, batch_size=batch_size)
    expected = reference(np.asarray(faces.images), np.array(same), 0.1)
    assert (scores.accuracy, scores.accuracy_std, scores.tar) == pytest.approx(expected, abs=1e-12)
    assert 0.5 < scores.accuracy < 1


def test_embeddings_are_added_before_they_are_normalised() -> None:
    """By hand: f(x) = (left pixel, right pixel) of 100 and 40, so the sum is (140, 140), whatever the length."""
    images = np.zeros((1, 1, 2, 3), dtype=np.uint8)
    images[0, 0, 0], images[0, 0, 1] = 100, 40
    assert flip_sum(images, lambda batch: batch[:, 0, :, 0].astype(np.float32)).tolist() == [[140.0, 140.0]]
