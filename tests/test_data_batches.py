"""Batches: each image once an epoch, and a function of (seed, step) whatever was asked before and wherever."""

import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.data.batches import Batches, to_tensor
from tuner.data.faces import FaceSet
from tuner.errors import UserError

CPU = torch.device("cpu")


def numbered_faces(num_images: int, *, size: int = 8) -> FaceSet:
    """Return faces whose pixels tell which image they belong to, and where in it they lie."""
    images = np.zeros((num_images, size, size, 3), dtype=np.uint8)
    images[..., 0] = np.arange(num_images)[:, None, None]
    images[..., 1] = np.arange(size)[:, None]
    images[..., 2] = np.arange(size)
    labels = np.arange(num_images, dtype=np.int64) % min(num_images, 4)
    return FaceSet(images, labels, tuple("abcd"[: min(num_images, 4)]), "digest", "test")


def make(num_images: int, batch_size: int, *, seed: int = 0, flip: float = 0.5, crop: float = 0.25) -> Batches:
    faces = numbered_faces(num_images)
    return Batches(faces, batch_size=batch_size, seed=seed, flip=flip, crop=crop, device=CPU)


@given(num_images=st.integers(1, 40), batch_size=st.integers(1, 90), seed=st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_every_epoch_holds_each_image_once(num_images: int, batch_size: int, seed: int) -> None:
    batches = make(num_images, batch_size, seed=seed)
    num_steps = 3 * num_images // batch_size + 2
    sequence = np.concatenate([batches.indices(step) for step in range(num_steps)])
    for start in range(0, len(sequence) - num_images + 1, num_images):
        assert sorted(sequence[start : start + num_images]) == list(range(num_images))


@given(steps=st.lists(st.integers(0, 60), min_size=2, max_size=8), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_batch_does_not_depend_on_the_batches_before(steps: list[int], seed: int) -> None:
    batches = make(10, 7, seed=seed)
    for step in steps:
        images, labels = batches(step)
        fresh_images, fresh_labels = make(10, 7, seed=seed)(step)
        assert torch.equal(images, fresh_images)
        assert torch.equal(labels, fresh_labels)


def test_a_batch_is_the_same_in_a_fresh_process() -> None:
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_data_batches import digest_of, make\n"
        "print(digest_of(make(9, 4, seed=3), 11))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    batches = make(9, 4, seed=3)
    assert run.stdout.strip() == digest_of(batches, 11) != digest_of(batches, 12)


def digest_of(batches: Batches, step: int) -> str:
    images, labels = batches(step)
    return hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()


def test_seeds_and_epochs_differ() -> None:
    orders = {tuple(make(30, 30, seed=seed).indices(epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_labels_and_pixels_belong_to_the_image() -> None:
    batches = make(20, 32, flip=0.0, crop=0.0)
    images, labels = batches(1)
    chosen = batches.indices(1)
    faces = numbered_faces(20)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert torch.equal(labels, torch.from_numpy(faces.labels[chosen]))
    assert torch.equal(images, to_tensor(faces.images[chosen]))


def test_augmentation_is_a_flip_and_a_crop_after_padding() -> None:
    """Each image is one of the flips and crops that a plain implementation makes, and most of them turn up."""
    batches = make(6, 96, flip=0.5, crop=0.25)
    images, _ = batches(0)
    stored = numbered_faces(6).images
    seen = set()
    for image, index in zip(images, batches.indices(0), strict=True):
        choices = {}
        for flip in (False, True):
            padded = np.pad(stored[index][:, :: -1 if flip else 1], ((2, 2), (2, 2), (0, 0)), mode="edge")
            for down, across in itertools.product(range(5), range(5)):
                crop = to_tensor(padded[None, down : down + 8, across : across + 8])[0]
                choices[flip, down, across] = torch.equal(crop, image)
        assert sum(choices.values()) == 1
        seen.add(max(choices, key=lambda choice: choices[choice]))
    assert len(seen) > 25  # of 50


def test_normalisation() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    expected = (torch.arange(256, dtype=torch.float64) / 255 - 0.5) / 0.5
    got = to_tensor(images)
    assert got.shape == (1, 3, 16, 16)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(got[0, 1].flatten().double(), expected, atol=1e-7)
    assert torch.equal(to_tensor(torch.from_numpy(images)), got)


@pytest.mark.parametrize(
    ("setting", "value"), [("batch_size", 0), ("flip", 1.5), ("flip", -0.1), ("crop", 0.3), ("crop", float("nan"))]
)
def test_settings_out_of_range_are_named(setting: str, value: float) -> None:
    arguments: dict[str, float] = {"batch_size": 4, "flip": 0.5, "crop": 0.1, setting: value}
    with pytest.raises(UserError, match=rf"`.*{setting}.*` must hold, but got"):
        Batches(numbered_faces(4), seed=0, device=CPU, **arguments)  # type: ignore[arg-type]
