"""Backbone weights in a file: loaded as data, never as pickled objects, and known by their content."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from tuner.errors import UserError
from tuner.files import write_whole

_SHOWN: Final = 3


def load_weights(backbone: nn.Module, path: str | Path) -> None:
    """Load a state dict into a backbone; every name and shape must fit, and precision follows the backbone's.

    Args:
        backbone: where the weights go.
        path: a file that `torch.save(backbone.state_dict(), path)` wrote, such as arcface_torch's `backbone.pth`.

    Raises:
        UserError: the file cannot be read, holds something else than a state dict, or one that does not fit.
    """
    fit_weights(backbone, read_weights(path), source=path)


def fit_weights(backbone: nn.Module, state: Mapping[str, Tensor], *, source: str | Path) -> None:
    """Load a state dict into a backbone, as `load_weights` does; `source` is the file it was read from, for errors."""
    ours = backbone.state_dict()
    other = [
        f"{name} {tuple(state[name].shape)} for {tuple(value.shape)}"
        for name, value in ours.items()
        if name in state and state[name].shape != value.shape
    ]
    fitting = {name: value for name, value in state.items() if name not in ours or value.shape == ours[name].shape}
    found = backbone.load_state_dict(fitting, strict=False)
    missing = [name for name in found.missing_keys if name not in state]
    faults = [("missing", missing), ("unexpected", found.unexpected_keys), ("of another shape", other)]
    if text := "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in faults if names):
        raise UserError(
            f"weights: the names and shapes in {source} must be those of the backbone, but {text};"
            " set `backbone`, `embedding_size` and `image_size` to what they were saved from"
        )


def save_weights(state: Mapping[str, Any], path: str | Path) -> None:
    """Write a backbone's state dict for `load_weights`, whole or not at all; OSError where it cannot be written."""
    content = io.BytesIO()
    torch.save(dict(state), content)
    write_whole(Path(path), content.getvalue())


def weights_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, hexadecimal; read again only where its size or time has changed.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        about = Path(path).stat()
        return _digest(str(path), about.st_size, about.st_mtime_ns, about.st_ino)
    except OSError as error:
        raise _unreadable(path, error) from error


@cache
def _digest(path: str, *_version: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: str | Path) -> Mapping[str, Tensor]:
    """Return the state dict in a file, on the host.

    Raises:
        UserError: the file cannot be read, or holds something else than tensors by name.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # for bytes that are no such file torch raises whatever it stumbles over
        raise UserError(
            f"weights: {path} must be a state dict saved by torch, but cannot be read as one;"
            " write it with torch.save(backbone.state_dict(), path)"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"weights: {path} must hold a state dict, tensors by name, but holds {_kind(state)};"
            " save the backbone's state_dict() alone"
        )
    return state


def _unreadable(path: str | Path, error: OSError) -> UserError:
    return UserError(f"weights: {path} cannot be read ({error.strerror}); check its name and rights")


def _kind(state: object) -> str:
    if not isinstance(state, Mapping):
        return f"a {type(state).__name__}"
    others = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    return f"other things too ({_some(others)})"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
