"""Connect to a tracking store, and find out before the first trial whether it can be reached and written.

MLflow itself finds out slowly: it tries a server that is not there for minutes, and an SQL store for 100 seconds. So
each kind of store is probed in its own way first, which takes 3 seconds at most.

A sweep that goes on needs no MLflow before it trains, so MLflow and SQLAlchemy are imported where they are used.
"""

import http.client
import logging
import socket
import sqlite3
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tuner.errors import UserError
from tuner.names import EXPERIMENT, TAG_DESCRIPTION
from tuner.tracking.uri import WAY_OUT, check_there, redact, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROBE_SECONDS: Final = 3.0
ARTIFACTS_DIR: Final = "mlartifacts"
_PORTS: Final = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_EXPERIMENT_TAGS: Final = {
    TAG_DESCRIPTION: "Sweeps of learning-rate schedules: one parent run per sweep, one child run per trial.",
    "mlflow.experimentKind": "custom_model_development",  # which face MLflow's UI shows: not that for language models
}


class Tracker:
    """A tracking store, its client, and the experiment of the sweeps in it; asked for nothing before it is used.

    `connect` makes one that has been reached and written. Making it here is for those who can wait for a store that is
    away: the first use of `client`, which may take long or fail, is then theirs.
    """

    def __init__(self, uri: str, *, experiment: str = EXPERIMENT) -> None:
        self.uri = uri
        self.experiment = experiment

    def __repr__(self) -> str:
        return f"Tracker({self.shown!r})"

    @cached_property
    def client(self) -> "MlflowClient":
        """MLflow's client, which sets a fresh database up; `connect` makes the file, a sweep that goes on must not."""
        database = sqlite_path(self.uri)
        if database is not None and not database.exists():
            raise FileNotFoundError(f"{database} is not there")
        from mlflow import MlflowClient

        _silence()
        return MlflowClient(self.uri)

    @cached_property
    def experiment_id(self) -> str:
        """The experiment of the sweeps, made if it is not there, and written to: a store for reading only raises."""
        return _writable_experiment(self.client, self.experiment, sqlite_path(self.uri))

    @property
    def shown(self) -> str:
        """The address without credentials, for people and logs."""
        return redact(self.uri)

    @contextmanager
    def asked_to(self, task: str) -> Iterator[None]:
        """Turn a failure of the store inside the block into a UserError of one line that names store and task."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001  artifact stores raise what they like
            raise UserError(f"the tracking store {self.shown} could not {task}: {reason(error)}") from None


def connect(uri: str, *, experiment: str = EXPERIMENT) -> Tracker:
    """Reach the store at `uri` (from `resolve_uri`), make the experiment if it is not there, and check by writing.

    Raises UserError, within seconds, if the store is not there, is not MLflow's, is locked, or cannot be written.
    A fresh SQLite store is set up, with its artifacts in `mlartifacts/` beside the database file.
    """
    tracker = Tracker(uri, experiment=experiment)
    _probe(uri)
    with _explained(tracker):
        assert tracker.experiment_id  # noqa: S101 - asking for it is the test
    return tracker


def open_store(uri: str) -> Tracker:
    """Reach a store to read it, and make nothing there; UserError, within seconds, where that fails."""
    check_there(uri)
    tracker = Tracker(uri)
    _probe(uri)
    with _explained(tracker):
        tracker.client.search_experiments(max_results=1)
    return tracker


def reconnect(uri: str, *, run_id: str) -> Tracker:
    """Reach the store that has a run, and make nothing there; UserError, within seconds, where that fails."""
    from mlflow.exceptions import MlflowException

    tracker = open_store(uri)
    with _explained(tracker):
        try:
            tracker.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UserError(
                f"the tracking store {tracker.shown} has no run {run_id}; say with --tracking-uri which one has"
            ) from None
    return tracker


@contextmanager
def _explained(tracker: Tracker) -> Iterator[None]:
    """Turn whatever is raised inside the block into a UserError with a way out: a traceback would show the password."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001
        explanation = _explain(error, tracker.shown)
        raise UserError(f"the tracking store {tracker.shown} cannot be used: {explanation}") from None


def _probe(uri: str) -> None:
    """Find out quickly whether anything is there."""
    scheme = urlsplit(uri).scheme.partition("+")[0]
    database = sqlite_path(uri)
    if database is not None:
        _probe_sqlite(database)
    elif scheme in ("http", "https"):
        _probe_server(uri)
    elif scheme in _PORTS:
        _probe_sql_server(uri, default_port=_PORTS[scheme])


def reason(error: BaseException) -> str:
    """Return in one line, without credentials, what really happened: the network's or the file's error, if it was one.

    MLflow and its libraries wrap "connection refused" in four layers, each longer than the one before.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError | sqlite3.Error):
            error = cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return redact(lines[0])[:300]


def _writable_experiment(client: "MlflowClient", name: str, database: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        # Left to itself MLflow would put artifacts into ./mlruns, and a folder of that name makes other programs here
        # take the store for a file store.
        location = None if database is None else (database.parent / ARTIFACTS_DIR / name).as_uri()
        return str(client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS))
    if found.lifecycle_stage != "active":
        raise UserError(
            f"the experiment '{name}' is deleted in the tracking store {redact(client.tracking_uri)}; bring it back "
            f"with `mlflow experiments restore --experiment-id {found.experiment_id}`, or use another store"
        )
    client.set_experiment_tag(found.experiment_id, "fastface_tuner.version", version("fastface-tuner"))
    return str(found.experiment_id)


def _explain(error: Exception, shown: str) -> str:
    """Add the way out to the failures that have a known one."""
    from mlflow.exceptions import MlflowException

    text = str(error)
    if "out-of-date database schema" in text:
        return f"another version of MLflow made it; back it up, then run `mlflow db upgrade {shown}`"
    if "unsupported URI" in text or "Unsupported URI" in text:
        return f"no MLflow store of that kind is installed; {WAY_OUT}"
    if isinstance(error, ImportError):
        return f"{error}; install that driver, or {WAY_OUT}"
    code = error.error_code if isinstance(error, MlflowException) else ""
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED") or " 401" in text or " 403" in text:
        return "it refused the credentials; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or _TOKEN)"
    return f"{reason(error)}; {WAY_OUT}"


def _probe_sqlite(path: Path) -> None:
    """Check that the file can be written and is MLflow's or new: MLflow would add its tables to any database."""
    way_out = "name another file with --tracking-uri"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=PROBE_SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            connection.rollback()
    except OSError as error:
        raise UserError(f"the tracking store {path} cannot be made: {error.strerror}; {way_out}") from None
    except sqlite3.Error as error:
        raise UserError(f"the tracking store {path} cannot be written: {error}; {way_out}") from None
    if tables and not {"experiments", "alembic_version"} <= tables:
        raise UserError(f"the tracking store {path} is a database of another program; {way_out}")


def _probe_server(uri: str) -> None:
    parts = urlsplit(uri)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    try:
        with urllib.request.urlopen(f"{bare}/health", timeout=PROBE_SECONDS):  # noqa: S310  the scheme is http(s)
            return
    except urllib.error.HTTPError:
        return  # it is there; whether it is MLflow, and lets us in, the first real call shows
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLError):
            return  # MLflow has its own settings for certificates
        raise UserError(f"the tracking server {redact(uri)} does not answer: {cause}; start it, or {WAY_OUT}") from None


def _probe_sql_server(uri: str, *, default_port: int) -> None:
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri)
        if engine.url.host:
            socket.create_connection((engine.url.host, engine.url.port or default_port), PROBE_SECONDS).close()
        engine.connect().close()
        engine.dispose()
    except ImportError as error:
        raise UserError(f"the tracking store {redact(uri)} needs a driver: {error}; install it") from None
    except (OSError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise UserError(f"the tracking store {redact(uri)} does not answer: {reason(error)}; {WAY_OUT}") from None


def _silence() -> None:
    """Keep MLflow's running commentary (migrations, HTTP retries, SQL tracebacks) out of the progress display.

    Errors still arrive as exceptions, which is where they are reported from.
    """
    for name, level in (
        ("mlflow", logging.WARNING),
        ("mlflow.store.db.utils", logging.CRITICAL),
        ("alembic", logging.WARNING),
        ("urllib3.connectionpool", logging.ERROR),
    ):
        logging.getLogger(name).setLevel(level)
