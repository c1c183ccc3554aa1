"""Decoded faces on disk, memory-mapped: the second trial of a sweep, and the second sweep, decode nothing.

An entry is a folder named by the recipe's key, with `images.npy` and `meta.json`. It is written under another name and
moved into place, so that a reader sees all of it or nothing.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import platformdirs

from tuner.data.faces import FaceSet, Images
from tuner.data.recipe import Recipe
from tuner.errors import UserError
from tuner.names import CACHE_VARIABLE
from tuner.sizes import shown

FORMAT_VERSION: Final = 1
"""Enters the name of every entry; raised when a reader of the old form would misread the new one."""

CHECKED_BYTES: Final = 64 * 2**20
"""Entries up to this size are checked in full when they are opened (tens of milliseconds), larger ones in samples."""
_SAMPLE_BYTES: Final = 64 * 2**10

MEMORY_BYTES: Final = 2 * 2**30
"""The largest set that is made in memory where the cache cannot hold it."""
LARGE_BYTES: Final = 8 * 2**30
"""From this size on, the log says what is about to be written."""

_IMAGES_FILE: Final = "images.npy"
_META_FILE: Final = "meta.json"

_log = logging.getLogger(__name__)


def default_cache() -> Path:
    """Return the cache folder: the environment variable's, else the user's cache folder of this platform."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else platformdirs.user_cache_path("fastface-tuner")


def is_cached(recipe: Recipe, *, cache: Path) -> bool:
    """Return whether there is an entry for `recipe`, sound or not."""
    return _entry(recipe, cache).exists()


def _entry(recipe: Recipe, cache: Path) -> Path:
    return cache / f"{FORMAT_VERSION}-{recipe.key[:40]}"


def cached(recipe: Recipe, *, cache: Path) -> FaceSet:
    """Return the faces of `recipe`, from their cache entry where there is a sound one, else made and stored.

    A damaged entry is made again, with a warning in the log. Images go to the disk block by block. Where the cache
    cannot be written, or has no room for them, the faces are made in memory, with a warning too, if they take at most
    `MEMORY_BYTES`.

    Args:
        recipe: what to make.
        cache: the folder of all entries; made where missing.

    Returns:
        Faces whose images are a read-only memory map, or an array where the cache could not be written.

    Raises:
        UserError: the images are too large for the disk and for memory; known before the first is decoded.
    """
    entry = _entry(recipe, cache)
    try:
        if entry.exists():
            damage = _damage(recipe, entry)
            if damage is None:
                return _open(recipe, entry)
            _log.warning("the cached faces in %s are damaged (%s) and are made again", entry, damage)
            _discard(entry)
        _check_room(recipe, cache)
        with _new_entry(entry) as folder:
            _write(recipe, folder)
        return _open(recipe, entry)
    except OSError as error:
        if recipe.num_bytes > MEMORY_BYTES:
            raise UserError(
                f"the decoded images of `{recipe.source}` take {shown(recipe.num_bytes)} on disk, but `{cache}` cannot"
                f" hold them ({error.strerror or error}); name a folder with room in {CACHE_VARIABLE}, or take a part"
                " of the set with `max_identities` or `max_images`"
            ) from error
        _log.warning(
            "decoded faces cannot be kept in %s (%s) and stay in memory; set %s to a folder that can be written",
            cache,
            error.strerror or error,
            CACHE_VARIABLE,
        )
        return _in_memory(recipe)


def _check_room(recipe: Recipe, cache: Path) -> None:
    """Raise OSError where the disk has no room for the images; say how large they are where that is much."""
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if recipe.num_bytes > free:
        raise OSError(errno.ENOSPC, f"{shown(free)} are free")
    if recipe.num_bytes > LARGE_BYTES:
        size, room = shown(recipe.num_bytes), shown(free)
        _log.warning("%d faces are decoded once and take %s of the %s free in %s", recipe.shape[0], size, room, cache)


def _in_memory(recipe: Recipe) -> FaceSet:
    images = np.empty(recipe.shape, dtype=np.uint8)
    content = recipe.content_hash()
    start = 0
    for block in recipe.blocks():
        images[start : start + len(block)] = block
        content.update(np.ascontiguousarray(block).data)
        start += len(block)
    images.flags.writeable = False
    return recipe.finished(images, digest=content.hexdigest())


def _write(recipe: Recipe, folder: Path) -> None:
    """Write an entry through plain file writes: a full disk is then an error, and not the bus error of a memory map."""
    content = recipe.content_hash()
    with (folder / _IMAGES_FILE).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": recipe.shape})
        for block in recipe.blocks():
            content.update(np.ascontiguousarray(block).data)
            file.write(np.ascontiguousarray(block).data)
        _to_disk(file.fileno(), file)
    images = _mapped(folder)
    meta = {"key": recipe.key, "digest": content.hexdigest(), "check": _check_sum(images)}
    with (folder / _META_FILE).open("w", encoding="utf-8") as text:
        json.dump({"meta": meta, "sha256": _json_digest(meta)}, text)
        _to_disk(text.fileno(), text)


def _to_disk(descriptor: int, file: Any) -> None:
    file.flush()
    os.fsync(descriptor)


@contextmanager
def _new_entry(entry: Path) -> Iterator[Path]:
    """Give a folder to fill and move it to `entry` afterwards; if another process was faster, keep the other's."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".new-", dir=entry.parent))
    try:
        yield folder
        try:
            folder.replace(entry)
        except OSError:
            if not entry.is_dir():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _discard(entry: Path) -> None:
    aside = Path(tempfile.mkdtemp(prefix=".old-", dir=entry.parent))
    try:
        entry.replace(aside / entry.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _damage(recipe: Recipe, entry: Path) -> str | None:
    """Return what is wrong with an entry, or None."""
    try:
        meta = _meta(entry)
        images = _mapped(entry)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    if meta["key"] != recipe.key:
        return "it belongs to another source"
    if images.shape != recipe.shape or images.dtype != np.uint8:
        return f"its images are {images.dtype} {images.shape} instead of uint8 {recipe.shape}"
    if meta["check"] != _check_sum(images):
        return "its images have changed"
    return None


def _open(recipe: Recipe, entry: Path) -> FaceSet:
    return recipe.finished(_mapped(entry), digest=_meta(entry)["digest"])


def _meta(entry: Path) -> dict[str, str]:
    stored = json.loads((entry / _META_FILE).read_text(encoding="utf-8"))
    meta: dict[str, str] = stored["meta"]
    if stored["sha256"] != _json_digest(meta) or set(meta) != {"key", "digest", "check"}:
        raise ValueError(f"{_META_FILE} has changed")
    return meta


def _mapped(entry: Path) -> Images:
    images: Images = np.load(entry / _IMAGES_FILE, mmap_mode="r", allow_pickle=False)
    return images


def _check_sum(images: Images) -> str:
    """Return the SHA-256 of all bytes, or of evenly spaced samples, the first and the last of them included."""
    data = images.reshape(-1)
    if data.size <= CHECKED_BYTES:
        return hashlib.sha256(data.data).hexdigest()
    total = hashlib.sha256()
    for start in np.linspace(0, data.size - _SAMPLE_BYTES, CHECKED_BYTES // _SAMPLE_BYTES).astype(np.int64):
        total.update(data[start : start + _SAMPLE_BYTES].data)
    return total.hexdigest()


def _json_digest(meta: Any) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
