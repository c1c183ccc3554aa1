"""Find, read and check the files of single runs, and write one; the shipped ones are recipes of published runs.

    description: My faces, with FastFace as published
    base: ms1mv3_r50
    total_steps: 20000
    workload:
      data: {source: faces}

A file says what differs from its `base`, the name of a shipped recipe or the path of another file, from its own folder;
without one, from the defaults of `tuner.config.run.RunConfig`. Mappings are merged key by key, but for one with a
`name`, such as a scheduler, which takes the place of the base's: its settings mean nothing to another one.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from tuner.config.run import RunConfig
from tuner.config.strict_yaml import did_you_mean, explain, parse_mapping, read_text
from tuner.errors import UserError
from tuner.names import SYNTHETIC

_RECIPES: Final = Path(__file__).parents[1] / "recipes"
_BASE: Final = "base"
_DESCRIPTION: Final = "description"


@dataclass(frozen=True, slots=True)
class RunFile:
    """A run as a file describes it: where that is, whether it is shipped, what it is for, and the run."""

    path: Path
    shipped: bool
    description: str
    config: RunConfig

    @property
    def name(self) -> str:
        """What the run is called: the file's name, or its folder's where the file is called config."""
        return self.path.absolute().parent.name if self.path.stem == "config" else self.path.stem

    @property
    def argument(self) -> str:
        """What names the same run in every working folder: the name of a shipped one, or the file's whole path."""
        return self.path.stem if self.shipped else str(self.path.absolute())

    def check_data(self) -> None:
        """Raise UserError where the run is a recipe, whose data must be named, and is not there under its own name."""
        source = self.config.workload.source
        if self.shipped and source != SYNTHETIC and not Path(source).exists():
            raise UserError(f"the recipe {self.name} is for {source}; say with --data where that is")


def load_run(name_or_path: str | Path) -> RunFile:
    """Read and check a run: a file's path, or the name of a shipped recipe such as "ms1mv3_r50".

    Raises:
        UserError: no such file or name, not readable, or a setting that cannot be; the message names file and path.
    """
    path, shipped = _locate(Path(name_or_path))
    description, config, _ = _read(path, above=())
    return RunFile(path, shipped, description, config)


def shipped_recipes() -> list[RunFile]:
    """Return the recipes that come with the tool, by name."""
    return [load_run(name) for name in _shipped_names()]


def run_text(config: RunConfig) -> str:
    """Return the file that repeats a run, defaults written out; the scheduler as resolved stands in a comment."""
    written = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    return f"{written}# the scheduler, resolved: {config.schedule().params!r}\n"


def _read(path: Path, *, above: tuple[Path, ...]) -> tuple[str, RunConfig, dict[str, Any]]:
    """Return description, run, and what the file and its bases say, merged; `above` are the files on the way here."""
    data = parse_mapping(read_text(path), file=str(path))
    description, base = (_word(data.pop(key, ""), key, file=path) for key in (_DESCRIPTION, _BASE))
    if base:
        found = _base(path, base)
        if found in (path, *above):
            raise UserError(f"{path}: base: a file must not be its own base, but {found} is; name another recipe")
        data = _merged(_read(found, above=(path, *above))[2], data)
    try:
        return description, RunConfig.model_validate(data), data
    except ValidationError as error:
        raise UserError(explain(error, RunConfig, file=str(path))) from error
    except UserError as error:
        raise UserError(f"{path}: scheduler: {error}") from None


def _word(value: object, key: str, *, file: Path) -> str:
    if not isinstance(value, str):
        raise UserError(f"{file}: {key}: a word or sentence is needed, but got {value!r}")
    return value


def _base(path: Path, base: str) -> Path:
    try:
        return _locate(Path(base), beside=path.parent)[0]
    except UserError as error:
        raise UserError(f"{path}: base: {error}") from None


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        both = isinstance(value, dict) and isinstance(below, dict) and "name" not in value
        merged[key] = _merged(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _locate(given: Path, *, beside: Path = Path()) -> tuple[Path, bool]:
    """Return the file that is meant, and whether it is shipped, as a bare word first of all means."""
    names = _shipped_names()
    if str(given) in names:
        return _RECIPES / f"{given}.yaml", True
    path = beside / given
    with contextlib.suppress(OSError):  # such as a name too long for the file system
        if path.exists():
            return path, False
    raise UserError(f"{path}: no such file, and no shipped recipe of this name; {did_you_mean(given.stem, names)}")


def _shipped_names() -> list[str]:
    """Return the names of the recipes; a name that starts with _ is no recipe, but the base of some."""
    return sorted(path.stem for path in _RECIPES.glob("[!_]*.yaml"))
