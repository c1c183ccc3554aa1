"""From what a person names to what can be verified on: sets of pairs, IJB-B and IJB-C, or pairs drawn from faces."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tuner.data.ijb import TEMPLATE_SIZE, TemplateSet, is_ijb, load_ijb
from tuner.data.records import RECORD_SUFFIX
from tuner.data.source import load_faces
from tuner.data.subset import Subset
from tuner.data.verification_sets import (
    BIN_SUFFIX,
    Progress,
    VerificationSet,
    compared_only,
    drawn_set,
    load_verification_set,
)
from tuner.errors import UserError

DECODED_IMAGES: Final = 100_000
"""Of a larger set of faces, whole identities up to this number of images are drawn, and no others are decoded."""


@dataclass(frozen=True, slots=True)
class Source:
    """Something to verify on: where it is, and what; `note` is what a person should know of how it was made."""

    path: str
    faces: VerificationSet | TemplateSet
    note: str = ""


def find_sources(named: Sequence[str]) -> list[str]:
    """Return what there is to verify on, in order: what is named, with the `.bin` sets of a folder in its place.

    Raises:
        UserError: something cannot be looked at.
    """
    return [path for each in named for path in _inside(each)]


def open_source(
    path: str,
    *,
    image_size: int,
    num_pairs: int,
    seed: int,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Source:
    """Return one of what `find_sources` found, decoded but for the images of IJB.

    A folder that is IJB-B or IJB-C is read as such; other folders and `.rec` files are faces, of which pairs are drawn;
    and all other files are verification sets.

    Args:
        path: of a file or folder.
        image_size: side of the images in pixels.
        num_pairs: pairs to draw from faces, both kinds together.
        seed: of the draw.
        cache: folder of decoded images; None takes the default one.
        progress: called with (images done, images in all) while images are decoded.

    Raises:
        UserError: it is missing, damaged or no such thing, or IJB is asked for at another size than 112.
    """
    place = Path(path).expanduser()
    if not place.is_dir() and place.suffix.lower() != RECORD_SUFFIX:
        return Source(path, load_verification_set(place, image_size=image_size, cache=cache, progress=progress))
    if is_ijb(place):
        if image_size != TEMPLATE_SIZE:
            raise UserError(
                f"IJB is verified at {TEMPLATE_SIZE} x {TEMPLATE_SIZE} pixels, but the backbone takes {image_size};"
                f" leave out `{path}`"
            )
        templates = load_ijb(place)
        counts = (len(templates.files), templates.num_templates, len(templates.pairs.same))
        return Source(path, templates, "{}: {:,} images, {:,} templates, {:,} pairs".format(path, *counts))
    return _drawn(place, image_size=image_size, num_pairs=num_pairs, seed=seed, cache=cache, progress=progress)


def _drawn(
    path: Path, *, image_size: int, num_pairs: int, seed: int, cache: Path | None, progress: Progress | None
) -> Source:
    faces = load_faces(
        str(path.absolute()),  # for a folder may be called "synthetic"
        image_size=image_size,
        identities=0,
        images_per_identity=0,
        cache=cache,
        progress=progress,
        subset=Subset(max_images=DECODED_IMAGES, seed=seed),
    )
    drawn = compared_only(drawn_set(faces, num_pairs=num_pairs, seed=seed))
    note = (
        f"{path}: {len(drawn.pairs.same):,} pairs, drawn with seed {seed} from {len(faces.labels):,} images of"
        f" {faces.num_identities:,} people"
    )
    return Source(str(path), drawn, note)


def _inside(named: str) -> Iterator[str]:
    place = Path(named).expanduser()
    try:
        if not place.is_dir() or is_ijb(place):
            yield named
            return
        sets = sorted(each for each in place.iterdir() if each.suffix.lower() == BIN_SUFFIX and each.is_file())
    except OSError as error:
        raise UserError(f"`{named}` must be readable, but {error.strerror}; check its name and rights") from error
    yield from map(str, sets) if sets else [named]
