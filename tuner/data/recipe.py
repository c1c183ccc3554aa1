"""How to make a set of faces: all that is known of it before the first image is decoded or rendered."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tuner.data.faces import FaceSet, Images, Labels


@dataclass(frozen=True, eq=False)
class Recipe:
    """A source of faces, ready to be made or to be found in the cache.

    Args:
        key: hex digest of everything that the content depends on, see `recipe_key`.
        image_size: side of the square images in pixels.
        labels: int64 [N], the identity of each image.
        names: of the identities.
        source: for people to read.
        blocks: makes the images, in the order of `labels`, in blocks uint8 [n, image_size, image_size, 3]; may be
            called again for another pass.
    """

    key: str
    image_size: int
    labels: Labels
    names: tuple[str, ...]
    source: str
    blocks: Callable[[], Iterator[Images]]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return the shape of all images together, [N, H, W, 3]."""
        return (len(self.labels), self.image_size, self.image_size, 3)

    @property
    def num_bytes(self) -> int:
        """Return the size of all images together."""
        return math.prod(self.shape)

    def content_hash(self) -> "hashlib._Hash":
        """Return the running SHA-256 of the content, fed with all but the images; their bytes follow, in order."""
        head = json.dumps({"shape": self.shape, "names": self.names}).encode()
        content = hashlib.sha256(head)
        content.update(self.labels.astype("<i8").tobytes())
        return content

    def finished(self, images: Images, *, digest: str) -> FaceSet:
        """Return the set, its images made."""
        return FaceSet(images=images, labels=self.labels, names=self.names, digest=digest, source=self.source)


def recipe_key(**parts: Any) -> str:
    """Return the hex digest of JSON-like `parts`."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
