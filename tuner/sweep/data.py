"""What a sweep or a single run reads: checked, and its images decoded or rendered once, before the first step."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress

from tuner.config.run import FaceConfig
from tuner.config.strict_yaml import explain
from tuner.data.verification_sources import find_sources
from tuner.errors import UserError
from tuner.names import SYNTHETIC
from tuner.tracking.environment import DataDescription
from tuner.training.faces import prepare_faces, prepare_sets


def prepare(workload: FaceConfig, console: Console) -> DataDescription:
    """Decode or render all images of a workload, find out if they and the weights can be used, and describe them."""
    config = workload.data
    weights = _weights_digest(workload)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing faces", total=None)
        on_image: Callable[[int, int], None] = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
        sets = prepare_sets(workload, progress=on_image)
        train, verification = prepare_faces(config, progress=on_image)
    return DataDescription(
        name="synthetic faces" if config.source == SYNTHETIC else Path(config.source).name,
        digest=_digest(train.digest, *(each.digest for each in sets), *weights),
        source=config.source,
        counts={
            "training_identities": train.num_identities,
            "training_images": len(train.labels),
            "verification_identities": verification.num_identities,
            "verification_images": len(verification.labels),
            **{f"pairs_{each.name}": len(each.pairs.same) for each in sets},
        },
    )


def _weights_digest(workload: FaceConfig) -> list[str]:
    """Return the digest of the weights to start from, none where there are none; UserError where they do not fit."""
    model = workload.model
    if model.weights is None:
        return []
    from tuner.models.backbones import build_backbone
    from tuner.models.weights import load_weights, weights_digest

    size = workload.data.image_size
    load_weights(build_backbone(model.backbone, image_size=size, embedding_size=model.embedding_size), model.weights)
    return [weights_digest(model.weights)]


def _digest(faces: str, *others: str) -> str:
    """Return one digest for the faces and all else that a run reads; the faces' own where there is nothing else."""
    return hashlib.sha256("".join((faces, *others)).encode()).hexdigest() if others else faces


def placed(workload: FaceConfig, *, sets: Sequence[str] = ()) -> FaceConfig:
    """Return a workload that means the same in every working folder; judged by `sets` alone where any are named.

    `sets` are verification sets, or folders of `.bin` sets; then nobody is held out. UserError where they cannot be.
    """
    named = workload.model_dump(mode="json", exclude_unset=True)
    model, evaluation = workload.model, workload.evaluation
    if model.weights is not None:
        named["model"]["weights"] = absolute_data(model.weights)
    if sets:
        named["data"] = {**named.get("data", {}), "held_out": 0}
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
