"""A set of faces in memory: images, who is on them, and a digest of both."""

import hashlib
import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
"""RGB images, [N, size, size, 3]."""
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MappedFile:
    """The whole of an array as it is mapped into memory: from which file, from which of its bytes on, and where."""

    name: str
    offset: int
    memory: mmap.mmap


def mapped_file(images: Images) -> MappedFile | None:
    """Return the file that an array of images is mapped from, or None for an array in memory or a part of a map."""
    memory: object = images.base
    if not isinstance(images, np.memmap) or images.filename is None or not isinstance(memory, mmap.mmap):
        return None
    return MappedFile(str(images.filename), images.offset, memory)


@dataclass(frozen=True, eq=False)
class ChosenImages:
    """Some rows of a stored array of images, gathered when they are asked for, so that a map stays on the disk.

    Stands for the array `stored[rows]`: it is indexed along the first axis, and `np.asarray` gathers all of it. A
    pickled one names the file of its map, which other processes on the machine then map too; forked ones share it.
    """

    stored: Images
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return [N, H, W, 3]."""
        return (len(self.rows), *self.stored.shape[1:])

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Return uint8."""
        return self.stored.dtype

    @property
    def ndim(self) -> int:
        """Return 4."""
        return self.stored.ndim

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce__(self) -> tuple[Any, ...]:
        file = mapped_file(self.stored)
        if file is None:
            return ChosenImages, (self.stored, self.rows)
        return _mapped_again, (file.name, file.offset, self.stored.shape, self.rows)

    def __getitem__(self, index: Any) -> Images:
        return np.asarray(self.stored[self.rows[index]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.stored[self.rows], dtype=dtype)


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Faces of K identities; the images of one identity need not lie together.

    Args:
        images: uint8 RGB [N, H, W, 3]; may be a read-only memory map, or rows chosen from one.
        labels: int64 [N], the identity of each image, 0 to K - 1.
        names: the K names of the identities.
        digest: SHA-256 in hex of the content, equal for equal images, labels and names wherever they came from.
        source: where they came from, for people to read.
    """

    images: Images | ChosenImages
    labels: Labels
    names: tuple[str, ...]
    digest: str
    source: str

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[-1] != 3:
            raise ValueError(f"images must be uint8 [N, H, W, 3], but are {self.images.dtype} {self.images.shape}")
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must be int64 [{len(self.images)}], but are {self.labels.dtype} {self.labels.shape}"
            )
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.names):
            raise ValueError(f"labels must lie in 0 to {len(self.names) - 1}")

    @property
    def num_identities(self) -> int:
        """Return K, the number of identities."""
        return len(self.names)

    def select(self, identities: Sequence[int]) -> "FaceSet":
        """Return the set of these identities only, relabelled 0, 1, ... in the order given.

        Images keep their order; where they are a memory map, they stay on the disk. The digest follows from this set's
        and the selection, without reading the images.

        Raises:
            ValueError: an identity is named twice, or is none of 0 to K - 1.
        """
        chosen = [int(identity) for identity in identities]
        if len(set(chosen)) != len(chosen) or not all(0 <= identity < len(self.names) for identity in chosen):
            raise ValueError(f"identities must be distinct and in 0 to {len(self.names) - 1}, but got {chosen}")
        new_label = np.full(len(self.names), -1, dtype=np.int64)
        new_label[chosen] = np.arange(len(chosen))
        labels = new_label[self.labels]
        kept = np.flatnonzero(labels >= 0)
        return FaceSet(
            images=self._chosen(kept),
            labels=labels[kept],
            names=tuple(self.names[identity] for identity in chosen),
            digest=hashlib.sha256(json.dumps([self.digest, chosen]).encode()).hexdigest(),
            source=self.source,
        )

    def _chosen(self, rows: NDArray[np.int64]) -> Images | ChosenImages:
        if isinstance(self.images, ChosenImages):
            return ChosenImages(self.images.stored, self.images.rows[rows])
        return ChosenImages(self.images, rows) if isinstance(self.images, np.memmap) else self.images[rows]


def _mapped_again(name: str, offset: int, shape: tuple[int, ...], rows: NDArray[np.int64]) -> ChosenImages:
    return ChosenImages(np.memmap(name, dtype=np.uint8, mode="r", offset=offset, shape=shape), rows)
