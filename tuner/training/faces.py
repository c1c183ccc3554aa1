"""The faces of a run, split into those to train on and those to verify on; importable without torch."""

from collections.abc import Callable
from pathlib import Path

from tuner.config.run import DataConfig
from tuner.data.faces import FaceSet
from tuner.data.source import load_faces
from tuner.data.split import split_identities
from tuner.data.subset import Subset


def prepare_faces(
    config: DataConfig, *, cache: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[FaceSet, FaceSet]:
    """Load what `config` names and split it by identity into faces to train on and faces to verify on.

    Args:
        config: the data of the run.
        cache: folder of decoded images; None takes the default one.
        progress: called with (images done, images in all) while a set is decoded or rendered.

    Raises:
        UserError: the source cannot be used.
    """
    faces = load_faces(
        config.source,
        image_size=config.image_size,
        identities=config.identities,
        images_per_identity=config.images_per_identity,
        cache=cache,
        progress=progress,
        subset=Subset(config.max_identities, config.max_images, seed=config.split_seed),
    )
    return split_identities(faces, held_out=config.held_out, seed=config.split_seed)
