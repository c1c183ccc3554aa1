"""The figures of one network on one thing to verify on, whatever that is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tuner.data.faces import Images
from tuner.data.ijb import TemplateSet
from tuner.data.verification_sources import Source
from tuner.errors import UserError
from tuner.training.templates import verify_templates
from tuner.training.verification import Floats
from tuner.training.verify import Embed, verify


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFigures:
    """Figures on pairs of images: 10-fold accuracy, its population standard deviation, and the TAR at the FAR."""

    name: str
    path: str
    images: int
    pairs: int
    accuracy: float
    accuracy_std: float
    tar: float
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFigures:
    """Figures on pairs of templates: the TAR at each FAR of `tuner.training.templates.FARS`."""

    name: str
    path: str
    images: int
    templates: int
    pairs: int
    tar: Mapping[float, float]
    note: str


def score(
    source: Source,
    embed: Embed,
    *,
    far: float,
    batch_size: int = 128,
    progress: Callable[[int, int], None] | None = None,
) -> PairFigures | TemplateFigures:
    """Return the figures of a network; images are read and embedded `batch_size` at a time.

    Args:
        source: what to verify on.
        embed: the network.
        far: the FAR of pairs of images; templates have theirs.
        batch_size: images that `embed` gets at once.
        progress: called with (images done, images in all).

    Raises:
        UserError: the network gives NaN or infinity, or an image of IJB does not decode.
    """
    faces, embed = source.faces, _finite(embed)
    if isinstance(faces, TemplateSet):
        return TemplateFigures(
            name=faces.name,
            path=source.path,
            images=len(faces.files),
            templates=faces.num_templates,
            pairs=len(faces.pairs.same),
            tar=verify_templates(faces, embed, batch_size=batch_size, progress=progress),
            note=source.note,
        )
    found = verify(faces, embed, far=far, batch_size=batch_size, progress=progress)
    return PairFigures(
        name=faces.name,
        path=source.path,
        images=len(faces.images),
        pairs=len(faces.pairs.same),
        accuracy=found.accuracy,
        accuracy_std=found.accuracy_std,
        tar=found.tar,
        note=source.note,
    )


def _finite(embed: Embed) -> Embed:
    def checked(images: Images) -> Floats:
        embeddings = embed(images)
        if not np.isfinite(embeddings).all():
            raise UserError(
                "embeddings must be finite, but the weights give NaN or infinity; take those of another step"
            )
        return embeddings

    return checked
