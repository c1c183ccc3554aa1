"""A ledger in a storage: a database or a gRPC server in place of the journal, and its password nowhere."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import PASSWORD, Postgres, installed

from tuner.config.space_file import space_from_text
from tuner.errors import UserError
from tuner.names import STORAGE_FILE, STORAGE_VARIABLE
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.search.storage import check_free, resolve_storage, without_password

SPACE = """
question: q
steps: 60
sampler: random
schedulers:
  - name: fastface
    parameters:
      patience_fraction: {low: 0.1, high: 0.3}
      decay_factor: {choices: [4, 10]}
"""
PLAN = make_plan(space_from_text(SPACE, file="x.yaml"))


def run(ledger: Ledger, num: int) -> None:
    for _ in range(num):
        trial = ledger.ask()
        assert trial is not None
        if trial.number == 2:
            ledger.tell(trial.number, reason="out of memory")
        else:
            ledger.tell(trial.number, value=trial.number / 7, metrics={"accuracy": 0.1}, shared_with={"x": 3})


def keeps_what_a_journal_keeps(folder: Path, url: str) -> Ledger:
    """Run the same trials into a journal and into the storage, opened again in the middle; return the latter."""
    journal = Ledger.create(folder / "a" / "study.journal", plan=PLAN)
    run(journal, 4)
    ledger = Ledger.create(folder / "b" / "study.journal", plan=PLAN, storage=url, study="first")
    run(ledger, 2)
    handed_out = ledger.ask()
    assert handed_out is not None
    again = Ledger.open(folder / "b" / "study.journal")
    assert again.plan == PLAN
    resumed = again.ask()
    assert resumed is not None
    assert (resumed.number, resumed.params, resumed.resumed) == (2, handed_out.params, True)
    run(again, 2)
    again.annotate(1, run_id="r1")
    again.mark_mirrored(1)
    reader = Ledger.open(folder / "b" / "study.journal", read_only=True)
    journal.annotate(1, run_id="r1")
    journal.mark_mirrored(1)
    assert reader.trials() == journal.trials()
    assert len(reader.study().trials) == 4
    assert not (folder / "b" / "study.journal").exists()
    with pytest.raises(UserError, match="has one that is called 'first'; choose another --name"):
        Ledger.create(folder / "c" / "study.journal", plan=PLAN, storage=url, study="first")
    return again


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abc":
        (tmp_path / name).mkdir()
    return tmp_path


def test_a_database_keeps_what_a_journal_keeps(folder: Path) -> None:
    keeps_what_a_journal_keeps(folder, f"sqlite:///{folder}/ledgers.db")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if installed() is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    with Postgres() as server:
        yield server


def test_postgresql_keeps_what_a_journal_keeps_and_its_password_stays_with_who_gives_it(
    folder: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, postgres.url)
    ledger = keeps_what_a_journal_keeps(folder, postgres.url)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert STORAGE_FILE in {path.name for path in files}
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []

    wrong = postgres.url.replace(PASSWORD, "wr0ng")
    for url in (None, wrong):
        if url is None:
            monkeypatch.delenv(STORAGE_VARIABLE)
        else:
            monkeypatch.setenv(STORAGE_VARIABLE, url)
        with pytest.raises(UserError, match=f"must answer, but does not: .*{STORAGE_VARIABLE}") as caught:
            Ledger.open(folder / "b" / "study.journal")
        assert "wr0ng" not in str(caught.value)
        assert "me@127.0.0.1" in str(caught.value)
        assert "\n" not in str(caught.value)

    postgres.stop()
    with pytest.raises(UserError, match="must answer, but does not") as caught:
        ledger.ask()
    assert PASSWORD not in str(caught.value)


def test_a_grpc_storage_that_is_not_there_has_a_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grpc")
    monkeypatch.setattr("tuner.search.storage.READY_SECONDS", 0.2)
    with pytest.raises(UserError, match=r"grpc://127\.0\.0\.1:1 must answer, but does not: \w+; "):
        check_free("grpc://127.0.0.1:1", study="first")


def test_a_grpc_storage_keeps_what_a_journal_keeps(folder: Path) -> None:
    pytest.importorskip("grpc")
    from optuna.storages import InMemoryStorage, run_grpc_proxy_server

    from tuner.sweep.servers import free_port

    port = free_port("127.0.0.1", None, usual=0)
    served = {"host": "127.0.0.1", "port": port}
    threading.Thread(target=run_grpc_proxy_server, args=(InMemoryStorage(),), kwargs=served, daemon=True).start()
    keeps_what_a_journal_keeps(folder, f"grpc://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://me:pa/ss@w:ord@host:5432/db", "postgresql+psycopg://me@host:5432/db"),
        ("postgresql://host/db?password=x&sslmode=require", "postgresql://host/db?sslmode=require"),
        ("postgresql://me@host/db?sslmode=require&password=x", "postgresql://me@host/db?sslmode=require"),
        ("mysql+pymysql://:secret@host/db", "mysql+pymysql://host/db"),
        ("grpc://host:13000", "grpc://host:13000"),
        ("sqlite:////data/a.db", "sqlite:////data/a.db"),
    ],
)
def test_an_address_is_kept_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_the_option_wins_over_the_variable_and_neither_means_a_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_storage(None) is None
    monkeypatch.setenv(STORAGE_VARIABLE, "grpc://host:1")
    assert resolve_storage(None) == "grpc://host:1"
    assert resolve_storage("sqlite:///a.db") == f"sqlite:///{tmp_path}/a.db"
    assert resolve_storage("") is None
    for wrong in ("me:c4nary@host", "grpc://host", "ledger.db"):
        with pytest.raises(UserError, match="`--storage` must") as caught:
            resolve_storage(wrong)
        assert "c4nary" not in str(caught.value)


def test_a_storage_may_move(folder: Path) -> None:
    path = folder / "a" / "study.journal"
    run(Ledger.create(path, plan=PLAN, storage=f"sqlite:///{folder}/x.db", study="s"), 3)
    (folder / "x.db").rename(folder / "y.db")
    moved = Ledger.open(path, storage=f"sqlite:///{folder}/y.db").trials()
    assert Ledger.open(path, read_only=True).trials() == moved
    assert len(moved) == 3
    Ledger.create(folder / "b" / "study.journal", plan=PLAN)
    with pytest.raises(UserError, match="leave it out"):
        Ledger.open(folder / "b" / "study.journal", storage=f"sqlite:///{folder}/y.db")


def test_a_missing_storage_is_one_line(folder: Path) -> None:
    ledger = Ledger.create(folder / "a" / "study.journal", plan=PLAN, storage=f"sqlite:///{folder}/x.db", study="s")
    assert ledger.path.name == STORAGE_FILE
    (folder / "x.db").unlink()
    with pytest.raises(UserError, match=r"x\.db must answer, but does not"):
        Ledger.open(folder / "a" / "study.journal")
    (folder / "a" / STORAGE_FILE).write_text("{}")
    with pytest.raises(UserError, match="another program's file"):
        Ledger.open(folder / "a" / "study.journal")
