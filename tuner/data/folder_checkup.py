"""A look at a folder `root/identity/image.*`: everything that is wrong with it at once, not only the first thing."""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tuner.data.findings import Checkup, counted
from tuner.data.folder import IMAGE_SUFFIXES
from tuner.data.image_checkup import Progress, check_images
from tuner.data.subset import MIN_IDENTITIES

ARCHIVES: Final = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar", ".gz")
Counts = NDArray[np.int64]
_DECODE_SHARE: Final = 0.7
"""Of the time, roughly, where all images are decoded after the folders were read."""


@dataclass(slots=True)
class _Listing:
    """The files of a tree: of each image its path and whose it is, and what else there is."""

    images: list[str] = field(default_factory=list)
    people: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    imageless: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    inner: list[Path] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)


def is_archive(path: Path) -> bool:
    """Return whether a file's name is that of an archive."""
    return path.name.lower().endswith(ARCHIVES)


def check_folder(root: Path, *, full: bool, progress: Progress) -> Checkup:
    """Look at a folder of identities; `full` decodes every image."""
    checkup = Checkup(root, "a folder of identities")
    found = _list(root, lambda share: progress((1 - _DECODE_SHARE) * share))
    counts = np.bincount(found.people, minlength=len(found.names)) if found.names else np.zeros(0, np.int64)
    checkup.numbers |= {"identities": len(found.names), "images": len(found.images)}
    checkup.facts.append(_amount(counts))
    _tell_structure(checkup, found, counts)
    if found.images:
        check_images(
            checkup,
            len(found.images),
            load=lambda place: _bytes(Path(found.images[place])),
            name=lambda place: found.images[place].removeprefix(f"{root}/"),
            person=lambda place: found.people[place],
            full=full,
            progress=lambda share: progress(1 - _DECODE_SHARE + _DECODE_SHARE * share),
        )
    return checkup


def _amount(counts: Counts) -> str:
    amount = f"{counted(len(counts), 'identity', plural='identities')}, {counted(int(counts.sum()), 'image')}"
    if len(counts) == 0:
        return amount
    if counts.min() == counts.max():
        return f"{amount} ({counts.min()} each)"
    return f"{amount} ({counts.min()} to {counts.max()} each, half have {int(np.median(counts))} or more)"


def _tell_structure(checkup: Checkup, found: _Listing, counts: Counts) -> None:
    root = checkup.path
    if len(found.names) < MIN_IDENTITIES:
        checkup.problem(f"at least {MIN_IDENTITIES} identities are needed, but there are {len(found.names)}")
    if found.closed:
        checkup.problem("folders that cannot be read; change their permissions", found.closed)
    if found.archives:
        text = f"{counted(len(found.archives), 'archive')} not unpacked; unpack what belongs to the set"
        (checkup.note if len(found.names) >= MIN_IDENTITIES else checkup.problem)(text, found.archives)
    if found.imageless and not found.names and found.inner:
        inner = found.inner[0].parent
        checkup.problem(f"the identities lie one folder deeper; give {inner} instead of {root}")
    elif found.imageless:
        number = counted(len(found.imageless), "folder")
        checkup.problem(f"{number} without an image, but with other things; add images or move out", found.imageless)
    if found.loose:
        text = f"{counted(len(found.loose), 'image')} in the folder itself, which belong to nobody"
        (checkup.note if found.names else checkup.problem)(text, found.loose)
    if found.odd:
        checkup.problem(f"{counted(len(found.odd), 'image')} that is no file: a broken link, or a device", found.odd)
    if found.empty:
        checkup.note(f"{counted(len(found.empty), 'empty folder')}, which is left out", found.empty)
    if found.others:
        checkup.note(f"{counted(len(found.others), 'file')} not named as an image, which is left out", found.others)
    if found.inner and found.names:
        names = (str(path.relative_to(root)) for path in found.inner)
        checkup.note(f"{counted(len(found.inner), 'folder')} inside identities, which is left out", names)
    single = np.flatnonzero(counts == 1)
    checkup.numbers["identities_with_one_image"] = len(single)
    if len(single):
        number = counted(len(single), "identity", plural="identities")
        checkup.note(f"{number} with one image only, of which no pair can be made", (found.names[i] for i in single))


def _list(root: Path, progress: Progress) -> _Listing:
    found = _Listing()
    entries = [entry for entry in _entries(root, found) if not entry.name.startswith(".")]
    for number, entry in enumerate(entries):
        if _is_dir(entry):
            _list_identity(Path(entry.path), found)
        elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
            found.loose.append(entry.name)
        elif is_archive(Path(entry.name)):
            found.archives.append(entry.name)
        else:
            found.others.append(entry.name)
        progress((number + 1) / len(entries))
    return found


def _list_identity(folder: Path, found: _Listing) -> None:
    number, images, anything = len(found.names), 0, False
    for entry in _entries(folder, found):
        if entry.name.startswith("."):
            continue
        path, anything = Path(entry.path), True
        if _is_dir(entry):
            found.inner.append(path)
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            (found.archives if is_archive(path) else found.others).append(f"{folder.name}/{entry.name}")
        elif not path.is_file():
            found.odd.append(f"{folder.name}/{entry.name}")
        else:
            found.images.append(entry.path)
            found.people.append(number)
            images += 1
    if images:
        found.names.append(folder.name)
    elif anything:
        found.imageless.append(folder.name)
    elif str(folder) not in found.closed:
        found.empty.append(folder.name)


def _entries(folder: Path, found: _Listing) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        found.closed.append(str(folder))
        return []


def _is_dir(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _bytes(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise OSError(0, "it is not a regular file")
    return path.read_bytes()
