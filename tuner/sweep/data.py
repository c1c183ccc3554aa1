"""What a sweep or a single run reads: checked, and its images decoded or rendered once, before the first step."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress

from tuner.config.run import FaceConfig, WorkloadConfig
from tuner.config.strict_yaml import explain
from tuner.data.verification_sources import find_sources
from tuner.errors import UserError
from tuner.names import SYNTHETIC
from tuner.tracking.environment import DataDescription
from tuner.training.opened import open_workload


def prepare(workload: WorkloadConfig, console: Console) -> DataDescription:
    """Read all that a workload needs, such as its images, find out if it can be used, and describe it."""
    if isinstance(workload, FaceConfig):
        _check_weights(workload)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"preparing {'faces' if isinstance(workload, FaceConfig) else 'data'}", total=None)
        on_image: Callable[[int, int], None] = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
        data = open_workload(workload, progress=on_image).data
    return DataDescription(name=data.name, digest=data.digest, source=data.source, counts=data.counts)


def _check_weights(workload: FaceConfig) -> None:
    """Raise UserError where the weights to start from do not fit the backbone."""
    model = workload.model
    if model.weights is not None:
        from tuner.models.backbones import build_backbone
        from tuner.models.weights import load_weights

        size = workload.data.image_size
        load_weights(
            build_backbone(model.backbone, image_size=size, embedding_size=model.embedding_size), model.weights
        )


def placed(
    workload: FaceConfig,
    *,
    sets: Sequence[str] = (),
    max_identities: int | None = None,
    max_images: int | None = None,
) -> FaceConfig:
    """Return a workload that means the same in every working folder, on a part of its data where a limit is given.

    It is judged by `sets` alone where any are named: verification sets, or folders of `.bin` sets; then nobody is held
    out. UserError where they cannot be.
    """
    named = workload.model_dump(mode="json", exclude_unset=True)
    model, evaluation = workload.model, workload.evaluation
    if model.weights is not None:
        named["model"]["weights"] = absolute_data(model.weights)
    limits = {"max_identities": max_identities, "max_images": max_images, "held_out": 0 if sets else None}
    if given := {name: value for name, value in limits.items() if value is not None}:
        named["data"] = {**named.get("data", {}), **given}
    if paths := find_sources(sets) if sets else evaluation.sets:
        named["evaluation"] = {**named.get("evaluation", {}), "sets": [absolute_data(path) for path in paths]}
    try:
        return FaceConfig.model_validate(named)
    except ValidationError as error:
        raise UserError(explain(error, FaceConfig, file="--sets")) from error


def absolute_data(data: str | None) -> str | None:
    """Return `--data` as the plan keeps it: a folder by its whole path."""
    if data in (None, SYNTHETIC):
        return data
    try:
        return str(Path(data).expanduser().absolute())
    except RuntimeError as error:
        raise UserError(f"--data must be a folder of faces, but got {data!r}: {error}; write the whole path") from None
