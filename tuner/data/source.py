"""From the name of a source of faces to the faces."""

from collections.abc import Callable
from pathlib import Path

from tuner.data.cache import cached, default_cache
from tuner.data.faces import FaceSet
from tuner.data.folder import folder_recipe
from tuner.data.recipe import Recipe
from tuner.data.records import find_records, record_recipe
from tuner.data.subset import EVERYTHING, MIN_IDENTITIES, Subset
from tuner.data.synthetic import synthetic_recipe
from tuner.errors import UserError
from tuner.names import SYNTHETIC


def load_faces(
    source: str,
    *,
    image_size: int,
    identities: int,
    images_per_identity: int,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    subset: Subset = EVERYTHING,
) -> FaceSet:
    """Return the faces that `source` names, decoded once and then memory-mapped from the cache.

    Args:
        source: "synthetic", or the path of a folder `root/identity/image.*`, of a `.rec` file with its `.idx` file
            beside it, or of a folder that holds them as `train.rec` and `train.idx`.
        image_size: side of the square images in pixels.
        identities: number of synthetic people, at least 4; ignored for other sources.
        images_per_identity: pictures of each synthetic person, at least 2; ignored for other sources.
        cache: folder of decoded images; None takes that of the environment variable FASTFACE_TUNER_CACHE, else the
            user's cache folder.
        progress: called with (images done, images in all) while images are decoded or rendered, and not at all where
            the cache has them.
        subset: which part of the set to return; nothing else of it is decoded. Of the synthetic people, who are drawn
            at random as it is, the first ones are taken.

    Raises:
        UserError: the source is missing or damaged, holds too few identities, an identity without an image, or an
            image that does not decode; or the decoded images fit neither the disk nor memory.
    """
    recipe: Recipe
    if source == SYNTHETIC:
        _check_synthetic(identities, images_per_identity)
        identities = _rendered_identities(identities, images_per_identity, subset)
        recipe = synthetic_recipe(
            identities=identities, images_per_identity=images_per_identity, image_size=image_size, progress=progress
        )
    else:
        path = Path(source).expanduser()
        records = find_records(path)
        if records is None:
            recipe = folder_recipe(path, image_size=image_size, progress=progress, subset=subset)
        else:
            recipe = record_recipe(records, image_size=image_size, progress=progress, subset=subset)
    return cached(recipe, cache=default_cache() if cache is None else cache)


def _rendered_identities(identities: int, images_per_identity: int, subset: Subset) -> int:
    if subset.max_identities is not None:
        identities = min(identities, subset.max_identities)
    if subset.max_images is not None:
        identities = min(identities, subset.max_images // images_per_identity)
    subset.check(identities, source=SYNTHETIC)
    return identities


def _check_synthetic(identities: int, images_per_identity: int) -> None:
    if identities < MIN_IDENTITIES:
        raise UserError(
            f"`identities >= {MIN_IDENTITIES}` must hold, two to train on and two to verify on, but got {identities};"
            " 240 is the default"
        )
    if images_per_identity < 2:
        raise UserError(
            f"`images_per_identity >= 2` must hold, a genuine pair needs two, but got {images_per_identity};"
            " 20 is the default"
        )
