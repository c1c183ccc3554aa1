"""`fastface-tuner spaces`."""

import json
from typing import Annotated

import typer


def spaces(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the shipped search spaces and the question that each one answers.

    Example: fastface-tuner spaces
    """
    from tuner.config.space_file import shipped_spaces

    found = shipped_spaces()
    if as_json:
        typer.echo(json.dumps({"spaces": [{"name": name, "question": question} for name, question in found]}, indent=2))
        return
    width = max(len(name) for name, _ in found)
    for name, question in found:
        typer.echo(f"{name:<{width}}  {question}")
