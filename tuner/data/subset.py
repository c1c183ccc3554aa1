"""A part of a set, for sweeps that stand in for a run on all of it: whole identities, by seed, before decoding."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from tuner.data.faces import Labels
from tuner.data.recordio import Rows
from tuner.errors import UserError

MIN_IDENTITIES: Final = 4
"""Two to train on and two, never seen in training, to verify on."""
_STREAM: Final = 3
"""Of random numbers: unlike that of the split, which has the same seed."""


@dataclass(frozen=True)
class Subset:
    """At most this many identities, and at most this many images of all of them together; None is no limit.

    Identities are drawn by `seed` and taken whole, in the order drawn, until the next one would exceed a limit: each
    keeps all of its images, and a larger part of the same seed contains the smaller.
    """

    max_identities: int | None = None
    max_images: int | None = None
    seed: int = 0

    def choose(self, labels: Labels, names: tuple[str, ...], *, source: str) -> tuple[Rows, Labels, tuple[str, ...]]:
        """Return which images to keep, in their order, and labels and names of what is kept.

        Args:
            labels: [N], the identity of each image, 0 to K - 1.
            names: of the K identities.
            source: of the set, for errors.

        Raises:
            UserError: fewer than `MIN_IDENTITIES` identities would be left.
        """
        if self.max_identities is None and self.max_images is None:
            return np.arange(len(labels)), labels, names
        order = np.random.default_rng([self.seed, _STREAM, len(names)]).permutation(len(names))[: self.max_identities]
        if self.max_images is not None:
            together = np.cumsum(np.bincount(labels, minlength=len(names))[order])
            order = order[: int(np.searchsorted(together, self.max_images, side="right"))]
        self.check(len(order), source=source)
        kept = np.sort(order)
        new_label = np.full(len(names), -1, dtype=np.int64)
        new_label[kept] = np.arange(len(kept))
        rows = np.flatnonzero(new_label[labels] >= 0)
        return rows, new_label[labels[rows]], tuple(names[identity] for identity in kept.tolist())

    def check(self, num_identities: int, *, source: str) -> None:
        """Raise UserError where `num_identities`, what the limits leave of a source, are too few."""
        if num_identities < MIN_IDENTITIES:
            raise UserError(
                f"at least {MIN_IDENTITIES} identities are needed, two to train on and two to verify on, but"
                f" `max_identities` {self.max_identities} and `max_images` {self.max_images} leave {num_identities} of"
                f" `{source}`; raise them"
            )


EVERYTHING: Final = Subset()
