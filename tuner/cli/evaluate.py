"""`fastface-tuner evaluate`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.progress import progress_bar
from tuner.errors import UserError

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from tuner.data.verification_sources import Source
    from tuner.training.saved_backbone import SavedBackbone
    from tuner.training.scoring import PairFigures, TemplateFigures


def evaluate(
    weights: Annotated[
        Path, typer.Argument(help="A backbone's state dict, such as backbone.pth, or the folder of a run.")
    ],
    data: Annotated[
        list[str],
        typer.Argument(
            help="What to verify on: .bin sets or a folder of them, lists of pairs, the folder of IJB-B or IJB-C, or "
            "faces (a folder root/identity/image.*, a .rec file), of which pairs are drawn."
        ),
    ],
    *,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="The backbone [default: the run's, else as the weights tell].")
    ] = None,
    embedding_size: Annotated[
        int | None, typer.Option(min=1, help="Length of its embedding [default: likewise].")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=16, help="Side of the images that it takes, in pixels [default: likewise].")
    ] = None,
    far: Annotated[
        float | None, typer.Option(help="False-accept rate of the true-accept rate [default: the run's, else 0.01].")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images that the backbone gets at once [default: what suits the device].")
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N; auto is the GPU where there is one.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a trained backbone: 10-fold accuracy and TAR at a FAR; on IJB the TAR at FARs of 1e-6 to 1e-1.

    Images of another size are cut to the largest centred square and resized. The folder of a run of `fastface-tuner
    train` holds its backbone and sizes.

    Example: fastface-tuner evaluate backbone.pth sets/ IJBC/ --far 1e-3
    """
    from rich.console import Console

    from tuner.config.run import FaceConfig
    from tuner.data.verification_sources import find_sources
    from tuner.training.embedding import evaluation_batch
    from tuner.training.saved_backbone import load_backbone
    from tuner.training.scoring import PairFigures, TemplateFigures

    if far is not None and not 0 < far < 1:
        raise UserError(f"`0 < --far < 1` must hold, but got {far}; 0.001 is usual")
    where, paths = _device(device), find_sources(data)
    saved = load_backbone(weights, backbone=backbone, image_size=image_size, embedding_size=embedding_size)
    own = None if saved.run is None else saved.run.workload
    run = own if isinstance(own, FaceConfig) else FaceConfig()
    far = run.evaluation.far if far is None else far
    sources = _opened(paths, image_size=saved.image_size, num_pairs=run.evaluation.pairs, seed=run.data.split_seed)
    batch_size = batch_size or evaluation_batch(where, image_size=saved.image_size)
    found = _scored(sources, saved, where, far=far, batch_size=batch_size)
    pairs = [each for each in found if isinstance(each, PairFigures)]
    templates = [each for each in found if isinstance(each, TemplateFigures)]
    about = {"backbone": saved.backbone, "image_size": saved.image_size, "embedding_size": saved.embedding_size}
    if as_json:
        parts = {"sets": [asdict(each) for each in pairs], "templates": [asdict(each) for each in templates]}
        typer.echo(json.dumps({"weights": str(weights), **about, "device": str(where), "far": far, **parts}, indent=2))
        return
    console = Console(markup=False)
    title = "{backbone}, {image_size} x {image_size} pixels, {embedding_size} features"
    console.print(f"{weights}: {title.format(**about)}", highlight=False, soft_wrap=True)
    if pairs:
        console.print(_pair_table(pairs, far=far))
    if templates:
        console.print(_template_table(templates))
    for note in filter(None, (each.note for each in found)):
        console.print(note, highlight=False, soft_wrap=True)


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(
            f"--device must be auto, cpu, cuda or cuda:N, but got {name!r}; auto takes the GPU if there is one"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name} must be there, but torch sees {torch.cuda.device_count()} GPUs; use auto or cpu"
        )
    return device


def _opened(paths: Sequence[str], *, image_size: int, num_pairs: int, seed: int) -> "list[Source]":
    """Open all before the first is scored, so that a fault in the last one is told before the work is done."""
    from tuner.data.verification_sources import open_source

    sources = []
    for path in paths:
        with progress_bar(f"reading {path}") as show:
            sources.append(
                open_source(path, image_size=image_size, num_pairs=num_pairs, seed=seed, progress=_counted(show))
            )
    return sources


def _scored(
    sources: "Sequence[Source]", saved: "SavedBackbone", device: "torch.device", *, far: float, batch_size: int
) -> "list[PairFigures | TemplateFigures]":
    import torch

    from tuner.training.embedding import embedder
    from tuner.training.scoring import score

    found = []
    try:
        network = saved.network.to(device).to(memory_format=torch.channels_last)
        embed = embedder(network, device)
        for source in sources:
            with progress_bar(f"scoring {source.path}") as show:
                found.append(score(source, embed, far=far, batch_size=batch_size, progress=_counted(show)))
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"a batch must fit into the memory of {device}, but {batch_size} images do not; lower --batch-size"
        ) from error
    return found


def _counted(show: Callable[[float], None]) -> Callable[[int, int], None]:
    return lambda done, total: show(done / total)


def _pair_table(figures: "Sequence[PairFigures]", *, far: float) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("set", no_wrap=True)
    for heading in ("pairs", "accuracy", "±", f"TAR@FAR={far:g}"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in figures:
        table.add_row(
            each.name, f"{each.pairs:,}", f"{each.accuracy:.2%}", f"{each.accuracy_std:.2%}", f"{each.tar:.2%}"
        )
    return table


def _template_table(figures: "Sequence[TemplateFigures]") -> "Table":
    from rich.table import Table

    from tuner.training.templates import FARS

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("FAR", *(f"TAR {each.name}" for each in figures)):
        table.add_column(heading, justify="right", no_wrap=True)
    for far in FARS:
        table.add_row(f"{far:.0e}", *(f"{each.tar[far]:.2%}" for each in figures))
    return table
