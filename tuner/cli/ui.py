"""`fastface-tuner ui`."""

import sys
from typing import Annotated

import typer

from tuner.errors import UserError

_MLFLOW_PORT = 5000
_DASHBOARD_PORT = 8080
_ALL_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a person may ask for


def ui(
    sweep: Annotated[str, typer.Argument(help="A sweep's folder, or its name below sweeps/.")],
    *,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback let others in.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, metavar="P", help=f"Port; 0: any [default: {_MLFLOW_PORT}, if taken any that is free]."
        ),
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store [default: the sweep's]; one with a password must be given again.")
    ] = None,
) -> None:
    """Open MLflow's UI on a sweep: start it where its store is a database, and print where the sweep is in it.

    Where optuna-dashboard is installed (`pip install 'fastface-tuner[dashboard]'`), it is started on the sweep's
    journal too. Ctrl-C ends both.

    Example: fastface-tuner ui first
    """
    from tuner.search.dashboard import dashboard_command, is_installed
    from tuner.search.ledger import Ledger
    from tuner.sweep.folder import find_sweep
    from tuner.sweep.servers import Servers, free_port
    from tuner.tracking.ui import server_address, server_command, sweep_pages
    from tuner.tracking.uri import check_there, redact, reopen_uri

    folder = find_sweep(sweep)
    description = folder.read()
    uri = reopen_uri(description.tracking_uri, tracking_uri)
    if uri.startswith("databricks"):
        raise UserError(f"the store of {description.name} is {redact(uri)}, whose UI is the workspace's own; open that")
    check_there(uri)
    address, lines, starts = server_address(uri), list[str](), 0
    with Servers() as servers:
        if address is None:
            free = free_port(host, port, usual=_MLFLOW_PORT)
            address = _address(host, free)
            command, environment = server_command(uri, host=host, port=free)
            servers.start("MLflow's UI", command, environment=environment, address=f"{address}/health")
            starts += 1
        if is_installed():
            free = free_port(host, None, usual=_DASHBOARD_PORT)
            dashboard = f"{_address(host, free)}/dashboard/"
            command = dashboard_command(folder.journal, host=host, port=free)
            servers.start("Optuna's dashboard", command, environment={}, address=dashboard)
            starts += 1
            lines.append(f"Optuna's dashboard: {dashboard}")
        from tuner.tracking.store import reconnect  # takes a second, in which the servers start

        tracker = reconnect(uri, run_id=description.parent_run_id)
        objective = Ledger.open(folder.journal, read_only=True).plan.space.objective
        page, charts = sweep_pages(
            tracker,
            description.parent_run_id,
            address=address,
            metric=objective.metric,
            maximize=objective.maximize,
        )
        servers.wait_until_they_answer()
        for line in (f"the sweep: {page}", f"its trials, as charts: {charts}", *lines):
            typer.echo(line)
        if starts and not servers.stopped:
            typer.echo("Ctrl-C ends it")
            sys.stdout.flush()
            servers.wait()


def _address(host: str, port: int) -> str:
    host = _ALL_ADDRESSES.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
