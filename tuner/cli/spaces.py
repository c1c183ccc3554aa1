"""`fastface-tuner spaces`."""

import json
from typing import Annotated

import typer


def spaces(
    name: Annotated[
        str | None, typer.Argument(metavar="SPACE", help="Print this one: a shipped space's name, or a YAML file.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the shipped search spaces and the question that each one answers, or print one.

    What is printed is the file itself, to begin a space of your own with; as JSON, what it says, defaults written out.

    Example: fastface-tuner spaces fastface > mine.yaml
    """
    from tuner.config.space_file import load_space, shipped_spaces

    if name is not None:
        space = load_space(name)
        typer.echo(space.model_dump_json(indent=2) if as_json else space.text, nl=as_json)
        return
    found = shipped_spaces()
    if as_json:
        typer.echo(json.dumps({"spaces": [{"name": name, "question": question} for name, question in found]}, indent=2))
        return
    width = max(len(name) for name, _ in found)
    for shipped, question in found:
        typer.echo(f"{shipped:<{width}}  {question}")
