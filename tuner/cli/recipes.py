"""`fastface-tuner recipes`."""

import json
from typing import Annotated

import typer


def recipes(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the shipped recipes of published runs: each trains with one command, given its data.

    A whole run: `fastface-tuner train ms1mv3_r50 --data DIR`. A proxy of it: the same with `--max-identities 2000
    --epochs 5`. A search on that proxy: `fastface-tuner sweep fastface --recipe ms1mv3_r50 --data DIR --max-identities
    2000 --steps 3000`.

    Example: fastface-tuner recipes
    """
    from tuner.config.run_file import shipped_recipes

    found = shipped_recipes()
    if as_json:
        listed = [
            {"name": each.name, "description": each.description, "config": each.config.to_dict()} for each in found
        ]
        typer.echo(json.dumps({"recipes": listed}, indent=2))
        return
    width = max(len(each.name) for each in found)
    for each in found:
        typer.echo(f"{each.name:<{width}}  {each.description}; {each.config.total_steps:,} steps")
