"""A look at encoded images, a sample or all: do they decode, how large are they, are they grey, which are equal."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tuner.data.decoder import UndecodableError, decode_image
from tuner.data.findings import Checkup, counted
from tuner.errors import UserError

SAMPLE: Final = 1000
"""So many images are looked at where it is not all of them."""
ALIGNED: Final = 112
_BLOCK: Final = 256
_SIZES: Final = 3

Progress = Callable[[float], object]


@dataclass(frozen=True, slots=True)
class _Seen:
    """One image: width and height, None where it does not decode for this `reason`; a digest of its bytes."""

    size: tuple[int, int] | None
    grey: bool
    digest: int
    reason: str = ""


@dataclass(slots=True)
class _Tally:
    """What the images looked at have in common; images by their place."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    grey: int = 0
    damaged: dict[int, str] = field(default_factory=dict)


def check_images(
    checkup: Checkup,
    num_images: int,
    *,
    load: Callable[[int], bytes],
    name: Callable[[int], str],
    person: Callable[[int], int] | None = None,
    full: bool,
    progress: Progress,
    aligned: bool = True,
) -> None:
    """Look at some images, evenly drawn, or at all of them, and add what is found to `checkup`.

    Args:
        checkup: of the set.
        num_images: how many there are.
        load: returns the encoded image of a place; OSError or UserError where it cannot be read.
        name: returns what people call it.
        person: returns who is on it; None where that is not known.
        full: look at all, also for copies.
        progress: told the share that is done.
        aligned: whether crops of 112x112 are expected.
    """
    chosen: Sequence[int] = range(num_images)
    if not full and num_images > SAMPLE:
        chosen = np.sort(np.random.default_rng(0).choice(num_images, SAMPLE, replace=False)).tolist()
    tally = _Tally()
    digests = np.zeros(num_images if full else 0, np.uint64)  # 8 bytes an image, however many there are
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(chosen), _BLOCK):
            block = chosen[start : start + _BLOCK]
            for place, seen in zip(block, pool.map(lambda place: _look(load, place), block), strict=True):
                _count(tally, place, seen)
                if full:
                    digests[place] = seen.digest
            progress((start + len(block)) / len(chosen))
    looked = "all images" if len(chosen) == num_images else f"{len(chosen):,} of {num_images:,} images"
    checkup.numbers |= {"images_looked_at": len(chosen), "images_damaged": len(tally.damaged)}
    _tell_sizes(checkup, tally, looked=looked, aligned=aligned)
    if tally.damaged:
        names = [f"{name(place)} ({reason})" for place, reason in tally.damaged.items()]
        number = counted(len(tally.damaged), "image")
        checkup.problem(f"{number} of {len(chosen):,} looked at cannot be decoded; replace or remove", names)
    if len(chosen) < num_images:
        checkup.facts.append(f"looked at {looked}; --full looks at all, also for copies")
    if full:
        _tell_copies(checkup, digests, name=name, person=person)


def _look(load: Callable[[int], bytes], place: int) -> _Seen:
    try:
        encoded = load(place)
        pixels = decode_image(encoded, image_size=None)
    except UndecodableError as error:
        return _Seen(None, grey=False, digest=0, reason=str(error))
    except OSError as error:
        return _Seen(None, grey=False, digest=0, reason=error.strerror or type(error).__name__)
    except UserError as error:
        return _Seen(None, grey=False, digest=0, reason=str(error))
    grey = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
    digest = int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest())
    return _Seen((pixels.shape[1], pixels.shape[0]), grey, digest)


def _count(tally: _Tally, place: int, seen: _Seen) -> None:
    if seen.size is None:
        tally.damaged[place] = seen.reason
        return
    tally.sizes[seen.size] += 1
    tally.grey += seen.grey


def _tell_sizes(checkup: Checkup, tally: _Tally, *, looked: str, aligned: bool) -> None:
    sizes = [(f"{width}x{height}", number) for (width, height), number in tally.sizes.most_common()]
    checkup.numbers["image_sizes"] = dict(sizes)
    checkup.numbers["images_grey"] = tally.grey
    if not sizes:
        return
    shown = [f"{size} ({number:,})" for size, number in sizes[:_SIZES]]
    rest = f" and {len(sizes) - _SIZES} other sizes" if len(sizes) > _SIZES else ""
    checkup.facts.append(f"image sizes, of {looked}: {', '.join(shown)}{rest}")
    total = sum(tally.sizes.values())
    other = total - tally.sizes[(ALIGNED, ALIGNED)]
    if aligned and other:
        checkup.note(
            f"{counted(other, 'image')} of {total:,} looked at not {ALIGNED}x{ALIGNED}, so probably not aligned; the"
            " largest square in the middle is resized"
        )
    if tally.grey:
        checkup.note(f"{counted(tally.grey, 'image')} of {total:,} looked at grey; they are trained on as they are")


def _tell_copies(
    checkup: Checkup,
    digests: NDArray[np.uint64],
    *,
    name: Callable[[int], str],
    person: Callable[[int], int] | None,
) -> None:
    """Name the images that are equal to an earlier one; those that do not decode have the digest 0."""
    _, firsts, which = np.unique(digests, return_index=True, return_inverse=True)
    earlier = firsts[which]
    copies = np.flatnonzero((earlier != np.arange(len(digests))) & (digests != 0)).tolist()
    pairs = [
        (first, copy, person is not None and person(first) != person(copy))
        for first, copy in zip(earlier[copies].tolist(), copies, strict=True)
    ]
    checkup.numbers["images_copied"] = len(pairs)
    apart = [f"{name(copy)} = {name(first)}" for first, copy, differ in pairs if differ]
    within = [f"{name(copy)} = {name(first)}" for first, copy, differ in pairs if not differ]
    if apart:
        checkup.problem(f"{counted(len(apart), 'image')} the same as one of another person; remove one of each", apart)
    if within:
        checkup.note(f"{counted(len(within), 'image')} the same as another one", within)
