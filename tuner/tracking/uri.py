"""Addresses of tracking stores: which one is meant, in its absolute form, and shown without its credentials."""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tuner.errors import UserError
from tuner.names import DEFAULT_TRACKING_URI, TRACKING_URI_VARIABLE

SQLITE = "sqlite:///"
WAY_OUT = f"use {DEFAULT_TRACKING_URI} or the address of a server, such as http://localhost:5000"

# Greedy up to the last "@": a password may hold any character. Files have no user, and paths may hold an "@".
_USER = re.compile(r"\b(?!sqlite:|file:)([a-z][a-z0-9+.-]*://)\S*@", re.IGNORECASE)
_SECRET = re.compile(
    r"([?&][^=&\s]*(?:passw|pwd|token|secret|key|sig|credential|odbc_connect)[^=&\s]*="
    r"|\b(?:passw\w*|pwd)=)[^&;\s'\"]+",  # the second form: what database drivers make of an address
    re.IGNORECASE,
)
_HIDDEN = "***"


def resolve_uri(option: str | None) -> str:
    """Return the tracking store to use: the option, else MLFLOW_TRACKING_URI, else SQLite in the working folder.

    An SQLite path comes back absolute, so that a later change of the working folder does not change the store.
    Raises UserError for what MLflow 3 cannot write to: a folder, a `file:` store, a database in memory, no scheme.
    """
    variable = os.environ.get(TRACKING_URI_VARIABLE, "").strip()
    origin, uri = ("--tracking-uri", option.strip()) if option is not None else (TRACKING_URI_VARIABLE, variable)
    if option is None and not variable:
        uri = DEFAULT_TRACKING_URI
    rule = f"`{origin}` must be a tracking server or a database, but got"
    scheme, separator, rest = uri.partition(":")
    scheme = scheme.lower()
    if scheme == "sqlite":
        return _absolute_sqlite(uri, rule)
    if uri == "databricks" or scheme == "databricks":
        return uri
    if scheme == "file" or not separator or "/" in scheme:
        raise UserError(f"{rule} '{redact(uri)}', a folder, which MLflow 3 no longer writes to; {WAY_OUT}")
    if not rest.startswith("//"):
        host = uri.rpartition("@")[2]
        raise UserError(f"{rule} '{host}', which has no scheme; write http://{host} or use {DEFAULT_TRACKING_URI}")
    if re.search(r"\s", uri):
        raise UserError(f"{rule} a {scheme} address with a space in it; write the space as %20")
    if scheme in ("http", "https"):
        _check_server(uri, rule)
        return uri.rstrip("/")
    return uri


def reopen_uri(recorded: str, option: str | None) -> str:
    """Return the address of a store that was recorded without its credentials, with those that this process is given.

    The option wins, as it may also say where the store has moved to; then MLFLOW_TRACKING_URI, where that is the same
    store. Without either the address goes without credentials, for stores that take them from variables of their own
    (MLFLOW_TRACKING_USERNAME, PGPASSWORD). Raises UserError for an option that cannot be a store.
    """
    variable = os.environ.get(TRACKING_URI_VARIABLE, "").strip()
    if option is not None or (variable and _place(variable) == _place(recorded)):
        return resolve_uri(option)
    return re.sub(rf"(?<=[?&])[^=&]*={re.escape(_HIDDEN)}&?", "", recorded.replace(f"{_HIDDEN}@", "")).rstrip("?&")


def sqlite_path(uri: str) -> Path | None:
    """Return the database file of an SQLite address, None for any other kind of store."""
    if not uri.startswith(SQLITE):
        return None
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0]))


def check_there(uri: str) -> None:
    """Raise UserError where an SQLite address has no file: MLflow would make an empty store there."""
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        raise UserError(f"the tracking store {database} is not there; say with --tracking-uri where it is now")


def redact(text: str) -> str:
    """Return the text with user, password and secret query values of every address in it replaced by ***."""
    return _SECRET.sub(rf"\1{_HIDDEN}", _USER.sub(rf"\1{_HIDDEN}@", text))


def _place(uri: str) -> str:
    """Return what is left of an address without user and query: which store it is."""
    return redact(uri).replace(f"{_HIDDEN}@", "").partition("?")[0].rstrip("/")


def _check_server(uri: str, rule: str) -> None:
    try:
        parts = urlsplit(uri)
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, a bracket that is not closed
        valid = False
    if not valid:
        raise UserError(f"{rule} '{redact(uri)}', which names no host or no valid port; {WAY_OUT}")


def _absolute_sqlite(uri: str, rule: str) -> str:
    path, question, query = uri.removeprefix(SQLITE).partition("?")
    if not uri.startswith(SQLITE):
        raise UserError(f"{rule} '{uri}'; SQLite addresses have three slashes before a relative path, four before /")
    if not path or path == ":memory:":
        raise UserError(f"{rule} '{uri}', which would be gone with the process; {WAY_OUT}")
    absolute = str(Path(unquote(path)).expanduser().absolute())
    for character in "%?#":  # the characters that mean something in an address; "%" first
        absolute = absolute.replace(character, f"%{ord(character):02X}")
    return SQLITE + absolute + question + query
