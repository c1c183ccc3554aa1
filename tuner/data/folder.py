"""Faces in a folder `root/identity/image.*`: which images there are, and how one is decoded."""

import stat
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from tuner.data.decoder import DECODER_VERSION, UndecodableError, decode_image, decoded_blocks
from tuner.data.faces import Images
from tuner.data.recipe import Recipe, recipe_key
from tuner.data.subset import EVERYTHING, MIN_IDENTITIES, Subset
from tuner.errors import UserError

IMAGE_SUFFIXES: Final = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def decode(path: Path, *, image_size: int) -> Images:
    """Return one image file as RGB, uint8 [image_size, image_size, 3], as `decode_image` does.

    Raises:
        UserError: the file cannot be read, is no image, or does not decode to its end.
    """
    try:
        return decode_image(path, image_size=image_size)
    except UndecodableError as error:
        raise _unreadable(path, str(error)) from error


def folder_recipe(
    root: Path,
    *,
    image_size: int,
    progress: Callable[[int, int], None] | None = None,
    subset: Subset = EVERYTHING,
    least: int = MIN_IDENTITIES,
) -> Recipe:
    """Return how to make the faces of the folder `root`, whose sub-folders are the identities.

    1. Identities and images are in the order of their names (by code point, composed), on every file system.
    2. Files without an image suffix, files in `root` itself, folders inside an identity, and names that start with a
       dot are ignored. Links are followed.
    3. An empty sub-folder is ignored; one that holds something, but no image, is an error.

    The key holds path, size and time of change (ns) of every image: a changed file makes another recipe.

    Args:
        root: the folder.
        image_size: side of the square images in pixels.
        progress: called with (images done, images in all).
        subset: which part of the images to make.
        least: how many identities, or classes, there must be.

    Raises:
        UserError: there is no such folder, too few identities, or an identity without an image.
    """
    names: list[str] = []
    labels: list[int] = []
    files: list[Path] = []
    for identity in _sorted(root):
        if not identity.is_dir():
            continue
        inside = _sorted(identity)
        images = [path for path in inside if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()]
        if inside and not images:
            raise UserError(
                f"every folder of identities must hold images ({', '.join(sorted(IMAGE_SUFFIXES))}), but"
                f" `{identity}` has none; add images or move it out of `{root}`"
            )
        if images:
            labels += [len(names)] * len(images)
            names.append(unicodedata.normalize("NFC", identity.name))
            files += images
    if len(names) < least:
        raise _too_few(root, names, least)
    rows, chosen, chosen_names = subset.choose(np.array(labels, dtype=np.int64), tuple(names), source=str(root))
    files = [files[row] for row in rows.tolist()]
    listing = [(f"{path.parent.name}/{path.name}", *file_stamp(path)) for path in files]
    resolved = str(root.resolve())
    key = recipe_key(kind="folder", version=DECODER_VERSION, root=resolved, files=listing, image_size=image_size)
    return Recipe(
        key=key,
        image_size=image_size,
        labels=chosen,
        names=chosen_names,
        source=str(root),
        blocks=lambda: decoded_blocks(len(files), lambda i: decode(files[i], image_size=image_size), progress),
    )


def _sorted(folder: Path) -> list[Path]:
    try:
        visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except FileNotFoundError:
        raise UserError(
            f"faces must be in a folder `root/identity/image.*`, but `{folder}` does not exist; give the path of the"
            " folder, or `synthetic`"
        ) from None
    except NotADirectoryError:
        raise UserError(
            f"faces must be in a folder `root/identity/image.*`, but `{folder}` is a file; give the folder that holds"
            " one folder for each identity"
        ) from None
    except OSError as error:
        raise UserError(f"`{folder}` must be readable, but {error.strerror}; change its permissions") from error
    return sorted(visible, key=lambda path: (unicodedata.normalize("NFC", path.name), path.name))


def file_stamp(path: Path) -> tuple[int, int]:
    """Return size and time of change (ns) of an image; UserError where it cannot be read."""
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device read without end
        raise _unreadable(path, "it is not a regular file")
    return status.st_size, status.st_mtime_ns


def _too_few(root: Path, names: list[str], least: int) -> UserError:
    faces = least == MIN_IDENTITIES
    one, many = ("identity", "identities") if faces else ("class", "classes")
    hint = f"; give the folder that holds one folder for each {one}"
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in _sorted(root)):
        hint = f"; give each {one} a folder of its own, images in the root belong to nobody"
    why = ", two to train on and two to verify on" if faces else ""
    return UserError(f"at least {least} {many} are needed{why}, but `{root}` holds {len(names)}{hint}")


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(
        f"every image must decode to its end, but `{path}` does not ({reason}); replace the file or remove it"
    )
