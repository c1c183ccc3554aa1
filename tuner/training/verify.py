"""The published 1:1 protocol from images to figures: f(x) + f(flip x), then ten folds and the TAR at a FAR."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tuner.data.faces import ChosenImages, Images
from tuner.data.verification_sets import Progress, VerificationSet
from tuner.training.verification import Floats, pair_distances, tar_at_far, ten_fold_accuracy

Embed = Callable[[Images], Floats]
"""From uint8 RGB images [n, H, W, 3] to embeddings [n, D] of any length, as the network gives them."""


@dataclass(frozen=True)
class PairScores:
    """Accuracy over ten folds (mean and population standard deviation) and the TAR at a FAR, each in [0, 1]."""

    accuracy: float
    accuracy_std: float
    tar: float


def flip_sum(
    images: Images | ChosenImages, embed: Embed, *, batch_size: int = 128, progress: Progress | None = None
) -> Floats:
    """Return f(x) + f(flip x) of each image, [N, D], not normalised: the length counts in the sum and in templates.

    Args:
        images: uint8 RGB [N, H, W, 3], N at least 1; read `batch_size` at a time.
        embed: the network f; the sum has its precision.
        batch_size: images that `embed` gets at once.
        progress: called with (images done, images in all) after each batch.
    """
    sums = []
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size])
        sums.append(embed(batch) + embed(np.ascontiguousarray(batch[:, :, ::-1])))
        if progress is not None:
            progress(start + len(batch), len(images))
    return np.concatenate(sums)


def verify(
    faces: VerificationSet, embed: Embed, *, far: float, batch_size: int = 128, progress: Progress | None = None
) -> PairScores:
    """Return the figures of a network on a verification set, by the protocol of LFW as InsightFace computes it.

    Embeddings of an image and its mirror image are added before they are normalised; distances are squared L2; folds
    follow the order of the pairs.

    Args:
        faces: the set.
        embed: the network.
        far: false-accept rate at which the true-accept rate is reported, in [0, 1].
        batch_size: images that `embed` gets at once.
        progress: called with (images done, images in all) after each batch.
    """
    embeddings = flip_sum(faces.images, embed, batch_size=batch_size, progress=progress)
    distances = pair_distances(embeddings, faces.pairs.left, faces.pairs.right)
    accuracy, deviation = ten_fold_accuracy(distances, faces.pairs.same)
    return PairScores(accuracy, deviation, tar_at_far(distances, faces.pairs.same, far=far))
