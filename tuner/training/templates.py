"""1:1 verification of templates (IJB-B, IJB-C): many images of a person as one vector, and the TAR at small FARs."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tuner.data.faces import Images
from tuner.data.ijb import TemplateSet
from tuner.training.verification import Flags, Floats, Indices
from tuner.training.verify import Embed, flip_sum

FARS: Final = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
PAIRS_AT_ONCE: Final = 2**13
"""Pairs that are scored together: 64 MiB of embeddings of length 512."""


def verify_templates(
    faces: TemplateSet, embed: Embed, *, batch_size: int = 128, progress: Callable[[int, int], None] | None = None
) -> Mapping[float, float]:
    """Return the TAR at each of `FARS` of a network on IJB-B or IJB-C.

    Memory holds a block of images, the T templates and the P scores, and not the embeddings of all images.

    Args:
        faces: the set.
        embed: the network, for crops of 112x112.
        batch_size: images that `embed` gets at once.
        progress: called with (images done, images in all) after each block.
    """
    return tar_of_templates(faces, embedded(faces.crops(progress=progress), embed, batch_size=batch_size))


def embedded(blocks: Iterable[Images], embed: Embed, *, batch_size: int = 128) -> Iterable[Floats]:
    """Yield f(x) + f(flip x) of each block of images, the length kept."""
    for block in blocks:
        yield flip_sum(block, embed, batch_size=batch_size)


def tar_of_templates(faces: TemplateSet, embeddings: Iterable[Floats]) -> Mapping[float, float]:
    """Return the TAR at each of `FARS`, from embeddings of the images in order, in blocks [n, D] of any size."""
    templates = template_embeddings(faces, embeddings)
    scores = pair_similarities(templates, faces.pairs.left, faces.pairs.right)
    return dict(zip(FARS, tar_at_nearest_far(scores, faces.pairs.same, fars=FARS), strict=True))


def template_embeddings(faces: TemplateSet, embeddings: Iterable[Floats]) -> NDArray[np.float64]:
    """Return the T templates, [T, D], of length 1: the mean within each medium, summed over media, normalised.

    An embedding counts with its length (a network gives short ones to images that it cannot read) times the detector's
    score. The sum is linear in the embeddings, so each is added to its template as it comes, with the score over the
    number of images of its medium as its weight; a template of zeros stays zero.

    Args:
        faces: which image belongs to which medium and template.
        embeddings: of the images in order, in blocks [n, D] of any size.
    """
    media = np.stack([faces.template, faces.medium], axis=1)
    _, group, counts = np.unique(media, axis=0, return_inverse=True, return_counts=True)
    weights = faces.scores / counts[group.reshape(-1)]
    sums: NDArray[np.float64] | None = None
    start = 0
    for block in embeddings:
        place = faces.template[start : start + len(block)]
        if len(place) < len(block):
            raise ValueError(f"there must be {len(faces.template)} embeddings, but there are more")
        if sums is None:
            sums = np.zeros((faces.num_templates, block.shape[1]))
        order = np.argsort(place, kind="stable")
        first = np.flatnonzero(np.diff(place[order], prepend=-1))
        weighted = block.astype(np.float64)[order] * weights[start : start + len(block)][order, None]
        sums[place[order][first]] += np.add.reduceat(weighted, first)
        start += len(block)
    if sums is None or start < len(faces.template):
        raise ValueError(f"there must be {len(faces.template)} embeddings, but there are {start}")
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return sums


def pair_similarities(templates: Floats, left: Indices, right: Indices) -> NDArray[np.float64]:
    """Return the dot product of each pair of templates, [P], `PAIRS_AT_ONCE` at a time."""
    scores = np.empty(len(left))
    for start in range(0, len(left), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        np.einsum("pd,pd->p", templates[left[part]], templates[right[part]], out=scores[part])
    return scores


def tar_at_nearest_far(scores: Floats, same: Flags, *, fars: Iterable[float]) -> list[float]:
    """Return for each FAR the TAR at the point of the ROC curve whose false-accept rate is nearest.

    This is how InsightFace reads IJB: on scikit-learn's curve, which keeps only the points where it bends; of points as
    near, the one with the larger rates counts.

    Args:
        scores: [P], larger for pairs that look more alike.
        same: [P], with at least one pair of each kind.
        fars: each in [0, 1].
    """
    false, true = _roc_corners(scores, same)
    # From large to small, so that the first of the nearest is the one with the larger rates.
    fpr, tpr = (false / false[-1])[::-1], (true / true[-1])[::-1]
    return [float(tpr[np.argmin(np.abs(fpr - far))]) for far in fars]


def _roc_corners(scores: Floats, same: Flags) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many impostor and genuine pairs are accepted at each threshold where the ROC curve bends, from 0."""
    order = np.argsort(scores)[::-1]
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.cumsum(same[order], dtype=np.int64)[ends]
    false = 1 + ends - true
    bends = (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0)
    keep = np.concatenate([[True], bends, [True]])[: len(ends)]
    return np.append(0, false[keep]), np.append(0, true[keep])
