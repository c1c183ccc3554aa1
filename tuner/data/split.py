"""Who is trained on, who is held out, and which pairs of the held-out images are compared."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tuner.data.faces import FaceSet, Labels
from tuner.errors import UserError

NUM_FOLDS: Final = 10
MIN_PAIRS_PER_KIND: Final = 5
"""Ten folds need ten pairs, five of one person and five of two."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs of images to verify on: `left` and `right` index images, `same` says whether one person is on both.

    Genuine and impostor pairs take turns, so that every run of an even number of pairs from an even start is balanced,
    and so are ten contiguous folds where P is a multiple of 20.
    """

    left: Indices
    right: Indices
    same: NDArray[np.bool_]


def split_identities(faces: FaceSet, *, held_out: float, seed: int) -> tuple[FaceSet, FaceSet]:
    """Return the faces to train on and, of other identities, the faces to verify on.

    round(held_out * K) identities, drawn by `seed`, are held out; at least two are, and at least two are left. With
    `held_out` 0 nobody is: all are trained on, and the second set is empty.

    Args:
        faces: K identities, at least 4.
        held_out: share of the identities to verify on, in [0, 1).
        seed: of the draw.

    Raises:
        UserError: fewer than 4 identities, or too few images of the held-out ones for ten folds.
    """
    if not 0 <= held_out < 1:
        raise UserError(f"`0 <= held_out < 1` must hold, but got {held_out}; 0.4 is the default")
    num_identities = faces.num_identities
    if num_identities < 4:
        raise UserError(
            f"at least 4 identities are needed, two to train on and two to verify on, but `{faces.source}` holds"
            f" {num_identities}; add identities"
        )
    if held_out == 0:
        return faces, faces.select([])
    num_held_out = min(max(round(held_out * num_identities), 2), num_identities - 2)
    order = np.random.default_rng([seed, num_identities]).permutation(num_identities)
    train = faces.select(sorted(order[num_held_out:].tolist()))
    verification = faces.select(sorted(order[:num_held_out].tolist()))
    _check_pairs(verification.labels)
    return train, verification


def verification_pairs(labels: Labels, *, num_pairs: int, seed: int) -> Pairs:
    """Return distinct pairs of images, half genuine and half impostor, every possible pair equally likely.

    No pair comes twice, in either order, and no image is paired with itself. Where there are fewer genuine (or
    impostor) pairs than asked for, there are as many as possible of each kind, in equal number, rounded down to a
    multiple of ten where there are ten or more.

    Args:
        labels: [N], the identity of each image.
        num_pairs: pairs of both kinds together, at least 20.
        seed: of the draw.

    Raises:
        UserError: the images allow fewer than five pairs of a kind.
    """
    _check_pairs(labels)
    rng = np.random.default_rng([seed, len(labels)])
    order = np.argsort(labels, kind="stable")
    counts = np.unique(labels, return_counts=True)[1].astype(np.int64)
    num_genuine, num_impostor = _count_pairs(counts)
    number = min(num_pairs // 2, num_genuine, num_impostor)
    number -= number % NUM_FOLDS if number >= NUM_FOLDS else 0
    genuine = _genuine(rng.choice(num_genuine, number, replace=False), counts)
    impostor = _impostor(rng.choice(num_impostor, number, replace=False), counts)
    places = np.stack([genuine, impostor], axis=1).reshape(-1, 2)
    return Pairs(
        left=order[places[:, 0]].astype(np.int64),
        right=order[places[:, 1]].astype(np.int64),
        same=np.tile([True, False], number),
    )


def _count_pairs(counts: Indices) -> tuple[int, int]:
    total = int(counts.sum())
    num_genuine = int((counts * (counts - 1) // 2).sum())
    return num_genuine, total * (total - 1) // 2 - num_genuine


def _check_pairs(labels: Labels) -> None:
    num_genuine, num_impostor = _count_pairs(np.unique(labels, return_counts=True)[1].astype(np.int64))
    if min(num_genuine, num_impostor) < MIN_PAIRS_PER_KIND:
        raise UserError(
            f"10-fold verification needs at least {MIN_PAIRS_PER_KIND} pairs of one person and as many of two, but the"
            f" held-out images make {num_genuine} and {num_impostor}; add images, or hold out more identities"
        )


def _genuine(ranks: Indices, counts: Indices) -> Indices:
    """Return the pairs of places with these ranks among all genuine pairs, images sorted by identity; [n, 2]."""
    ends = np.cumsum(counts * (counts - 1) // 2)
    identity = np.searchsorted(ends, ranks, side="right")
    rank = ranks - (ends - counts * (counts - 1) // 2)[identity]
    # Rank r is the pair (a, b), a < b, with r = b * (b - 1) / 2 + a; the root may be off by one in floating point.
    b = ((1 + np.sqrt(8.0 * rank + 1)) / 2).astype(np.int64)
    b -= b * (b - 1) // 2 > rank
    b += b * (b + 1) // 2 <= rank
    a = rank - b * (b - 1) // 2
    start = (np.cumsum(counts) - counts)[identity]
    return np.stack([start + a, start + b], axis=1)


def _impostor(ranks: Indices, counts: Indices) -> Indices:
    """Return the pairs of places with these ranks among all impostor pairs, images sorted by identity; [n, 2]."""
    after = np.cumsum(counts)
    rest = after[-1] - after  # images of later identities: each image of this one pairs with all of them
    ends = np.cumsum(counts * rest)
    identity = np.searchsorted(ends, ranks, side="right")
    rank = ranks - (ends - counts * rest)[identity]
    first = (after - counts)[identity] + rank // rest[identity]
    return np.stack([first, after[identity] + rank % rest[identity]], axis=1)
