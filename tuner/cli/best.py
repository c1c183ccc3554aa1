"""`fastface-tuner best`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.progress import progress_bar
from tuner.errors import UserError

if TYPE_CHECKING:
    from tuner.sweep.best import Best
    from tuner.sweep.folder import SweepFolder


def best(
    sweep: Annotated[str, typer.Argument(help="A sweep's folder, or its name below sweeps/.")],
    *,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Length of the real run [default: the sweep's].")
    ] = None,
    loss_scale: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="The real run's first loss is X times as large; for thresholds in loss per step."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write it here.")] = None,
    code: Annotated[bool, typer.Option("--code", help="Print PyTorch code for a loop of your own instead.")] = False,
    register: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Also put the trained model into MLflow's registry under this name."),
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store [default: the sweep's]; one with a password must be given again.")
    ] = None,
) -> None:
    """Print the setting to train with, as the configuration of a run: the confirmed one, or else the sweep's best.

    Windows, patience and thresholds are rescaled to the length of the real run.

    Example: fastface-tuner best first --steps 20000 -o best.yaml

    Example: fastface-tuner best first --steps 20000 --code
    """
    from tuner.sweep.best import find_best, for_real_run, run_yaml
    from tuner.sweep.folder import find_sweep

    if register is not None and (steps is not None or loss_scale is not None):
        raise UserError(
            "`--register` registers what the sweep has trained, but --steps or --loss-scale asks for another run; "
            "leave them out, or train that run first"
        )
    folder = find_sweep(sweep)
    found = find_best(folder)
    config = for_real_run(found.config, steps=steps, loss_scale=loss_scale)
    if code:
        from tuner.analysis.snippet import torch_code

        text = torch_code(config, about=found.sentence)
    else:
        text = run_yaml(config, about=found.sentence, file=str(out or "FILE"), searched=found.searched)
    if register is not None:
        version = _register(folder, found, register, tracking_uri)
        typer.echo(f"registered trial {found.trial.number} as {register}, version {version}", err=True)
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}; choose another file") from None
    typer.echo(found.sentence)
    typer.echo(f"wrote {out}" + ("" if code else f"; train with it: fastface-tuner train {out}"))


def _register(folder: "SweepFolder", found: "Best", name: str, tracking_uri: str | None) -> int:
    from tuner.sweep.register import register_best
    from tuner.tracking.store import reconnect
    from tuner.tracking.uri import reopen_uri

    description = folder.read()
    uri = reopen_uri(description.tracking_uri, tracking_uri)
    tracker = reconnect(uri, run_id=description.parent_run_id)
    with progress_bar("restoring the model") as tell:
        return register_best(folder, found, name=name, tracker=tracker, progress=tell)
