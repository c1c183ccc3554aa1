"""Where a ledger lives: a journal file in the sweep's folder, or a storage that a server keeps for many machines.

In place of the journal, the folder of a sweep of the second kind has a small file that names the storage and the study
in it, without a password. The password comes from the variable FASTFACE_TUNER_STORAGE, which gives the whole address,
or from where the database's own client looks for it.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self, cast

from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage, _CachedStorage
from optuna.study import StudyDirection

from tuner.errors import UserError
from tuner.files import ledger_file, read_record, sync_folder, write_record
from tuner.names import STORAGE_FILE, STORAGE_VARIABLE
from tuner.search.journal import create_journal, open_journal
from tuner.search.quiet import quiet

STUDY_NAME: Final = "sweep"
"""What the study in a journal is called, which holds no other; in a storage it has the sweep's name."""
READY_SECONDS: Final = 20.0
"""So long a gRPC storage may take to answer the first time."""

_GRPC: Final = re.compile(r"grpc://(?P<host>\[[^\]]+\]|[^:/@\s]+):(?P<port>\d+)/?")
# Greedy up to the last "@": a password may hold any character, and a database's name holds none.
_ACCESS: Final = re.compile(r"(?<=://)([^:@/\s]*)(?::\S*)?@")
_SECRET: Final = re.compile(r"([?&])[^=&]*(?:passw|pwd|token|secret|key)[^=&]*=[^&]*", re.IGNORECASE)
_EXTRA: Final = "pip install 'fastface-tuner[cluster]'"
_KIND: Final = "storage of a sweep's ledger"


@dataclass(frozen=True, slots=True)
class Opened:
    """A storage with a sweep's study in it; `path` is the file in the sweep's folder that stands for it."""

    path: Path
    storage: BaseStorage
    study: str
    is_journal: bool


def resolve_storage(option: str | None) -> str | None:
    """Return the address of the storage to use: the option, else FASTFACE_TUNER_STORAGE; None for a journal file.

    Raises:
        UserError: it cannot be an address.
    """
    url = (os.environ.get(STORAGE_VARIABLE, "") if option is None else option).strip()
    origin = STORAGE_VARIABLE if option is None else "--storage"
    if not url:
        return None
    if not re.fullmatch(r"[a-z][a-z0-9+]*://\S+", url):
        raise UserError(
            f"`{origin}` must be the address of a database or of a gRPC storage, but is no address; "
            "write for example postgresql+psycopg://user@host/database or grpc://host:13000"
        )
    if url.startswith("grpc:") and not _GRPC.fullmatch(url):
        raise UserError(f"`{origin}` must name host and port of a gRPC storage, but got {without_password(url)}")
    if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
        return f"sqlite:///{Path(url.removeprefix('sqlite:///')).absolute()}"
    return url


def without_password(url: str) -> str:
    """Return an address without the password in it, which its user name does without too, and its secret settings."""
    user = _ACCESS.sub(lambda found: f"{found[1]}@" if found[1] else "", url)
    return re.sub(r"\?(?=$)|(?<=\?)&+", "", _SECRET.sub(r"\1", user)).rstrip("?&")


def create_storage(
    journal: Path, *, direction: StudyDirection, attributes: dict[str, Any], url: str | None = None, study: str
) -> Opened:
    """Begin the study of a new sweep, with these attributes; its file appears whole or not at all.

    Args:
        journal: the path of the journal in the sweep's folder.
        direction: of the study.
        attributes: of the study.
        url: the storage, from `resolve_storage`; None for a journal.
        study: its name in the storage.

    Raises:
        UserError: there is such a study, or it cannot be written.
    """
    if journal.exists():
        raise UserError(f"{journal}: a sweep exists there; choose another name")
    if url is None:
        draft = journal.with_name(journal.name + ".new")
        draft.unlink(missing_ok=True)
        _begin(create_journal(draft), direction, attributes, STUDY_NAME)
        draft.replace(journal)
        sync_folder(journal.parent)
        return Opened(journal, open_journal(journal), STUDY_NAME, is_journal=True)
    storage = check_free(url, study=study)
    _begin(storage, direction, attributes, study)
    opened = Opened(journal.with_name(STORAGE_FILE), storage, study, is_journal=False)
    note_place(opened, url)
    return opened


def check_free(url: str, *, study: str) -> BaseStorage:
    """Connect to a storage for a new study.

    Raises:
        UserError: it does not answer, or has a study of this name.
    """
    storage = open_url(url, new=True)
    if any(other.study_name == study for other in storage.get_all_studies()):
        raise UserError(
            f"a sweep's study needs a name of its own, but the storage {without_password(url)} has one that is called "
            f"{study!r}; choose another --name"
        )
    return storage


def open_storage(journal: Path, *, url: str | None = None) -> Opened:
    """Open the storage of a sweep that exists; nothing is written.

    Args:
        journal: the path of the journal in the sweep's folder.
        url: where the storage is now, if it has moved; None: where it was.

    Raises:
        UserError: there is none, it is damaged, or does not answer; or there is a journal, and a `url` for it.
    """
    path = ledger_file(journal)
    if path == journal:
        if url is not None:
            raise UserError(f"--storage says where a ledger in a storage is, but this one is {path}; leave it out")
        return Opened(path, open_journal(path), STUDY_NAME, is_journal=True)
    record = read_record(path, kind=_KIND)
    recorded, study = str(record["url"]), str(record["study"])
    if url is None:
        given = resolve_storage(None)
        url = given if given is not None and _place(given) == _place(recorded) else recorded
    return Opened(path, open_url(url), study, is_journal=False)


def note_place(opened: Opened, url: str) -> None:
    """Write down where a storage has moved to, without the password."""
    write_record(opened.path, {"url": without_password(url), "study": opened.study}, kind=_KIND)


def open_url(url: str, *, new: bool = False) -> BaseStorage:
    """Connect to a storage; with `new`, make its tables where it has none.

    Raises:
        UserError: it does not answer, or a package for it is missing; so do all that is asked of it later.
    """
    shown = without_password(url)
    with _failures_named(url):
        if (address := _GRPC.fullmatch(url)) is not None:
            if find_spec("grpc") is None:
                raise UserError(f"the storage {shown} needs the package grpcio; install it: {_EXTRA}")
            with quiet():
                proxy = GrpcStorageProxy(host=address["host"].strip("[]"), port=int(address["port"]))
            proxy.wait_server_ready(READY_SECONDS)
            return cast(BaseStorage, _Named(proxy, url))
        try:
            # A connection that broke while nothing was asked is made again.
            database = RDBStorage(url, engine_kwargs={"pool_pre_ping": True}, skip_table_creation=not new)
        except ImportError:
            raise UserError(f"the storage {shown} needs a database driver; for PostgreSQL: {_EXTRA}") from None
        return cast(BaseStorage, _Named(_CachedStorage(database), url))


class _Named:
    """A storage whose failures are one line that names it, without the password."""

    def __init__(self, storage: BaseStorage, url: str) -> None:
        self._storage, self._url = storage, url

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if not callable(found):
            return found
        call: Callable[..., Any] = found

        @wraps(call)
        def named(*arguments: Any, **others: Any) -> Any:
            with _failures_named(self._url):
                return call(*arguments, **others)

        return named

    def __reduce__(self) -> tuple[type[Self], tuple[BaseStorage, str]]:
        raise TypeError("a storage with its password must not be pickled")


@contextmanager
def _failures_named(url: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not _is_outside(error):
            raise
        cause = error.__cause__ or error
        details = getattr(cause, "details", None)  # of gRPC
        text = " ".join(str(details() if callable(details) else getattr(cause, "orig", None) or cause).split())
        for secret in filter(None, (url, *_secrets(url))):
            text = text.replace(secret, "***")
        text = text or type(cause).__name__  # a time-out of gRPC says nothing
        shown = without_password(url)
        raise UserError(
            f"the storage {shown} must answer, but does not: {text[:300]}; check the address, and whether it needs a "
            f"password, which {STORAGE_VARIABLE} can give with the whole address"
        ) from None


def _is_outside(error: Exception) -> bool:
    """Return whether it was the storage that failed: whatever a database, its driver or gRPC raise."""
    places = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(places & {"sqlalchemy", "psycopg", "grpc"}) or (
        isinstance(error, (ConnectionError, RuntimeError)) or type(error).__name__ == "StorageInternalError"
    )


def _secrets(url: str) -> list[str]:
    """Return what of an address nobody is to read, as it is written and as it is meant."""
    from urllib.parse import unquote_plus

    access = re.search(r"(?<=://)[^:@/\s]*:(\S*)@", url)
    written = [found[0].partition("=")[2] for found in _SECRET.finditer(url)]
    written += [] if access is None else [access[1]]
    return sorted({each for one in written for each in (one, unquote_plus(one)) if each}, key=len, reverse=True)


def _place(url: str) -> str:
    """Return which storage an address means, whoever asks."""
    return re.sub(r"(?<=://)[^@/]*@", "", without_password(url)).partition("?")[0].rstrip("/")


def _begin(storage: BaseStorage, direction: StudyDirection, attributes: dict[str, Any], study: str) -> None:
    with quiet():
        study_id = storage.create_new_study([direction], study)
    for key, value in attributes.items():
        storage.set_study_user_attr(study_id, key, value)
