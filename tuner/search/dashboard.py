"""Serve Optuna's dashboard on a sweep's ledger: `python -m tuner.search.dashboard JOURNAL HOST PORT`.

Its own command would open the journal by Optuna's file backend, whose lock the sweep does not know. Here both are the
same: what a person notes in the dashboard is appended between the records of a sweep that runs.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from tuner.search.storage import open_storage


def is_installed() -> bool:
    """Return whether the optional optuna-dashboard is there."""
    return find_spec("optuna_dashboard") is not None


def dashboard_command(journal: Path, *, host: str, port: int) -> list[str]:
    """Return the command that serves it in a process of its own."""
    return [sys.executable, "-m", __name__, str(journal), host, str(port)]


def serve(journal: Path, *, host: str, port: int) -> None:
    """Serve until the process ends."""
    from optuna_dashboard import run_server

    run_server(open_storage(journal).storage, host=host, port=port)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), host=sys.argv[2], port=int(sys.argv[3]))
