"""State files: they appear whole or not at all, and say what they are when they are read.

A record is one JSON object with its format version, its kind and a checksum. A file that is damaged, of another kind
or of another version is an error that names it, never taken for a missing one.
"""

import json
import os
import secrets
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tuner.errors import UserError
from tuner.names import FORMAT_VERSION


def write_whole(path: Path, data: bytes, *, new: bool = False) -> None:
    """Put a file in place once all of it is on the disk; one that is there is replaced, or with `new` kept.

    Raises:
        FileExistsError: with `new`, there is one already.
        OSError: the folder cannot be written, or the disk is full; the file is then as it was.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if new:
            os.link(draft, path)
        else:
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_record(path: Path, content: Mapping[str, Any], *, kind: str) -> None:
    """Write JSON-like data as a record of this kind, whole or not at all; floats come back bit for bit."""
    body = {"format": FORMAT_VERSION, "kind": kind, **content}
    write_whole(path, json.dumps({**body, "checksum": _checksum(body)}, indent=1).encode() + b"\n")


def read_record(path: Path, *, kind: str) -> dict[str, Any]:
    """Return what `write_record` wrote.

    Raises:
        FileNotFoundError: there is none.
        UserError: the file cannot be read, is damaged, or of another kind or version.
    """
    try:
        body = json.loads(path.read_bytes())
        checksum = body.pop("checksum", None)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror}); check its rights") from None
    except (ValueError, AttributeError):
        raise UserError(f"{path}: must hold a record ({kind}), but is damaged; restore it from a copy") from None
    if body.get("kind") != kind:
        raise UserError(f"{path}: must hold a record ({kind}), but is another program's file; move it away")
    if body.get("format") != FORMAT_VERSION:
        raise UserError(
            f"{path}: must have format {FORMAT_VERSION}, but has {body.get('format')!r}; "
            "use the version of fastface-tuner that wrote it"
        )
    if checksum != _checksum(body):
        raise UserError(f"{path}: must hold a record ({kind}), but is damaged; restore it from a copy")
    return {name: value for name, value in body.items() if name not in ("format", "kind")}


def _checksum(body: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def _sync_folder(folder: Path) -> None:
    """Bring the name of a new file to the disk too; not every file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
