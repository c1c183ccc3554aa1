"""`fastface-tuner scale`."""

import json
from typing import Annotated

import typer

from tuner.cli.settings_option import DEFAULT_SCHEDULER, SchedulerOption, SetOption, parse_settings
from tuner.errors import UserError

_NEEDS_LENGTH = ("steps", "decay", "response")
"""Units of settings that mean something only together with the length of their run."""


def scale(
    *,
    to_steps: Annotated[int, typer.Option(min=1, help="Length of the run that the setting is for, in steps.")],
    scheduler: SchedulerOption = None,
    settings: SetOption = None,
    from_steps: Annotated[
        int | None, typer.Option(min=1, help="Length of the run that settings given in steps were made for.")
    ] = None,
    initial_loss: Annotated[
        float | None, typer.Option(help="First loss of the runs: turns thresholds into fractions of it, and back.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a scheduler's setting for a run of another length, as fractions and in steps.

    What is not set has its published value. Either block can stand under `fixed:` in a search space, or as the settings
    of the scheduler in a run: a curve stretched to the new length gives the same decays, stretched.

    Example: fastface-tuner scale --scheduler haar --set haar_window=2481 --set threshold=0.0615 --from-steps 165435
    --to-steps 20000 --initial-loss 42
    """
    from tuner.schedulers.registry import setting_names
    from tuner.schedulers.scale import rescale

    scheduler, given = scheduler or DEFAULT_SCHEDULER, parse_settings(settings)
    specs = setting_names(scheduler)
    for name in given:
        if from_steps is None and name in specs and specs[name].unit in _NEEDS_LENGTH:
            raise UserError(f"`{name}` is made for a run of one length, but --from-steps is missing; give that length")
    found = rescale(scheduler, given, from_steps=from_steps or to_steps, to_steps=to_steps, initial_loss=initial_loss)
    data = {"scale_free": found.scale_free, "resolved": found.resolved}
    if as_json:
        typer.echo(json.dumps({"scheduler": scheduler, "total_steps": to_steps, **data}, indent=2))
        return
    import yaml

    typer.echo(f"# {scheduler} for a run of {to_steps} steps; either block is a whole setting")
    typer.echo(yaml.safe_dump(data, sort_keys=False), nl=False)
