"""The class that a workload's name means: found, its settings checked, and its source hashed."""

import ast
import hashlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter, ValidationError

from tuner.config.own import BUILT_IN, Declared, OwnConfig
from tuner.config.strict_yaml import did_you_mean, dotted
from tuner.errors import UserError
from tuner.names import METRIC_FINAL_LOSS, METRIC_LOSS, METRIC_LR, METRIC_RESPONSE
from tuner.workload import WorkloadClass

_TAKEN: Final = (METRIC_LOSS, METRIC_LR, METRIC_RESPONSE, METRIC_FINAL_LOSS, "seconds")
"""Names under which the tool itself keeps something beside a workload's metrics."""

_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})


def looked_up(config: OwnConfig) -> OwnConfig:
    """Return a workload with what its class declares, and its settings checked, defaults written out.

    Raises:
        UserError: there is no such class, it declares something that cannot be, or a setting is wrong.
    """
    found = find_class(config.name)
    settings = parse_settings(config)
    plain = {} if settings is None else TypeAdapter(type(settings)).dump_python(settings, mode="json")
    if any(kind.__name__ == "LightningModule" for kind in getattr(found, "__mro__", ())):
        raise UserError(
            f"workload {config.name}: a LightningModule is trained by a tuner.lightning.LightningWorkload; write one "
            "beside it, and give its name"
        )
    metrics, base_lr = getattr(found, "metrics", None), getattr(found, "base_lr", None)
    if not isinstance(metrics, Mapping) or not metrics:
        raise _error(config, "`metrics` must name what `evaluate` returns, such as {'accuracy': 'maximize'}", metrics)
    for name in metrics:
        if name in _TAKEN:
            raise _error(config, f"a metric must not be called {' or '.join(_TAKEN)}; rename it", name)
    try:
        declared = Declared(metrics=dict(metrics), base_lr=base_lr)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        rule = "maximize or minimize" if first["loc"][0] == "metrics" else "a number above 0"
        raise _error(config, f"`{dotted(first['loc'])}` of the class must be {rule}", first["input"]) from None
    return config.model_copy(update={"settings": plain, "declared": declared})


def find_class(name: str) -> WorkloadClass:
    """Import what a workload's name means; modules are looked for in the working folder first.

    Raises:
        UserError: no such module or class, or the module cannot be imported.
    """
    module_name, _, attribute = BUILT_IN.get(name, name).partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(
                f"workload {name}: there is no module {error.name}, neither installed nor in {here}; check the name, "
                "or run the command in the folder that holds it"
            ) from None
        raise UserError(f"workload {name}: {module_name} cannot be imported: {where_from(error)}") from error
    except Exception as error:
        raise UserError(f"workload {name}: {module_name} cannot be imported: {where_from(error)}") from error
    found: WorkloadClass | None = getattr(module, attribute, None)
    if found is None:
        known = sorted(
            key for key, value in vars(module).items() if hasattr(value, "training_step") or hasattr(value, "base_lr")
        )
        raise UserError(f"workload {name}: {module_name} has no {attribute}; {did_you_mean(attribute, known)}")
    if not callable(found):
        raise UserError(f"workload {name}: a class is needed, but {attribute} is {found!r}; name one")
    return found


def parse_settings(config: OwnConfig) -> Any:
    """Return the settings as the class wants them: an object of its `Settings`; None where it has none.

    Raises:
        UserError: a setting that it does not know or take.
    """
    kind = getattr(find_class(config.name), "Settings", None)
    if kind is None:
        known: list[str] = []
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        known = [*kind.model_fields]
    elif isinstance(kind, type) and is_dataclass(kind):
        known = [field.name for field in fields(kind) if field.init]
    else:
        raise _error(config, "`Settings` must be a dataclass or a pydantic model", kind)
    for key in config.settings:
        if key not in known:
            raise UserError(f"workload {config.name}: unknown setting `{key}`; {did_you_mean(key, known)}")
    if kind is None:
        return None
    try:
        return TypeAdapter(kind).validate_python(config.settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = f"setting `{dotted(first['loc'])}`"
        if first["type"] in ("missing", "missing_argument"):
            raise UserError(f"workload {config.name}: {place} is required, but is missing") from None
        rule = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
        raise _error(config, f"{place}: {rule[:1].lower() + rule[1:]}", first["input"]) from None


@cache
def sources_digest(name: str) -> str:
    """Return the digest of the source of a workload's module and of what it imports from beside its package.

    Of an installed package nothing beside it counts, and of this tool nothing at all. What was loaded once in a process
    counts as it was then.

    Raises:
        UserError: there is no such class, or no source of it.
    """
    found = find_class(name)
    if name in BUILT_IN:  # which say themselves when they have changed
        return str(getattr(found, "CODE"))  # noqa: B009 - of these only
    module = name.partition(":")[0]
    file = getattr(sys.modules[module], "__file__", None)
    if file is None or not file.endswith(".py"):
        raise UserError(f"workload {name}: its module must have a source file, but {module} has none; write it in one")
    digest = hashlib.sha256(str(getattr(found, "CODE", "")).encode())  # of an adapter in this tool
    for each, path in sorted(_sources(module, Path(file)).items()):
        digest.update(f"{each}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def where_from(error: BaseException) -> str:
    """Return an exception of foreign code in one line: what it is, and the last line of code that it came through."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


def _sources(name: str, file: Path) -> dict[str, Path]:
    """Return the source files of a module and, in turn, of those that it imports, by name."""
    place = file.parents[name.count(".") + (file.name == "__init__.py")]
    alone = not _INSTALLED.isdisjoint(place.parts)
    found, left = {name: file}, [name]
    while left:
        module = left.pop()
        for other in _imports(module, found[module]):
            parts = other.split(".")
            if parts[0] == "tuner" or (alone and parts[0] != name.split(".")[0]):
                continue
            for length in range(1, len(parts) + 1):
                parent, stem = ".".join(parts[:length]), place.joinpath(*parts[:length])
                path = next((each for each in (stem / "__init__.py", stem.with_suffix(".py")) if each.is_file()), None)
                if path is not None and parent not in found:
                    found[parent] = path
                    left.append(parent)
    return found


def _imports(module: str, path: Path) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                try:
                    base = resolve_name("." * node.level + base, package)
                except ImportError:
                    continue
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _error(config: OwnConfig, rule: str, value: object) -> UserError:
    return UserError(f"workload {config.name}: {rule}, but got {value!r}")
