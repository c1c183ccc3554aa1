"""`fastface-tuner check-workload`."""

import json
from typing import Annotated

import typer

from tuner.cli.settings_option import split_settings


def check_workload(
    workload: Annotated[str, typer.Argument(metavar="MODULE:CLASS", help="The workload; see tuner.workload.")],
    *,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the workload; may be given many times."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try whether a workload of your own may share steps between trials, and say how to mend what fails.

    It takes about twenty training steps. Exits with 0 where it is fit, 1 where a check failed, 2 where it cannot be
    trained at all. A sweep asks the same, and trains an unfit workload without sharing.

    Example: fastface-tuner check-workload my_training:Digits --set batch_size=64
    """
    from pydantic import ValidationError

    from tuner.config.own import OwnConfig
    from tuner.config.own_code import looked_up
    from tuner.errors import UserError
    from tuner.sweep.fitness import tried
    from tuner.testing import CHECKS

    try:
        named = OwnConfig(name=workload, settings={**split_settings(settings)})
    except ValidationError as error:
        rule = error.errors()[0]["ctx"]["error"]
        raise UserError(f"{rule}, but got {workload!r}") from None
    mends = {each.check: each.mend for each in tried(looked_up(named))}
    unknown = ("state", "batch", "evaluation", "metrics") if "seed" in mends else ("state",) if "batch" in mends else ()
    looked_at = [check for check in CHECKS if check not in unknown]
    if as_json:
        checks = {check: {"passed": check not in mends, "mend": mends.get(check)} for check in looked_at}
        typer.echo(json.dumps({"workload": workload, "fit": not mends, "checks": checks}, indent=2))
    else:
        for check in looked_at:
            typer.echo(f"{'failed' if check in mends else 'passed'}  {check:<11} {mends.get(check, CHECKS[check])}")
        typer.echo("not fit for sharing" if mends else "fit for sharing")
    if mends:
        raise typer.Exit(1)
