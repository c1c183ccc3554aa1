"""Synthetic faces: the same pixels for the same numbers, people who differ, pictures that differ more."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from tuner.data.faces import FaceSet
from tuner.data.source import load_faces
from tuner.data.split import verification_pairs
from tuner.data.synthetic import render_faces, synthetic_recipe
from tuner.data.synthetic_factors import RENDERER_VERSION
from tuner.errors import UserError


@pytest.fixture(scope="module")
def faces() -> FaceSet:
    recipe = synthetic_recipe(identities=40, images_per_identity=10, image_size=32)
    return recipe.finished(np.concatenate(list(recipe.blocks())), digest="")


def test_a_set_is_identities_in_order(faces: FaceSet) -> None:
    assert faces.images.shape == (400, 32, 32, 3)
    assert faces.labels.tolist() == [identity for identity in range(40) for _ in range(10)]
    assert len(set(faces.names)) == 40


def test_a_larger_set_contains_the_smaller_one(faces: FaceSet) -> None:
    for identity in (0, 7, 39):
        alone = render_faces(identity, images=3, image_size=32).astype(int)
        together = faces.images[10 * identity : 10 * identity + 3].astype(int)
        assert np.abs(alone - together).max() <= 1


def test_pixels_are_the_same_in_a_fresh_process() -> None:
    program = (
        "import hashlib\n"
        "from tuner.data.synthetic import render_faces\n"
        "print(hashlib.sha256(render_faces(5, images=7, image_size=48).tobytes()).hexdigest())\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    here = render_faces(5, images=7, image_size=48).tobytes()
    assert run.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_pixels_are_the_same_on_every_machine() -> None:
    """To rounding: mean colours of persons, as recorded for this version of the renderer."""
    recorded = {0: (0.4973, 0.4474, 0.4045), 1: (0.4190, 0.3422, 0.2977), 239: (0.6133, 0.5208, 0.4071)}
    assert RENDERER_VERSION == 1, "record the colours of the new version"
    for identity, colour in recorded.items():
        mean = render_faces(identity, images=6, image_size=48).mean(axis=(0, 1, 2)) / 255
        assert mean == pytest.approx(colour, abs=1e-3)


def test_no_two_pictures_are_alike(faces: FaceSet) -> None:
    assert len({image.tobytes() for image in faces.images}) == len(faces.images)
    assert (faces.images.reshape(400, -1).std(axis=1) > 8).all()  # none is blank


def test_sizes_show_the_same_picture() -> None:
    small = render_faces(3, images=4, image_size=48)
    large = render_faces(3, images=4, image_size=96)
    shrunk = large.reshape(4, 48, 2, 48, 2, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - small).mean() < 8


def accuracy(distances: np.ndarray, same: np.ndarray) -> float:
    """Return the best accuracy that any one threshold reaches."""
    order = same[np.argsort(distances)]
    return float((np.cumsum(order) + np.cumsum(~order[::-1])[::-1]).max() / len(order))


def test_raw_pixels_and_mean_colours_hardly_tell_people_apart(faces: FaceSet) -> None:
    """Pose, light and camera change a picture more than the person does."""
    pairs = verification_pairs(faces.labels, num_pairs=3000, seed=0)
    pixels = faces.images.reshape(len(faces.images), -1).astype(np.float32)
    colours = faces.images.reshape(len(faces.images), -1, 3).mean(axis=1)
    for features, ceiling in ((pixels, 0.70), (colours, 0.66)):
        distances = np.linalg.norm(features[pairs.left] - features[pairs.right], axis=1)
        assert 0.5 < accuracy(distances, pairs.same) < ceiling


def test_the_person_shows_through(faces: FaceSet) -> None:
    """The mean picture of a person's first half is nearest to that person's second half far more often than by luck."""
    pictures = faces.images.reshape(40, 10, -1).astype(np.float32)
    first, second = pictures[:, :5].mean(axis=1), pictures[:, 5:].mean(axis=1)
    distances = np.linalg.norm(first[:, None] - second[None], axis=2)
    assert (distances.argmin(axis=1) == np.arange(40)).mean() > 0.15  # luck: 0.025


def test_too_few_are_refused() -> None:
    with pytest.raises(UserError, match="`identities >= 4` must hold"):
        load_faces("synthetic", image_size=32, identities=3, images_per_identity=5)
    with pytest.raises(UserError, match="`images_per_identity >= 2` must hold"):
        load_faces("synthetic", image_size=32, identities=10, images_per_identity=1)


def test_progress_counts_images() -> None:
    calls: list[tuple[int, int]] = []
    load_faces(
        "synthetic", image_size=32, identities=5, images_per_identity=3, progress=lambda *done: calls.append(done)
    )
    assert calls == [(3, 15), (6, 15), (9, 15), (12, 15), (15, 15)]
