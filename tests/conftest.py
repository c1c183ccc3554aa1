"""What every test stands on: a working folder, a cache and a tracking store of its own, and quick MLflow stores."""

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tuner.sweep  # noqa: F401 - its settings stand before Ray is imported
from tuner.names import CACHE_VARIABLE, TRACKING_URI_VARIABLE

# Ray and MLflow would tell their makers that the tests run.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


_LONGEST = ("test_readme.py", "test_resume.py", "test_sweep.py", "test_training_compute.py", "test_tracking_outage.py")
"""Files that take minutes; `make test` gives each file to one process."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that in the end no process waits for one that came last."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache folder that all tests of the session share, so that data is rendered once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _nothing_outside(tmp_path: Path, session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests out of the repository and the user's folders: whatever goes to a default place goes to `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CACHE_VARIABLE, str(session_cache))
    monkeypatch.setenv(TRACKING_URI_VARIABLE, f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture(autouse=True)
def _sigterm_ends_what_a_test_forks() -> Iterator[None]:
    """Undo what an actor does that a test runs in this process: children of later tests would ignore SIGTERM too."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture(scope="session")
def _migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mlflow import MlflowClient  # costs a second, which tests without MLflow need not pay

    import tuner.tracking.store  # noqa: F401  applies the quiet settings

    path = tmp_path_factory.mktemp("mlflow-template") / "mlflow.db"
    with contextlib.chdir(path.parent):  # where MLflow then keeps the artifacts of its default experiment
        MlflowClient(f"sqlite:///{path}").search_experiments(max_results=1)
    return path


@pytest.fixture(scope="session")
def mlflow_store(_migrated_store: Path) -> Callable[[Path], str]:
    """Return a function that puts a migrated, empty SQLite store into a folder and returns its address.

    Migrating takes seconds, copying milliseconds. Where a test lets the program find its default store, call it with
    the test's `tmp_path`.
    """

    def fresh(folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_migrated_store, folder / "mlflow.db")
        return f"sqlite:///{folder.absolute()}/mlflow.db"

    return fresh
