"""A look at data of any kind that this project reads: what it is, how much, and all that is wrong with it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tuner.data.cache import MEMORY_BYTES, default_cache, is_cached
from tuner.data.findings import Checkup, counted
from tuner.data.folder import IMAGE_SUFFIXES, folder_recipe
from tuner.data.folder_checkup import check_folder, is_archive
from tuner.data.ijb import CROPS, load_ijb
from tuner.data.image_checkup import ALIGNED, Progress, check_images
from tuner.data.recipe import Recipe
from tuner.data.records import RECORD_SUFFIX, find_records, record_recipe
from tuner.data.records_checkup import check_records
from tuner.data.verification_sets import BIN_SUFFIX, PUBLISHED_PAIRS, check_same, read_bin_file, read_pairs_file
from tuner.errors import UserError
from tuner.names import CACHE_VARIABLE
from tuner.room import free_bytes
from tuner.sizes import shown

_PAIRS: Final = "*_template_pair_label.txt"
_INDEX_SUFFIX: Final = ".idx"
_HEAD: Final = 4096


def check_data(path: Path, *, full: bool = False, progress: Progress = lambda _: None) -> Checkup:
    """Look at a folder of identities, an InsightFace set, a verification set or IJB; nothing that is wrong raises.

    Args:
        path: a folder or file.
        full: look at every image, not at a sample.
        progress: told the share that is done.

    Raises:
        UserError: there is no such path.
    """
    try:
        there = path.exists()
    except (OSError, ValueError) as error:  # a name too long, a null byte
        raise UserError(f"DATA must be a folder or file of faces, but {path} cannot be one ({error})") from None
    if not there:
        raise UserError(f"DATA must be a folder or file of faces, but {path} does not exist; give its path")
    try:
        return _check(path, full=full, progress=progress)
    except (OSError, UserError) as error:  # what no check foresaw, such as a disk that fails
        checkup = Checkup(path, "something that cannot be read")
        checkup.problem(str(error))
        return checkup


def _check(path: Path, *, full: bool, progress: Progress) -> Checkup:
    records = find_records(path)
    if records is not None:
        checkup = check_records(records, full=full, progress=progress)
        _check_training(checkup, partial(record_recipe, records))
        return checkup
    if not path.is_dir():
        return _check_file(path, full=full, progress=progress)
    if (path / CROPS).is_dir() or any(True for folder in (path / "meta", path) for _ in folder.glob(_PAIRS)):
        return _check_ijb(path, full=full, progress=progress)
    bins = sorted(path.glob(f"*{BIN_SUFFIX}"))
    if bins and not any(entry.is_dir() for entry in path.iterdir()):
        return _check_bins(path, bins, full=full, progress=progress)
    checkup = check_folder(path, full=full, progress=progress)
    _check_training(checkup, partial(folder_recipe, path))
    return checkup


def _check_file(path: Path, *, full: bool, progress: Progress) -> Checkup:
    suffix = path.suffix.lower()
    if suffix == BIN_SUFFIX:
        return _check_bin(path, full=full, progress=progress)
    if is_archive(path):
        checkup = Checkup(path, "an archive")
        checkup.problem("it is not unpacked; unpack it and give the folder")
        return checkup
    if suffix in IMAGE_SUFFIXES:
        checkup = Checkup(path, "one image")
        checkup.problem("it is not a set; give the folder that holds one folder for each identity")
        return checkup
    if suffix == _INDEX_SUFFIX:
        checkup = Checkup(path, "the index of an InsightFace set")
        checkup.problem(f"its records must lie beside it; put {path.with_suffix(RECORD_SUFFIX).name} there and give it")
        return checkup
    return _check_pairs(path, full=full, progress=progress)


def _check_bins(root: Path, files: list[Path], *, full: bool, progress: Progress) -> Checkup:
    checkup = Checkup(root, "a folder of verification sets")
    for number, path in enumerate(files):
        found = _check_bin(path, full=full, progress=partial(_part, progress, number, len(files)))
        checkup.facts += [f"{path.name}: {fact}" for fact in found.facts]
        checkup.numbers[path.name] = found.numbers
        for each in found.findings:
            (checkup.problem if each.problem else checkup.note)(f"{path.name}: {each.text}", each.names)
    return checkup


def _part(progress: Progress, number: int, of: int, share: float) -> None:
    progress((number + share) / of)


def _check_bin(path: Path, *, full: bool, progress: Progress) -> Checkup:
    checkup = Checkup(path, "a verification set (.bin)")
    try:
        encoded, same = read_bin_file(path)
    except UserError as error:
        checkup.problem(str(error))
        return checkup
    _tell_pairs(checkup, num_images=len(encoded), num_pairs=len(same), num_same=int(same.sum()))
    published = PUBLISHED_PAIRS.get(path.stem)
    if published not in (None, len(same)):
        checkup.note(f"the published set of that name has {published:,} pairs")
    check_images(
        checkup,
        len(encoded),
        load=encoded.__getitem__,
        name=lambda place: f"image {place} (pair {place // 2})",
        full=full,
        progress=progress,
    )
    return checkup


def _check_pairs(path: Path, *, full: bool, progress: Progress) -> Checkup:
    checkup = Checkup(path, "none of the forms that are read")
    if not _is_text(path):
        checkup.problem("give a folder of identities, a .rec or a .bin file, a list of pairs in text, or IJB's folder")
        return checkup
    try:
        files, pairs = read_pairs_file(path)
        check_same(path, pairs.same)
    except UserError as error:
        checkup.problem(f"{error}; or give a folder of identities, a .rec or a .bin file")
        return checkup
    checkup.kind = "a list of pairs"
    _tell_pairs(checkup, num_images=len(files), num_pairs=len(pairs.same), num_same=int(pairs.same.sum()))
    _check_files(checkup, files, path.parent, full=full, progress=progress)
    return checkup


def _is_text(path: Path) -> bool:
    """Return whether a file looks like text, which is found out without reading all of it, or waiting for a pipe."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"\0" not in file.read(_HEAD)


def _check_ijb(root: Path, *, full: bool, progress: Progress) -> Checkup:
    checkup = Checkup(root, "IJB, 1:1")
    try:
        found = load_ijb(root)
    except UserError as error:
        checkup.problem(str(error))
        return checkup
    checkup.kind, same = f"{found.name}, 1:1", found.pairs.same
    _tell_pairs(checkup, num_images=len(found.files), num_pairs=len(same), num_same=int(same.sum()))
    checkup.numbers["templates"] = found.num_templates
    checkup.facts.append(counted(found.num_templates, "template"))
    missing = [file.name for file in found.files if not file.exists()]
    if missing:
        number = counted(len(missing), "image")
        checkup.problem(f"{number} that the lists name not in {CROPS}; unpack it again", missing)
        return checkup
    _check_files(checkup, list(found.files), root, full=full, progress=progress, aligned=False)
    return checkup


def _check_files(
    checkup: Checkup, files: list[Path], root: Path, *, full: bool, progress: Progress, aligned: bool = True
) -> None:
    check_images(
        checkup,
        len(files),
        load=lambda place: files[place].read_bytes(),
        name=lambda place: str(files[place]).removeprefix(f"{root}/"),
        full=full,
        progress=progress,
        aligned=aligned,
    )


def _tell_pairs(checkup: Checkup, *, num_images: int, num_pairs: int, num_same: int) -> None:
    checkup.numbers |= {"images": num_images, "pairs": num_pairs, "pairs_of_one_person": num_same}
    pairs = counted(num_pairs, "pair")
    checkup.facts.append(f"{counted(num_images, 'image')}, {pairs} ({num_same:,} of one person)")


def _check_training(checkup: Checkup, make: Callable[..., Recipe]) -> None:
    """Ask the reader of training data itself, where nothing was found, and look for room for the decoded images."""
    num_bytes = int(checkup.numbers.get("images", 0)) * ALIGNED * ALIGNED * 3
    cache = default_cache()
    free = free_bytes(cache)
    checkup.numbers |= {"decoded_bytes": num_bytes, "cache": str(cache), "cache_free_bytes": free}
    if num_bytes:
        room = f"{shown(free)} are free in {cache}"
        checkup.facts.append(f"decoded at {ALIGNED}x{ALIGNED}: {shown(num_bytes)}; {room}")
    if not checkup.fit:
        return
    try:
        recipe = make(image_size=ALIGNED)
    except UserError as error:
        checkup.problem(str(error))
        return
    if num_bytes > max(free, MEMORY_BYTES) and not is_cached(recipe, cache=cache):
        checkup.problem(
            f"the decoded images take {shown(num_bytes)}, but {shown(free)} are free in {cache}; name a folder with"
            f" room in {CACHE_VARIABLE}, or train on a part (--max-identities, --max-images)"
        )
