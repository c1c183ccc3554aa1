"""A tracking store is found, reached and written before the first trial, or refused in one line without credentials."""

import logging
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from tuner.errors import UserError
from tuner.names import EXPERIMENT, TRACKING_URI_VARIABLE
from tuner.tracking import store
from tuner.tracking.store import connect
from tuner.tracking.uri import redact, resolve_uri, sqlite_path

NewStore = Callable[[Path], str]
SECRET = "5ecret"  # noqa: S105


def refused(uri: str, *, within_seconds: float = 5.0) -> str:
    """Return the message with which `connect` refuses the address; it has to be one line, quick and discreet."""
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        connect(uri)
    message = str(caught.value)
    assert time.monotonic() - start < within_seconds
    assert "\n" not in message
    assert SECRET not in message
    return message


def test_option_wins_over_variable_over_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACKING_URI_VARIABLE, "http://variable:5000/")
    assert resolve_uri("http://option:5000") == "http://option:5000"
    assert resolve_uri(None) == "http://variable:5000"
    monkeypatch.setenv(TRACKING_URI_VARIABLE, "")
    assert sqlite_path(resolve_uri(None)) == tmp_path / "mlflow.db"


@pytest.mark.parametrize("folder", ["plain", "with space", "100%", "what?", "a#b", "a@b", "ä"])
def test_sqlite_address_is_absolute_and_means_the_same_file_to_mlflow(
    folder: str, tmp_path: Path, mlflow_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow_store(tmp_path / folder)
    monkeypatch.chdir(tmp_path / folder)
    monkeypatch.delenv(TRACKING_URI_VARIABLE)
    uri = resolve_uri(None)
    monkeypatch.chdir("/")
    assert sqlite_path(uri) == tmp_path / folder / "mlflow.db"
    experiment_id = connect(uri).experiment_id
    with sqlite3.connect(tmp_path / folder / "mlflow.db") as connection:
        rows = connection.execute("SELECT experiment_id FROM experiments WHERE name = ?", (EXPERIMENT,)).fetchall()
    connection.close()
    assert [str(found) for (found,) in rows] == [experiment_id]


@pytest.mark.parametrize(
    "bad",
    [
        "./mlruns", "/var/mlruns", "mlruns", "", "file:///var/mlruns", "sqlite://mlflow.db", "sqlite:mlflow.db", "sqlite://",
        "sqlite:///", "sqlite:///:memory:", "localhost:5000", f"me:{SECRET}@localhost:5000", f"http://me:{SECRET}@",
        f"http://me:{SECRET}@host:port", f"http://me:{SECRET} x@host", "http:///path",
    ],
)  # fmt: skip
def test_unusable_address_is_refused_with_a_way_out(bad: str) -> None:
    with pytest.raises(UserError, match=r"--tracking-uri.*(sqlite:///|http://|%20|three slashes)") as caught:
        resolve_uri(bad)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_the_message_names_the_variable_where_it_was_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACKING_URI_VARIABLE, "./mlruns")
    with pytest.raises(UserError, match=TRACKING_URI_VARIABLE):
        resolve_uri(None)


@given(
    st.text(st.characters(exclude_categories=["Z", "C"]), max_size=8),
    st.text(st.characters(exclude_categories=["Z", "C"]), max_size=8),
    st.sampled_from(["http", "https", "postgresql", "mysql+pymysql"]),
)
def test_no_password_survives_redaction(before: str, after: str, scheme: str) -> None:
    text = redact(f"cannot reach {scheme}://user:{before}{SECRET}{after}@host:5000/path: refused")
    assert SECRET not in text
    assert text.startswith(f"cannot reach {scheme}://***@host:5000/path")


def test_redaction_masks_secret_query_values_and_leaves_paths_alone() -> None:
    assert redact(f"https://host/x?token={SECRET}&page=2") == "https://host/x?token=***&page=2"
    assert redact(f"mssql+pyodbc:///?odbc_connect=PWD%3D{SECRET}%3B&x=1") == "mssql+pyodbc:///?odbc_connect=***&x=1"
    assert redact(f"host=db user=me password={SECRET} port=5432") == "host=db user=me password=*** port=5432"
    assert redact(f"DRIVER=x;UID=me;PWD={SECRET};") == "DRIVER=x;UID=me;PWD=***;"
    assert redact("sqlite:////data/a@b/mlflow.db") == "sqlite:////data/a@b/mlflow.db"


def test_fresh_sqlite_store_is_made_quietly_with_artifacts_beside_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tracker = connect(resolve_uri("sqlite:///new/folder/mlflow.db"))
    experiment = tracker.client.get_experiment(tracker.experiment_id)
    assert experiment.name == EXPERIMENT
    assert experiment.artifact_location == (tmp_path / "new/folder/mlartifacts" / EXPERIMENT).as_uri()
    assert [entry.name for entry in tmp_path.rglob("*")] == ["new", "folder", "mlflow.db"]
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert connect(tracker.uri).experiment_id == tracker.experiment_id


def test_an_mlruns_folder_in_the_working_folder_changes_nothing(tmp_path: Path, mlflow_store: NewStore) -> None:
    (tmp_path / "mlruns/0").mkdir(parents=True)
    (tmp_path / "mlruns/0/meta.yaml").write_text("name: Default\n")
    tracker = connect(mlflow_store(tmp_path))
    assert MlflowClient(tracker.uri).get_experiment(tracker.experiment_id).name == EXPERIMENT


def test_server_that_is_not_there_is_found_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        message = refused(f"http://me:{SECRET}@127.0.0.1:{unused.getsockname()[1]}", within_seconds=2)
    assert "does not answer" in message
    assert "refused" in message


def test_server_that_accepts_and_never_answers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.PROBE_SECONDS <= 3
    monkeypatch.setattr(store, "PROBE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message = refused(f"http://me:{SECRET}@127.0.0.1:{silent.getsockname()[1]}", within_seconds=2)
    assert "timed out" in message


@contextmanager
def web_server(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"no")

        do_POST = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "way_out"), [(404, "cannot be used"), (401, "MLFLOW_TRACKING_USERNAME"), (403, "_TOKEN")]
)
def test_server_that_is_not_mlflow_or_keeps_us_out(status: int, way_out: str) -> None:
    with web_server(status) as address:
        assert way_out in refused(f"http://me:{SECRET}@{address}")


def test_database_server_that_is_not_there_or_has_no_driver() -> None:
    message = refused(f"postgresql://me:{SECRET}@127.0.0.1:1/db")
    assert "needs a driver" in message or "does not answer" in message


def test_unwritable_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be made" in refused(f"sqlite:///{tmp_path}/file/mlflow.db")
    assert "cannot be written" in refused(f"sqlite:///{tmp_path}")


def test_file_that_is_no_database_and_database_of_another_program_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(
        "Not a database, but long enough to be taken for one by its length alone. " * 20
    )
    assert "not a database" in refused(f"sqlite:///{tmp_path}/notes.txt")
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute("CREATE TABLE studies (id INTEGER)")
    connection.close()
    assert "another program" in refused(f"sqlite:///{tmp_path}/study.db")


def test_locked_database_is_refused(tmp_path: Path, mlflow_store: NewStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PROBE_SECONDS", 0.2)
    uri = mlflow_store(tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert "locked" in refused(uri)
    connection.close()


def test_database_of_another_mlflow_version_says_how_to_upgrade(tmp_path: Path, mlflow_store: NewStore) -> None:
    uri = mlflow_store(tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'cfd24bdc0731'")
    connection.close()
    assert "mlflow db upgrade sqlite:///" in refused(uri)


def test_deleted_experiment_says_how_to_bring_it_back(tmp_path: Path, mlflow_store: NewStore) -> None:
    tracker = connect(mlflow_store(tmp_path))
    tracker.client.delete_experiment(tracker.experiment_id)
    assert f"restore --experiment-id {tracker.experiment_id}" in refused(tracker.uri)


def test_unknown_kind_of_store_is_refused() -> None:
    assert "no MLflow store of that kind" in refused("carrier-pigeon://loft")
