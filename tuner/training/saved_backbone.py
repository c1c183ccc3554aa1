"""A trained backbone from its file, or from the folder of the run that trained it."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tuner.config.run import FaceConfig, RunConfig
from tuner.config.run_file import load_run
from tuner.errors import UserError
from tuner.models.backbones import build_backbone
from tuner.models.recognise import recognise
from tuner.models.weights import fit_weights, read_weights
from tuner.names import CONFIG_FILE, WEIGHTS_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedBackbone:
    """A network with trained weights, on the host; what it is; and the run that trained it, where that is known."""

    network: nn.Module
    backbone: str
    image_size: int
    embedding_size: int
    run: RunConfig | None


def load_backbone(
    path: Path, *, backbone: str | None = None, image_size: int | None = None, embedding_size: int | None = None
) -> SavedBackbone:
    """Return the backbone in a file or a run's folder.

    What is not given is taken from the run, and without one from the names and shapes of the weights.

    Args:
        path: a state dict as `tuner.models.weights.load_weights` takes it, such as arcface_torch's `backbone.pth`; or
            a folder with a `backbone.pth` and, where a run made it, a `config.yaml`.
        backbone: its name, see `tuner.models.names`.
        image_size: side of the images that it takes, in pixels.
        embedding_size: length of its embedding.

    Raises:
        UserError: a file is missing or damaged, the weights do not fit, or which backbone they are of is not known.
    """
    try:
        file = path / WEIGHTS_FILE if path.is_dir() else path
        run = load_run(path / CONFIG_FILE).config if (path / CONFIG_FILE).exists() else None
    except OSError as error:
        raise UserError(f"weights: {path} cannot be read ({error.strerror}); check its name and rights") from error
    state = read_weights(file)
    found = recognise(state)
    if run is not None and isinstance(run.workload, FaceConfig):
        model = run.workload.model
        backbone = backbone or model.backbone
        image_size = image_size or run.workload.data.image_size
        embedding_size = embedding_size or model.embedding_size
    backbone = backbone or found.backbone
    image_size = image_size or found.image_size
    embedding_size = embedding_size or found.embedding_size
    if backbone is None or image_size is None or embedding_size is None:
        known = {"--backbone": backbone, "--image-size": image_size, "--embedding-size": embedding_size}
        missing = ", ".join(option for option, value in known.items() if value is None)
        raise UserError(
            f"weights: which backbone {file} is of must be known, but its names do not tell; give {missing}"
        )
    network = build_backbone(backbone, image_size=image_size, embedding_size=embedding_size)
    fit_weights(network, state, source=file)
    return SavedBackbone(
        network=network, backbone=backbone, image_size=image_size, embedding_size=embedding_size, run=run
    )
