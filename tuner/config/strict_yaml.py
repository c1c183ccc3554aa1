"""YAML as people mean it, and pydantic's findings as one line each that names the file and the path inside it.

PyYAML follows YAML 1.1: `1e-3` is a string, `on` a boolean, `012` is 10, `1:30` is 90, and of two equal keys the last
one wins in silence. Here the core schema of YAML 1.2 holds, and equal keys are an error.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import yaml
from pydantic import BaseModel, Tag, ValidationError

from tuner.errors import UserError

_TAG: Final = "tag:yaml.org,2002:"
_SCALARS: Final[tuple[tuple[str, str, str], ...]] = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of the YAML 1.2 core schema; inheritance is how PyYAML takes a schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own name)


for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.add_implicit_resolver(_TAG + "null", re.compile("^$"), [""])
# YAML 1.1 reads a leading zero as octal; 1.2 and people do not.
_Loader.add_constructor(_TAG + "int", lambda _, node: int(node.value))
_Loader.add_constructor(_TAG + "float", lambda _, node: float(re.sub(r"\.(?=[inIN])", "", node.value)))


def parse_mapping(text: str, *, file: str) -> dict[str, Any]:
    """Return the mapping that a YAML text holds.

    Raises:
        UserError: not YAML, two equal keys, empty, or something else than a mapping; the line starts with `file`.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is not None:
            _refuse_equal_keys(node, file=file)
        data = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not readable as YAML{_place(error)}") from error
    finally:
        loader.dispose()
    if data is None:
        raise UserError(f"{file}: the file is empty; a mapping such as `question: ...` must stand in it")
    if not isinstance(data, dict):
        raise UserError(f"{file}: a mapping (`key: value`) must stand at the top, but got {_kind(data)}")
    return data


def explain(error: ValidationError, model: type[BaseModel], *, file: str) -> str:
    """Return pydantic's first finding as `file: path: rule, value, way out`.

    An unknown key comes first: it is often the misspelt one that another finding misses.
    """
    findings = sorted(error.errors(include_url=False), key=lambda finding: finding["type"] != "extra_forbidden")
    first = findings[0]
    loc = tuple(part for part in first["loc"] if part not in _UNION_TAGS)
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    kind, value = first["type"], first["input"]
    if kind == "extra_forbidden":
        key = str(loc[-1])
        return f"{file}: unknown key `{dotted(loc)}`; {did_you_mean(key, _keys_at(model, first['loc'][:-1]))}{more}"
    if kind == "missing":
        return f"{file}: `{dotted(loc)}` is required, but is missing{more}"
    rule = str(first["ctx"]["error"]) if kind == "value_error" else _PLAIN.get(kind, _lower(first["msg"]))
    shown = "" if isinstance(value, dict | list) else f", but got {value!r}"
    place = f"{dotted(loc)}: " if loc else ""
    return f"{file}: {place}{rule}{shown}{more}"


_PLAIN: Final = {
    "model_type": "a mapping (`key: value`) is needed",
    "dict_type": "a mapping (`key: value`) is needed",
    "tuple_type": "a list is needed",
    "string_type": "a word or sentence is needed",
    "string_too_short": "must not be empty",
    "bool_parsing": "true or false is needed",
    "bool_type": "true or false is needed",
    "int_parsing": "a whole number is needed",
    "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "float_parsing": "a number is needed",
    "float_type": "a number is needed",
}
"""What pydantic says in a programmer's words, in those of the file's writer."""

_UNION_TAGS: Final = frozenset({"<number>", "<range>", "<faces>", "<own>"})
"""Tags that a discriminated union in a model may use; they say nothing to a reader of the file."""


def dotted(path: Iterable[str | int]) -> str:
    """Return a path as it is spoken: ("schedulers", 0, "name") -> "schedulers[0].name"."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return "did you mean `x`?", or what there is where nothing is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known) or 'none'}"


def _refuse_equal_keys(top: yaml.Node, *, file: str) -> None:
    """Walk the nodes before they become a dict, where the second of two equal keys would replace the first."""
    walked: set[int] = set()

    def walk(node: yaml.Node, path: tuple[str | int, ...], above: frozenset[int]) -> None:
        if id(node) in above:
            raise UserError(f"{file}: {dotted(path)}: an anchor must not contain itself; write the value out")
        if id(node) in walked:  # an alias: its anchor was looked at, and aliases of aliases multiply
            return
        walked.add(id(node))
        children: list[tuple[str | int, yaml.Node]] = []
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key_node, value in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    raise UserError(f"{file}: {dotted(path) or 'top'}: a key must be a word, not a list or a mapping")
                key = str(key_node.value)
                if key in seen:
                    raise UserError(f"{file}: `{dotted((*path, key))}` is given twice; keep one of them")
                seen.add(key)
                children.append((key, value))
        elif isinstance(node, yaml.SequenceNode):
            children.extend(enumerate(node.value))
        for part, child in children:
            if not isinstance(child, yaml.ScalarNode):
                walk(child, (*path, part), above | {id(node)})

    walk(top, (), frozenset())


def _keys_at(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Return the keys that the model takes at a path, found along its annotations."""
    here: Any = model
    for part in loc:
        if part in _UNION_TAGS:
            here = next((one for one in get_args(here) if part in _tags(one)), here)
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        elif isinstance(part, str) and (found := _model_in(here)) is not None:
            field = found.model_fields.get(part)
            here = None if field is None else field.annotation
    found = _model_in(here)
    return [] if found is None else sorted(found.model_fields)


def _tags(annotation: Any) -> list[str]:
    return [each.tag for each in getattr(annotation, "__metadata__", ()) if isinstance(each, Tag)]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)


def _place(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f" at line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return f": {' '.join(str(error).split())}"


def _kind(data: object) -> str:
    return "a list" if isinstance(data, list) else f"{data!r}"


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        UserError: a folder, not there, not readable, or not UTF-8.
    """
    if path.is_dir():
        raise UserError(f"{path}: a file is needed, but this is a folder")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: UTF-8 text is needed, but byte {error.start} is not; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror}); check its name and rights") from error
