"""The faces of a run, those to train on and those to verify on; importable without torch."""

from collections.abc import Callable
from pathlib import Path

from tuner.config.run import DataConfig, FaceConfig
from tuner.data.faces import FaceSet
from tuner.data.source import load_faces
from tuner.data.split import split_identities
from tuner.data.subset import Subset
from tuner.data.verification_sets import VerificationSet, load_verification_set


def prepare_faces(
    config: DataConfig, *, cache: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[FaceSet, FaceSet]:
    """Load what `config` names and split it by identity into faces to train on and faces to verify on, if any.

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


def prepare_sets(
    config: FaceConfig, *, cache: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[VerificationSet, ...]:
    """Load the verification sets that `config` names, in their order, at the size of the run's images.

    Args:
        config: the workload.
        cache: folder of decoded images; None takes the default one.
        progress: called with (images done, images in all) while a set is decoded.

    Raises:
        UserError: a set is missing, damaged, or too small for ten folds.
    """
    size = config.data.image_size
    paths = (Path(path).expanduser() for path in config.evaluation.sets)
    return tuple(load_verification_set(path, image_size=size, cache=cache, progress=progress) for path in paths)
