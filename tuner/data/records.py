"""Faces in an InsightFace set: `train.rec` and `train.idx`, with or without a `property` file."""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from tuner.data.decoder import DECODER_VERSION, UndecodableError, decode_image, decoded_blocks
from tuner.data.faces import Images, Labels
from tuner.data.recipe import Recipe, recipe_key
from tuner.data.recordio import Heads, RecordFile, Rows, read_property
from tuner.data.subset import EVERYTHING, MIN_IDENTITIES, Subset
from tuner.errors import UserError

RECORD_SUFFIX: Final = ".rec"
_TRAINING_SET: Final = "train.rec"
PROPERTY: Final = "property"
_EXACT: Final = 2**24
"""The largest number up to which float32 holds every integer."""

_Stamps = tuple[tuple[str, int, int], ...]


def find_records(source: Path) -> Path | None:
    """Return the `.rec` file that `source` is or, as a folder, holds as `train.rec`; None for other sources."""
    if source.suffix.lower() == RECORD_SUFFIX and not source.is_dir():
        return source
    inside = source / _TRAINING_SET
    return inside if inside.exists() else None


def record_recipe(
    path: Path, *, image_size: int, progress: Callable[[int, int], None] | None = None, subset: Subset = EVERYTHING
) -> Recipe:
    """Return how to make the faces of an InsightFace set, in the order of their keys.

    1. Where key 0 has a label (N + 1, ...) and no image, the images are keys 1 to N, and what comes after them (an
       empty record for each identity) is left out. Else every key is an image.
    2. An identity is a first label; its name is that number in decimal. Labels that no image has leave no gap.
    3. A `property` file beside the records is checked: every label must be less than its number of classes.

    The key holds path, size and time of change (ns) of the files. Their headers, but no images, are read at once, and
    remembered in this process for as long as the files do not change.

    Args:
        path: the `.rec` file; the `.idx` file of the same name lies beside it.
        image_size: side of the square images in pixels.
        progress: called with (images done, images in all).
        subset: which part of the images to make.

    Raises:
        UserError: a file is missing or damaged, labels are none, or there are too few identities.
    """
    stamps = _stamps(path)
    records, rows, numbers = training_rows(path)
    found, labels = np.unique(numbers, return_inverse=True)
    if len(found) < MIN_IDENTITIES:
        raise UserError(
            f"at least {MIN_IDENTITIES} identities are needed, two to train on and two to verify on, but `{path}` holds"
            f" {len(found)}; give the records of a set to train on"
        )

    names = tuple(str(number) for number in found.tolist())
    chosen, labels, names = subset.choose(labels.astype(np.int64), names, source=str(path))
    rows = rows[chosen]

    def one(index: int) -> Images:
        row = int(rows[index])
        try:
            return decode_image(records.read(row).image, image_size=image_size)
        except UndecodableError as error:
            raise records.damaged(row, f"holds an image that does not decode ({error})") from error

    return Recipe(
        key=recipe_key(
            kind="records", version=DECODER_VERSION, files=stamps, image_size=image_size, images=_digest(chosen)
        ),
        image_size=image_size,
        labels=labels,
        names=names,
        source=str(path),
        blocks=lambda: decoded_blocks(len(rows), one, progress),
    )


def training_rows(path: Path) -> tuple[RecordFile, Rows, Labels]:
    """Return the records of a set, the places of the images to train on, and the label of each.

    Raises:
        UserError: as of `record_recipe`, but for too few identities.
    """
    return _training_rows(path, _stamps(path))


@lru_cache(maxsize=2)
def _training_rows(path: Path, stamps: _Stamps) -> tuple[RecordFile, Rows, Labels]:  # noqa: ARG001 it is the key
    records = RecordFile(path)
    heads = records.heads()
    rows = _image_rows(records, heads)
    empty = heads.sizes[rows] == 0
    if empty.any():
        raise records.damaged(int(rows[np.argmax(empty)]), "holds no image")
    labels = heads.labels[rows]
    with np.errstate(invalid="ignore"):
        wrong = ~((labels >= 0) & (labels < 2**62) & (labels == np.floor(labels)))
    if wrong.any():
        row = int(rows[np.argmax(wrong)])
        raise records.damaged(row, f"has the label {heads.labels[row]}, which numbers no identity")
    numbers = labels.astype(np.int64)
    numbers.flags.writeable = False
    if (path.parent / PROPERTY).exists():
        num_classes = read_property(path.parent / PROPERTY)[0]
        if numbers.max(initial=0) >= num_classes:
            row = int(rows[np.argmax(numbers)])
            raise records.damaged(row, f"has the label {numbers.max()}, but `{PROPERTY}` names {num_classes} classes")
    return records, rows, numbers


def _image_rows(records: RecordFile, heads: Heads) -> Rows:
    """Return the places of the images among the sorted keys, by the record of key 0 where it is the set's header."""
    everything = np.arange(len(records))
    if records.keys[0] != 0 or heads.flags[0] == 0 or heads.sizes[0] > 0:
        return everything
    end = float(heads.labels[0])
    if not 1 < end < 2**62:
        raise records.damaged(0, f"says that the images end before key {end}, which cannot be")
    consecutive = records.keys == everything
    if end <= _EXACT:
        after = int(end)
    else:  # the header is rounded: the first record without an image, near where it says, comes after the images
        first = int(end - np.spacing(np.float32(end)))
        empty = np.flatnonzero(heads.sizes[first:] == 0)
        after = first + int(empty[0]) if len(empty) else len(records)
    if after > len(records) or not consecutive[:after].all():
        missing = int(np.argmin(consecutive)) if not consecutive.all() else len(records)
        records.row(missing)
    return everything[1:after]


def _digest(rows: Rows) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()


def _stamps(path: Path) -> _Stamps:
    """Return name, size and time of change (ns) of the files of the set that exist."""
    files = (path, path.with_suffix(".idx"), path.parent / PROPERTY)
    stamps = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue  # the reader tells which one it needs
        stamps.append((str(file.resolve()), status.st_size, status.st_mtime_ns))
    return tuple(stamps)
