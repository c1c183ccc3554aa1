"""Pairs of images to verify on that others made: `.bin` sets, and a plain list of pairs of one's own images."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tuner.data.cache import cached, default_cache
from tuner.data.decoder import DECODER_VERSION, UndecodableError, decode_image, decoded_blocks
from tuner.data.faces import ChosenImages, FaceSet, Images
from tuner.data.folder import decode, file_stamp
from tuner.data.recipe import Recipe, recipe_key
from tuner.data.restricted_pickle import PickledArray, RefusedPickleError, read_plain_data
from tuner.data.split import NUM_FOLDS, Pairs, verification_pairs
from tuner.errors import UserError

BIN_SUFFIX: Final = ".bin"
PUBLISHED_PAIRS: Final = {
    "lfw": 6000, "calfw": 6000, "cplfw": 6000, "agedb_30": 6000, "cfp_ff": 7000, "cfp_fp": 7000, "vgg2_fp": 5000,
}  # fmt: skip
"""How many pairs the published sets have."""

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class VerificationSet:
    """Images, and which pairs of them to compare.

    Args:
        name: of the set, for people to read.
        images: uint8 RGB [N, H, W, 3], a read-only memory map where it could be cached.
        pairs: P pairs in the order of the file, which the ten folds follow.
        digest: SHA-256 in hex of images and pairs.
    """

    name: str
    images: Images | ChosenImages
    pairs: Pairs
    digest: str


_read: dict[tuple[object, ...], VerificationSet] = {}
"""What this process has read: the trials of a sweep share it, and a set of 6 000 pairs takes a second to read."""


def load_verification_set(
    path: Path, *, image_size: int, cache: Path | None = None, progress: Progress | None = None
) -> VerificationSet:
    """Return a verification set, decoded once and then memory-mapped from the cache.

    Args:
        path: a `.bin` file of InsightFace: a pickle of (encoded images, whether each pair shows one person), pair i
            being the images 2i and 2i + 1. It is read without running anything that it names. Any other file is a
            list of pairs of one's own images, see `read_pairs_file`.
        image_size: side of the square images in pixels.
        cache: folder of decoded images; None takes the default one.
        progress: called with (images done, images in all) while images are decoded.

    Raises:
        UserError: the file is missing, damaged or no such file, names anything but data, has fewer than ten pairs or
            pairs of one kind only, or an image does not decode.
    """
    cache = default_cache() if cache is None else cache
    if path.suffix.lower() != BIN_SUFFIX:
        return _listed_set(path, image_size, cache, progress)
    key = (path.absolute(), *_version_of(path), image_size, cache)
    if key not in _read:
        _read[key] = _bin_set(path, image_size, cache, progress)
    return _read[key]


def drawn_set(faces: FaceSet, *, num_pairs: int, seed: int) -> VerificationSet:
    """Return faces with pairs that are drawn by `seed`, see `tuner.data.split.verification_pairs`."""
    pairs = verification_pairs(faces.labels, num_pairs=num_pairs, seed=seed)
    digest = _digest(faces, pairs)
    return VerificationSet(name=Path(faces.source).name, images=faces.images, pairs=pairs, digest=digest)


def compared_only(faces: VerificationSet) -> VerificationSet:
    """Return a set without the images that no pair compares; those that are left stay on the disk."""
    pairs = faces.pairs
    rows, places = np.unique(np.stack([pairs.left, pairs.right]), return_inverse=True)
    left, right = places.reshape(2, -1)
    images = faces.images
    stored, chosen = (images.stored, images.rows[rows]) if isinstance(images, ChosenImages) else (images, rows)
    return replace(faces, images=ChosenImages(stored, chosen), pairs=Pairs(left, right, pairs.same))


def read_pairs_file(path: Path) -> tuple[list[Path], Pairs]:
    """Return the images that a pairs file names, each once, and its pairs, in the order of the lines.

    A line is `image image 1` where one person is on both and `image image 0` where two are. Fields are separated by
    tabs in a line that holds a tab, so that paths may hold spaces, else by spaces. Paths start at the folder of the
    file. Empty lines and lines that start with # are skipped.

    Raises:
        UserError: the file is missing, is no UTF-8 text, or has a line of another form.
    """
    try:
        lines = _bytes_of(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise _no_pair(path, 1, "the file is not UTF-8 text") from None
    places: dict[Path, int] = {}
    pairs: list[tuple[int, int, bool]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        fields = [field.strip() for field in line.split("\t")] if "\t" in line.strip() else line.split()
        if len(fields) != 3 or fields[2] not in ("0", "1") or not all(fields) or "\0" in line:
            raise _no_pair(path, number, f"it is {line.strip()[:80]!r}")
        left, right = (places.setdefault(path.parent / field, len(places)) for field in fields[:2])
        pairs.append((left, right, fields[2] == "1"))
    table = np.array(pairs, dtype=np.int64).reshape(-1, 3)
    return list(places), Pairs(left=table[:, 0].copy(), right=table[:, 1].copy(), same=table[:, 2] == 1)


def _no_pair(path: Path, number: int, reason: str) -> UserError:
    return UserError(
        f"every line of `{path}` must be `image image 0` or `image image 1`, but line {number} is not ({reason}); write"
        " it so, with tabs between the fields where a path holds spaces"
    )


def _listed_set(path: Path, image_size: int, cache: Path, progress: Progress | None) -> VerificationSet:
    files, pairs = read_pairs_file(path)
    check_same(path, pairs.same)
    compared = [pairs.left.tolist(), pairs.right.tolist()]
    stamps = [(str(file.resolve()), *file_stamp(file)) for file in files]
    key = recipe_key(kind="pairs", version=DECODER_VERSION, files=stamps, compared=compared, size=image_size)

    def one(index: int) -> Images:
        return decode(files[index], image_size=image_size)

    return _decoded(str(path), key, image_size, len(files), one, pairs, cache, progress)


def read_bin_file(path: Path) -> tuple[list[bytes], NDArray[np.bool_]]:
    """Return the encoded images of a `.bin` file and, of each pair 2i and 2i + 1 of them, whether it shows one person.

    Raises:
        UserError: the file is missing, damaged or no such file, names anything but data, or has too few pairs.
    """
    return _bin_data(path, _bytes_of(path))


def _bin_data(path: Path, data: bytes) -> tuple[list[bytes], NDArray[np.bool_]]:
    try:
        encoded, same = _bin_content(read_plain_data(data))
    except RefusedPickleError as error:
        raise UserError(
            f"`{path}` must be a pickle of images and of whether each pair shows one person, but it {error}; get the"
            " file again"
        ) from error
    check_same(path, same)
    return encoded, same


def _bin_set(path: Path, image_size: int, cache: Path, progress: Progress | None) -> VerificationSet:
    data = _bytes_of(path)
    encoded, same = _bin_data(path, data)
    published = PUBLISHED_PAIRS.get(path.stem)
    if published not in (None, len(same)):
        _log.warning("%s has %d pairs, but the published set of that name has %d", path, len(same), published)

    def one(index: int) -> Images:
        try:
            return decode_image(encoded[index], image_size=image_size)
        except UndecodableError as error:
            raise UserError(
                f"every image of `{path}` must decode to its end, but number {index} (pair {index // 2}) does not"
                f" ({error}); get the file again"
            ) from error

    left = np.arange(0, len(encoded), 2)
    pairs = Pairs(left=left, right=left + 1, same=same)
    key = recipe_key(kind="bin", version=DECODER_VERSION, content=hashlib.sha256(data).hexdigest(), size=image_size)
    return _decoded(str(path), key, image_size, len(encoded), one, pairs, cache, progress)


def _bin_content(content: Any) -> tuple[list[bytes], NDArray[np.bool_]]:
    """Return encoded images and flags of pairs; RefusedPickleError where they are something else."""
    if not isinstance(content, (tuple, list)) or len(content) != 2 or not isinstance(content[0], (tuple, list)):
        raise RefusedPickleError("holds something else")
    images = [item.values("u1").tobytes() if isinstance(item, PickledArray) else item for item in content[0]]
    if not all(isinstance(item, bytes) for item in images):
        raise RefusedPickleError("holds images that are not bytes")
    flags = content[1].values("b1", "u1", "i8").tolist() if isinstance(content[1], PickledArray) else content[1]
    if not isinstance(flags, (tuple, list)):
        raise RefusedPickleError("holds no list of flags")
    flags = [flag.values("b1", "u1", "i8").tolist()[0] if isinstance(flag, PickledArray) else flag for flag in flags]
    if not all(isinstance(flag, int) and flag in (0, 1) for flag in flags):
        raise RefusedPickleError("holds flags that are neither true nor false")
    if len(images) != 2 * len(flags):
        raise RefusedPickleError(f"holds {len(images)} images and {len(flags)} flags, which must be half as many")
    return images, np.array(flags, dtype=np.bool_)


def check_same(path: Path, same: NDArray[np.bool_]) -> None:
    """Raise UserError where the pairs of a set are too few for ten folds, or all of one kind."""
    if len(same) < NUM_FOLDS or same.all() or not same.any():
        raise UserError(
            f"10-fold verification needs at least {NUM_FOLDS} pairs and both kinds of them, but `{path}` has"
            f" {int(same.sum())} of one person and {int((~same).sum())} of two; add pairs"
        )


def _decoded(
    name: str,
    key: str,
    image_size: int,
    num_images: int,
    decode_one: Callable[[int], Images],
    pairs: Pairs,
    cache: Path,
    progress: Progress | None,
) -> VerificationSet:
    recipe = Recipe(
        key=key,
        image_size=image_size,
        labels=np.arange(num_images, dtype=np.int64),  # who is on an image is not known
        names=tuple(map(str, range(num_images))),
        source=name,
        blocks=lambda: decoded_blocks(num_images, decode_one, progress),
    )
    faces = cached(recipe, cache=cache)
    return VerificationSet(name=Path(name).stem, images=faces.images, pairs=pairs, digest=_digest(faces, pairs))


def _digest(faces: FaceSet, pairs: Pairs) -> str:
    compared = [pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist()]
    return hashlib.sha256(json.dumps([faces.digest, compared]).encode()).hexdigest()


def _version_of(path: Path) -> tuple[int, ...]:
    try:
        about = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return about.st_size, about.st_mtime_ns, about.st_ino


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"the verification set `{path}` must be readable, but {error.strerror}; give its path")
