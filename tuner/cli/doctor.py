"""`fastface-tuner doctor`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tuner.cli.progress import progress_bar


def doctor(
    data: Annotated[
        str,
        typer.Argument(help="A folder of identities, a .rec or .bin file or the folder of one, a list of pairs, IJB."),
    ],
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Look at every image, also for copies; without it at 1000 of them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at data before training on it: what it is, how much, image sizes, room on the disk, and what is wrong.

    Exits with 0 where it is fit, 1 where there are problems, 2 where there is no such path.

    Example: fastface-tuner doctor faces/ --full
    """
    from tuner.data.checkup import check_data

    with progress_bar(f"looking at {data}") as progress:
        found = check_data(Path(data).expanduser(), full=full, progress=progress)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        for line in (f"{found.path}: {found.kind}", *found.facts, *found.findings):
            typer.echo(_printable(str(line)))
        problems = sum(finding.problem for finding in found.findings)
        typer.echo("fit" if found.fit else f"{problems} problem{'' if problems == 1 else 's'} found")
    if not found.fit:
        raise typer.Exit(1)


def _printable(text: str) -> str:
    """Return a line with control characters and undecodable bytes written out: names of files may hold any."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
