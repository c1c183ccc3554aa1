"""Verification figures equal a slow reference, scikit-learn, and a table worked out by hand."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, roc_curve
from sklearn.model_selection import KFold

from tuner.training.verification import THRESHOLDS, pair_distances, tar_at_far, ten_fold_accuracy

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def reference_accuracy(distances: Floats, same: Flags) -> tuple[float, float]:
    """Follow the protocol word by word: every threshold tried on every fold."""
    accuracies = []
    for train, test in KFold(10, shuffle=False).split(distances):
        scores = [np.mean(same[train] == (distances[train] < threshold)) for threshold in THRESHOLDS]
        best = THRESHOLDS[int(np.argmax(scores))]
        accuracies.append(accuracy_score(same[test], distances[test] < best))
    mean = sum(accuracies) / 10
    return mean, (sum((a - mean) ** 2 for a in accuracies) / 10) ** 0.5


def random_pairs(seed: int, *, num_pairs: int, on_grid: bool) -> tuple[Floats, Flags]:
    """Overlapping distances; on the grid of thresholds, ties and the strict comparison matter."""
    rng = np.random.default_rng(seed)
    same = rng.random(num_pairs) < 0.5
    same[:2] = True, False
    distances = np.clip(rng.normal(np.where(same, 0.9, 1.6), 0.5), 0, 4)
    return (THRESHOLDS[np.round(distances * 100).astype(int).clip(0, 399)] if on_grid else distances), same


@given(seed=st.integers(0, 2**32 - 1), num_pairs=st.integers(10, 90), on_grid=st.booleans())
@settings(max_examples=20, deadline=None)
def test_accuracy_equals_the_slow_reference(seed: int, num_pairs: int, on_grid: bool) -> None:
    distances, same = random_pairs(seed, num_pairs=num_pairs, on_grid=on_grid)
    assert ten_fold_accuracy(distances, same) == pytest.approx(reference_accuracy(distances, same), abs=1e-12)


@given(
    seed=st.integers(0, 2**32 - 1),
    num_pairs=st.integers(10, 400),
    on_grid=st.booleans(),
    far=st.floats(0, 1) | st.integers(0, 20).map(lambda k: k / 20),
)
@settings(max_examples=100, deadline=None)
def test_tar_equals_the_roc_curve(seed: int, num_pairs: int, on_grid: bool, far: float) -> None:
    distances, same = random_pairs(seed, num_pairs=num_pairs, on_grid=on_grid)
    fpr, tpr, _ = roc_curve(same, -distances, drop_intermediate=False)
    assert tar_at_far(distances, same, far=far) == pytest.approx(tpr[fpr <= far].max(), abs=1e-12)


def test_golden_table() -> None:
    """Ten pairs, so each fold is one pair. Thresholds are multiples of 0.01, a pair is accepted below.

    Genuine 0.10 0.20 0.30 0.40 0.90; impostors 0.50 0.60 0.70 0.80 1.00. Best on all: 0.41 (9 of 10 right, the genuine
    pair at 0.90 refused). Leaving out
      - a genuine pair but 0.40, or any impostor: 0.41 is still first; the pair left out is right, but 0.90 is wrong;
      - 0.40: thresholds from 0.31 on are equally good, first 0.31; 0.40 is refused, wrong;
      - 0.50: 0.41 is still first, 0.50 is refused, right.
    So 8 of 10 folds are right: mean 0.8, population deviation sqrt(0.8 * 0.2) = 0.4. TAR at FAR 0: 0.40 is the last
    below 0.50, so 4 of 5; at FAR 0.8 (0.80 accepted, threshold 1.00): 5 of 5.
    """
    distances = np.array([0.10, 0.50, 0.20, 0.60, 0.30, 0.70, 0.40, 0.80, 0.90, 1.00])
    same = np.array([True, False] * 5)
    assert ten_fold_accuracy(distances, same) == pytest.approx((0.8, 0.4), abs=1e-12)
    assert tar_at_far(distances, same, far=0.0) == pytest.approx(0.8, abs=1e-12)
    assert tar_at_far(distances, same, far=0.79) == pytest.approx(0.8, abs=1e-12)
    assert tar_at_far(distances, same, far=0.8) == 1.0


def test_comparison_is_strict() -> None:
    """All genuine pairs at 0.5, all impostors at 0.51: only the threshold 0.51 itself separates them."""
    same = np.arange(20) % 2 == 0
    threshold = THRESHOLDS[51]
    assert ten_fold_accuracy(np.where(same, 0.5, threshold), same) == (1.0, 0.0)
    assert ten_fold_accuracy(np.full(20, threshold), same)[0] == 0.5


def test_distances_are_between_unit_vectors() -> None:
    embeddings = np.array([[3, 0], [0, 0.5], [-7, 0], [0, 0]], dtype=np.float32)
    left, right = np.array([0, 0, 0, 0]), np.array([0, 1, 2, 3])
    assert pair_distances(embeddings, left, right) == pytest.approx([0, 2, 4, 1], abs=1e-15)


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 10 pairs, but got 9"):
        ten_fold_accuracy(np.zeros(9), np.ones(9, dtype=bool))


def test_six_thousand_pairs_take_milliseconds() -> None:
    distances, same = random_pairs(0, num_pairs=6000, on_grid=False)
    best = min(_seconds(distances, same) for _ in range(5))
    assert best < 0.02


def _seconds(distances: Floats, same: Flags) -> float:
    started = time.perf_counter()
    ten_fold_accuracy(distances, same)
    tar_at_far(distances, same, far=1e-3)
    return time.perf_counter() - started
