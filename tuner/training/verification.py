"""Open-set verification: are two faces the same person? Accuracy by the 10-fold protocol, and TAR at a FAR.

numpy only: embeddings come in as arrays, from whatever model made them.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]

NUM_FOLDS: Final = 10
THRESHOLDS: Final = np.arange(0, 4, 0.01)
"""Squared distances of unit vectors lie in [0, 4]; the protocol tries these 400 values."""


def pair_distances(embeddings: Floats, left: Indices, right: Indices) -> NDArray[np.float64]:
    """Return the squared L2 distance of each pair of embeddings after L2 normalisation, in float64.

    Args:
        embeddings: [N, D], of any length; a vector of zeros stays zero.
        left: [P], row of the first of each pair.
        right: [P], row of the second.

    Returns:
        [P], each in [0, 4].
    """
    rows = embeddings.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    distances: NDArray[np.float64] = np.square(rows[left] - rows[right]).sum(axis=1)
    return distances


def ten_fold_accuracy(distances: NDArray[np.float64], same: Flags) -> tuple[float, float]:
    """Return mean and population standard deviation over ten folds of the verification accuracy.

    Folds are contiguous in pair order, not shuffled; where P is no multiple of ten, the first ones are longer by one.
    For each fold, the threshold is the first of `THRESHOLDS` with the best accuracy on the other nine; a pair is
    accepted where its distance is strictly less. This is the protocol of LFW (Huang et al., 2007) as InsightFace
    computes it.

    Args:
        distances: [P] squared distances, P >= 10.
        same: [P] whether the pair shows one person.
    """
    if len(distances) < NUM_FOLDS:
        raise ValueError(f"the 10-fold protocol needs at least {NUM_FOLDS} pairs, but got {len(distances)}")
    folds = zip(np.array_split(distances, NUM_FOLDS), np.array_split(same, NUM_FOLDS), strict=True)
    # Right answers per fold and threshold, [10, 400]: accepted genuine pairs and refused impostors.
    right = np.stack([_below(d[s]) + np.sum(~s) - _below(d[~s]) for d, s in folds])
    sizes = np.array([len(part) for part in np.array_split(same, NUM_FOLDS)])
    best = np.argmax(right.sum(axis=0) - right, axis=1)
    accuracies = right[np.arange(NUM_FOLDS), best] / sizes
    return float(accuracies.mean()), float(accuracies.std())


def tar_at_far(distances: NDArray[np.float64], same: Flags, *, far: float) -> float:
    """Return the true-accept rate at the largest distance threshold whose false-accept rate is at most `far`.

    Equal to `max(tpr[fpr <= far])` of the ROC curve. With n impostor pairs the FAR moves in steps of 1/n; below 1/n no
    impostor may be accepted at all.

    Args:
        distances: [P] squared distances.
        same: [P] whether the pair shows one person, with at least one pair of each kind.
        far: in [0, 1].
    """
    impostors = np.sort(distances[~same])
    rates = np.arange(len(impostors) + 1) / len(impostors)
    accepted = int(np.searchsorted(rates, far, side="right")) - 1
    threshold = impostors[accepted] if accepted < len(impostors) else np.inf
    return float(np.mean(distances[same] < threshold))


def _below(distances: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return for each of `THRESHOLDS` how many distances are strictly less."""
    return np.searchsorted(np.sort(distances), THRESHOLDS, side="left")
