"""Encoded images to pixels: the only place that decodes."""

import io
import os
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from tuner.data.faces import Images

DECODER_VERSION: Final = 1
"""Enters the cache key; raised whenever `decode_image` would return another image."""
_BLOCK: Final = 128

# What Pillow is known to raise on files that are not what they say.
_DECODE_ERRORS: Final = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, MemoryError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip


class UndecodableError(Exception):
    """An image that does not decode; the message says why, in a few words on one line."""


def decode_image(encoded: Path | bytes, *, image_size: int | None) -> Images:
    """Return one image, from a file or from its bytes, as RGB, uint8 [image_size, image_size, 3].

    With `image_size` None the whole image is returned, [H, W, 3]. Else the largest centred square is cut out and
    resized with a Lanczos filter. Aligned crops are square already and lose nothing; of a portrait (92x112 in ORL) the
    crop cuts hair and chin, where padding would leave bars that every image of a source has in common. Greyscale
    becomes RGB, 16 bits become 8, transparency is dropped, and the orientation that a camera noted is applied.

    Raises:
        UndecodableError: the file cannot be read, is no image, or does not decode to its end.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have allowed grey-filled images for the process
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as opened:
            opened.load()
            image = _eight_bit(_upright(opened))
            if image_size is None:
                return np.asarray(image.convert("RGB"), dtype=np.uint8)
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.crop((left, top, left + side, top + side)).convert("RGB")
            resized = square.resize((image_size, image_size), Image.Resampling.LANCZOS)
    except UnidentifiedImageError:
        raise UndecodableError("it is not an image") from None
    except _DECODE_ERRORS as error:
        raise UndecodableError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    return np.asarray(resized, dtype=np.uint8)


def decoded_blocks(
    num_images: int, decode_one: Callable[[int], Images], progress: Callable[[int, int], None] | None
) -> Iterator[Images]:
    """Yield images 0 to `num_images` - 1 in blocks, decoded by some threads; no more than a block is held at a time.

    Args:
        num_images: how many there are.
        decode_one: returns the image of a number; called by several threads at once.
        progress: called with (images done, images in all) after each block.
    """
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes outside the GIL
        for start in range(0, num_images, _BLOCK):
            block = np.stack(list(pool.map(decode_one, range(start, min(start + _BLOCK, num_images)))))
            yield block
            if progress is not None:
                progress(start + len(block), num_images)


def _upright(image: Image.Image) -> Image.Image:
    """Return the image as the camera was held, or as it is stored where that note is damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except _DECODE_ERRORS:
        return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return 16-bit greyscale as 8-bit, other images as they are: Pillow would clip and not scale it."""
    if not image.mode.startswith("I"):
        return image
    values: NDArray[np.int64] = np.asarray(image).astype(np.int64)
    return Image.fromarray(np.clip(values // 257, 0, 255).astype(np.uint8))
