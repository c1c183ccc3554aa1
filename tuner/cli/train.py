"""`fastface-tuner train`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.sweep import MaxIdentities, MaxImages, Sets, TrackingURI, Wait, Workload

if TYPE_CHECKING:
    from tuner.sweep.run_folder import RunFolder, RunRecord


def train(
    config: Annotated[str, typer.Argument(help="The run: a YAML file, or the name of a shipped recipe.")],
    *,
    workload: Workload = None,
    data: Annotated[
        str | None, typer.Option(metavar="DIR|synthetic", help="Faces [default: the configuration's].")
    ] = None,
    max_identities: MaxIdentities = None,
    max_images: MaxImages = None,
    sets: Sets = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps [default: the configuration's].")] = None,
    epochs: Annotated[
        float | None, typer.Option(min=0.001, help="Instead of steps: passes over the training images.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the training [default: the configuration's].")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The run's name [default: the configuration's].")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's own folder [default: runs/NAME].")] = None,
    tracking_uri: TrackingURI = None,
    share: Annotated[
        bool | None,
        typer.Option(
            "--share/--no-share",
            help="Take over the steps that sweeps and runs in this working folder have trained [default: share].",
        ),
    ] = None,
    wait: Wait = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON, all else on stderr.")] = False,
) -> None:
    """Train one configuration to its end: curve, evaluations, the backbone's weights, and an MLflow run.

    The same command goes on with a run that was broken off, bit for bit. Exits with 1 where the run failed; Ctrl-C and
    SIGTERM leave a checkpoint and exit with 130 and 143.

    Example: fastface-tuner train my_run.yaml --data faces/ --epochs 5
    """
    from rich.console import Console

    from tuner.sweep.ending import Ending
    from tuner.sweep.single import AskedRun, train_run

    asked = AskedRun(
        config=config,
        workload=workload,
        data=data,
        max_identities=max_identities,
        max_images=max_images,
        sets=tuple(sets or ()),
        steps=steps,
        epochs=epochs,
        seed=seed,
        share=share,
        name=name,
        out=out,
        tracking_uri=tracking_uri,
    )
    console = Console(markup=False, stderr=as_json)  # names, paths and reasons may hold brackets
    with Ending() as ending:
        folder, record = train_run(asked, console=console, ending=ending, wait=wait)
    if as_json:
        typer.echo(json.dumps(_as_json(folder, record), indent=2))
    if record.state != "finished":
        raise typer.Exit(1)


def _as_json(folder: "RunFolder", record: "RunRecord") -> dict[str, object]:
    content = record.model_dump(mode="json", exclude={"faces", "mirrored", "store"})
    weights = str(folder.weights) if folder.weights.exists() else None
    return {"folder": str(folder.path), "weights": weights, **content}
