"""Find, read and check search-space files; what may stand in one is in `tuner.config.space_model`."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuner.config.own_code import looked_up
from tuner.config.run import FaceConfig, WorkloadConfig
from tuner.config.space_check import check_space
from tuner.config.space_model import SpaceFile
from tuner.config.strict_yaml import did_you_mean, explain, parse_mapping, read_text
from tuner.errors import UserError

__all__ = [
    "SpaceFile",
    "load_space",
    "shipped_spaces",
    "space_argument",
    "space_from_record",
    "space_from_text",
    "space_record",
    "space_text",
    "with_workload",
]


def load_space(name_or_path: str | Path) -> SpaceFile:
    """Read and check a search space: a file's path, or the name of a shipped one such as "fastface".

    Raises:
        UserError: no such file or name, not readable, or a setting that cannot be; the message names file and path.
    """
    path = _locate(name_or_path)
    space = space_from_text(read_text(path), file=str(path))
    space = with_workload(space, space.workload)
    check_space(space)
    return space


def with_workload(space: SpaceFile, workload: WorkloadConfig) -> SpaceFile:
    """Return a space for a workload, the class of an own one looked up.

    An own workload's first metric judges the trials where the space names none, or where the space was made for another
    workload, whose metric this one does not have.

    Raises:
        UserError: there is no such class, or something of the space does not go with it.
    """
    if isinstance(workload, FaceConfig):
        return space.model_copy(update={"workload": workload})
    found = looked_up(workload)
    metric, given = space.objective.metric, "objective" in space.model_fields_set
    if not given or (metric not in found.metrics and workload != space.workload):
        metric = next(iter(found.metrics))
    direction = space.objective.direction if metric == space.objective.metric and given else None
    changed = {"workload": found, "objective": {"metric": metric, "direction": direction or found.metrics.get(metric)}}
    try:
        checked = SpaceFile.model_validate({name: getattr(space, name) for name in space.model_fields_set} | changed)
    except ValidationError as error:
        raise UserError(explain(error, SpaceFile, file=space.file)) from error
    return checked.named(text=space.text, file=space.file)


def space_from_text(text: str, *, file: str) -> SpaceFile:
    """Return the space that a YAML text describes, its form checked but not its ranges; `file` is for messages."""
    data = parse_mapping(text, file=file)
    try:
        return SpaceFile.model_validate(data).named(text=text, file=file)
    except ValidationError as error:
        raise UserError(explain(error, SpaceFile, file=file)) from error


def shipped_spaces() -> list[tuple[str, str]]:
    """Return the spaces that come with the tool as (name, question), by name."""
    paths = sorted(_shipped_folder().glob("*.yaml"))
    return [(path.stem, space_from_text(read_text(path), file=path.name).question) for path in paths]


def space_argument(name_or_path: str | Path) -> str:
    """Return what names the same space in every working folder: the name of a shipped one, or a file's whole path."""
    path = _locate(name_or_path)
    return path.stem if path.parent == _shipped_folder() else str(path.absolute())


def space_text(name_or_path: str | Path) -> str:
    """Return the text of a space as it stands, unchecked; UserError where it cannot be read."""
    return read_text(_locate(name_or_path))


def _locate(name_or_path: str | Path) -> Path:
    """Return the path that is meant; a bare word is a shipped name first, so that a stray file cannot hide it."""
    if not str(name_or_path):  # which as a path is the working folder
        raise UserError("a search space must be a file or a shipped name, but got ''; leave it out for the default")
    path, shipped = Path(name_or_path), _shipped_folder()
    names = sorted(entry.stem for entry in shipped.glob("*.yaml"))
    if str(path) in names:
        return shipped / f"{path}.yaml"
    with contextlib.suppress(OSError):  # such as a name too long for the file system
        if path.exists():
            return path
    raise UserError(f"{path}: no such file, and no shipped search space of this name; {did_you_mean(path.stem, names)}")


def _shipped_folder() -> Path:
    """Return where the shipped files are: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def space_record(space: SpaceFile) -> dict[str, Any]:
    """Return the space as JSON-like data with its text and file name; `space_from_record` reads it back."""
    return {"space": space.model_dump(mode="json"), "text": space.text, "file": space.file}


def space_from_record(record: Mapping[str, Any]) -> SpaceFile:
    """Return the space that `space_record` wrote.

    Raises:
        UserError: the record is of a version of the tool whose spaces differ.
    """
    file = str(record["file"])
    try:
        return SpaceFile.model_validate(record["space"]).named(text=str(record["text"]), file=file)
    except ValidationError as error:
        raise UserError(explain(error, SpaceFile, file=file)) from error
