"""Splits by identity, and pairs to verify on."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.data.faces import FaceSet, Labels
from tuner.data.split import Pairs, split_identities, verification_pairs
from tuner.errors import UserError


def make_faces(counts: list[int]) -> FaceSet:
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    images = np.zeros((len(labels), 4, 4, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))
    return FaceSet(images, labels, tuple(f"p{k}" for k in range(len(counts))), "digest", "test")


@given(
    num_identities=st.integers(4, 30),
    held_out=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
    each=st.integers(4, 6),
)
@settings(max_examples=60, deadline=None)
def test_sides_are_disjoint_and_complete(num_identities: int, held_out: float, seed: int, each: int) -> None:
    faces = make_faces([each] * num_identities)
    train, verification = split_identities(faces, held_out=held_out, seed=seed)
    assert not set(train.names) & set(verification.names)
    assert set(train.names) | set(verification.names) == set(faces.names)
    assert min(train.num_identities, verification.num_identities) >= 2
    expected = round(held_out * num_identities)
    assert verification.num_identities == min(max(expected, 2), num_identities - 2)
    images = [tuple(side.images[:, 0, 0, 0]) for side in (train, verification)]
    assert sorted(images[0] + images[1]) == list(range(len(faces.labels)))
    for side in (train, verification):
        assert set(side.labels) == set(range(side.num_identities))
        for image, label in zip(side.images[:, 0, 0, 0], side.labels, strict=True):
            assert side.names[label] == faces.names[faces.labels[image]]


def test_a_split_is_a_function_of_the_seed() -> None:
    faces = make_faces([5] * 12)
    first, again, other = (split_identities(faces, held_out=0.5, seed=seed)[0] for seed in (1, 1, 2))
    assert first.names == again.names
    assert first.digest == again.digest
    assert first.names != other.names
    assert first.digest != other.digest


def test_nobody_need_be_held_out() -> None:
    """Then one image of each is enough, since no pairs are drawn."""
    faces = make_faces([1] * 4)
    train, verification = split_identities(faces, held_out=0, seed=0)
    assert (train.names, train.digest) == (faces.names, faces.digest)
    assert (verification.num_identities, len(verification.labels)) == (0, 0)


def test_selection_relabels_in_the_order_given() -> None:
    faces = make_faces([2, 3, 1])
    chosen = faces.select([2, 0])
    assert chosen.names == ("p2", "p0")
    assert chosen.labels.tolist() == [1, 1, 0]
    assert chosen.images[:, 0, 0, 0].tolist() == [0, 1, 5]
    assert len({faces.digest, chosen.digest, faces.select([0, 2]).digest}) == 3
    for wrong in ([0, 0], [3], [-1]):
        with pytest.raises(ValueError, match="distinct"):
            faces.select(wrong)


def check_pairs(pairs: Pairs, labels: Labels) -> int:
    """Check what always holds; return the number of genuine pairs."""
    assert len(pairs.left) == len(pairs.right) == len(pairs.same)
    assert np.array_equal(labels[pairs.left] == labels[pairs.right], pairs.same)
    unordered = {frozenset(pair) for pair in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)}
    assert len(unordered) == len(pairs.same)
    assert all(len(pair) == 2 for pair in unordered)
    assert pairs.same.sum() * 2 == len(pairs.same)
    return int(pairs.same.sum())


@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=12),
    num_pairs=st.integers(1, 20).map(lambda tens: 20 * tens),
    seed=st.integers(0, 2**32),
    shuffle=st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None)
def test_pairs_are_distinct_right_and_balanced(counts: list[int], num_pairs: int, seed: int, shuffle: object) -> None:
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    labels = labels[np.random.default_rng(seed).permutation(len(labels))]
    same = [labels[a] == labels[b] for a, b in itertools.combinations(range(len(labels)), 2)]
    possible = min(sum(same), len(same) - sum(same))
    if possible < 5:
        with pytest.raises(UserError, match="10-fold verification needs"):
            verification_pairs(labels, num_pairs=num_pairs, seed=seed)
        return
    pairs = verification_pairs(labels, num_pairs=num_pairs, seed=seed)
    number = check_pairs(pairs, labels)
    wanted = min(num_pairs // 2, possible)
    assert number == (wanted - wanted % 10 if wanted >= 10 else wanted)
    if number >= 10:
        assert {fold.sum() * 2 == len(fold) == number // 5 for fold in np.split(pairs.same, 10)} == {True}


def test_all_pairs_come_where_all_are_asked_for() -> None:
    """The ranks of genuine and impostor pairs are decoded to every pair, once."""
    labels = np.repeat(np.arange(5, dtype=np.int64), [5, 1, 4, 2, 3])  # 20 genuine pairs, 85 impostor pairs
    genuine = verification_pairs(labels, num_pairs=10_000, seed=0)
    assert check_pairs(genuine, labels) == 20
    impostors = set()
    for seed in range(60):
        pairs = verification_pairs(labels, num_pairs=10_000, seed=seed)
        rows = np.stack([pairs.left, pairs.right], axis=1)[~pairs.same]
        impostors |= {frozenset(pair) for pair in rows.tolist()}
    assert len(impostors) == 85


def test_pairs_are_a_function_of_the_seed() -> None:
    labels = np.repeat(np.arange(20, dtype=np.int64), 10)
    first, again, other = (verification_pairs(labels, num_pairs=200, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.left, again.left)
    assert np.array_equal(first.right, again.right)
    assert not np.array_equal(first.left, other.left)


def test_large_sets_are_sampled_without_listing_all_pairs() -> None:
    labels = np.repeat(np.arange(20_000, dtype=np.int64), 30)
    assert check_pairs(verification_pairs(labels, num_pairs=6000, seed=0), labels) == 3000


def test_too_small_sets_are_refused() -> None:
    with pytest.raises(UserError, match=r"at least 4 identities are needed.*holds 3"):
        split_identities(make_faces([5] * 3), held_out=0.4, seed=0)
    with pytest.raises(UserError, match=r"10-fold verification needs.*make 0 and 1"):
        split_identities(make_faces([1] * 4), held_out=0.4, seed=0)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="`0 <= held_out < 1` must hold"):
            split_identities(make_faces([5] * 4), held_out=share, seed=0)
