"""Synthetic faces: the embedded data set, which needs no download.

A person is a number; so is a picture of that person. Every pixel is a function of the two and of the image size:
identity factors (proportions, skin, hair, eyes, nose, mouth, beard, glasses) are drawn once a person, nuisance factors
(pose, light, camera, expression, what is worn or in the way, background) once a picture, and both are rendered as an
illustrated portrait. A larger set contains the smaller one.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from tuner.data.faces import Images
from tuner.data.recipe import Recipe, recipe_key
from tuner.data.synthetic_factors import RENDERER_VERSION, draw_person, draw_scenes
from tuner.data.synthetic_portrait import render
from tuner.names import SYNTHETIC

_SCENES_AT_ONCE: Final = 5
"""Pictures rendered together: enough to hide the calls' overhead, few enough to stay in the processor's cache."""


def render_faces(identity: int, *, images: int, image_size: int) -> Images:
    """Return the first `images` pictures of person number `identity`, uint8 RGB [images, image_size, image_size, 3]."""
    person = draw_person(identity)
    parts = []
    for start in range(0, images, _SCENES_AT_ONCE):
        scene, noise = draw_scenes(identity, range(start, min(start + _SCENES_AT_ONCE, images)))
        parts.append(render(person, scene, noise, size=image_size))
    return np.concatenate(parts)


def synthetic_recipe(
    *,
    identities: int,
    images_per_identity: int,
    image_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Recipe:
    """Return how to make the faces of persons 0 to `identities` - 1, `images_per_identity` pictures each.

    Args:
        identities: number of people.
        images_per_identity: pictures of each.
        image_size: side of the square images in pixels.
        progress: called with (images done, images in all).
    """
    return Recipe(
        key=recipe_key(
            kind=SYNTHETIC,
            version=RENDERER_VERSION,
            identities=identities,
            images_per_identity=images_per_identity,
            image_size=image_size,
        ),
        image_size=image_size,
        labels=np.repeat(np.arange(identities, dtype=np.int64), images_per_identity),
        names=tuple(f"synthetic-{identity:05d}" for identity in range(identities)),
        source=SYNTHETIC,
        blocks=lambda: _blocks(identities, images_per_identity, image_size, progress),
    )


def _blocks(
    identities: int, images: int, image_size: int, progress: Callable[[int, int], None] | None
) -> Iterator[Images]:
    def one(identity: int) -> Images:
        return render_faces(identity, images=images, image_size=image_size)

    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(max_workers=workers) as pool:  # numpy computes outside the GIL
        for start in range(0, identities, 2 * workers):
            for offset, block in enumerate(pool.map(one, range(start, min(start + 2 * workers, identities)))):
                yield block
                if progress is not None:
                    progress((start + offset + 1) * images, identities * images)
