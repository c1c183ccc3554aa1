"""`fastface-tuner stages`: what the sweeps of a working folder have trained, and how much of it is kept."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.analysis.words import count
from tuner.names import STAGES_DIR
from tuner.sizes import num_bytes, shown

app = typer.Typer(
    help="Show or clean up the stage store: the training steps that trials share.",
    epilog="Example: fastface-tuner stages list",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_stages(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what the store of this working folder holds, and what it has saved.

    A shelf holds the runs that differ in nothing but their learning rates.

    Example: fastface-tuner stages list --json
    """
    from rich.console import Console
    from rich.table import Table

    from tuner.stages.store import StageStore
    from tuner.stages.upkeep import summaries

    found = summaries(StageStore(Path(STAGES_DIR)))
    if as_json:
        typer.echo(json.dumps({"shelves": [asdict(each) for each in found]}, indent=2))
        return
    if not found:
        typer.echo("no stages here yet; a sweep in this folder makes them")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("shelf", "steps kept", "shared", "checkpoints", "on disk", "last used"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what was trained")
    for each in found:
        table.add_row(
            each.key[:8],
            f"{each.steps:,}",
            f"{each.counts.shared:,}",
            str(each.checkpoints),
            shown(each.num_bytes),
            f"{datetime.fromtimestamp(each.last_used).astimezone():%Y-%m-%d}",
            _what(each.fingerprint),
        )
    Console(markup=False).print(table)
    trained, taken_over = (sum(getattr(each.counts, name) for each in found) for name in ("executed", "shared"))
    disk, checkpoints = (
        shown(sum(getattr(each, name) for each in found)) for name in ("num_bytes", "checkpoint_bytes")
    )
    typer.echo(
        f"{_shelves(len(found))}, {disk}, of it {checkpoints} in checkpoints; "
        f"trials trained {trained:,} steps and took over {taken_over:,}"
    )


@app.command()
def prune(
    shelves: Annotated[list[str] | None, typer.Argument(help="Shelves to remove, by the first letters.")] = None,
    *,
    unused_days: Annotated[
        float | None, typer.Option(min=0, help="Remove shelves that no trial has used for so long.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Leave checkpoints of this size in all, such as 2GiB.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Remove shelves, or checkpoints that cost least to replace; never what a running trial needs.

    Example: fastface-tuner stages prune --unused-days 30 --keep 2GiB
    """
    from tuner.errors import UserError
    from tuner.stages.store import StageStore
    from tuner.stages.upkeep import prune as prune_store

    if not shelves and unused_days is None and keep is None:
        raise UserError("something to remove must be named: SHELVES, --unused-days or --keep; see `stages list`")
    report = prune_store(
        StageStore(Path(STAGES_DIR)),
        shelves=shelves or (),
        unused_seconds=None if unused_days is None else unused_days * 86400,
        checkpoint_bytes=None if keep is None else num_bytes(keep),
        dry_run=dry_run,
    )
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, **asdict(report)}, indent=2))
        return
    done, checkpoints = "would remove" if dry_run else "removed", count(report.checkpoints, "checkpoint")
    typer.echo(f"{done} {_shelves(len(report.shelves))} and {checkpoints}, {shown(report.num_bytes)}")
    if report.skipped:
        typer.echo(f"left alone, because trials are running on them: {', '.join(key[:8] for key in report.skipped)}")


def _shelves(number: int) -> str:
    return "1 shelf" if number == 1 else f"{number:,} shelves"


def _what(fingerprint: Mapping[str, Any] | None) -> str:
    """Return in a few words what the runs of a shelf have in common."""
    if fingerprint is None:
        return "not known: its note is damaged"
    seed = f"seed {fingerprint.get('seed')}"
    if "config" not in fingerprint:
        return f"{fingerprint.get('workload')}, {seed}"
    config = fingerprint["config"]
    return f"{config['model']['backbone']}, LR {config['optimizer']['base_lr']:g}, {seed}"
