"""Backbones by name: from images to embeddings."""

from typing import Final

from torch import nn

from tuner.errors import UserError
from tuner.models import iresnet, mobilefacenet
from tuner.models.names import TORCHVISION, check_backbone
from tuner.models.torchvision_backbone import TorchvisionBackbone

HALVED: Final = 16
"""Own backbones halve the image four times."""


def build_backbone(name: str, *, image_size: int, embedding_size: int) -> nn.Module:
    """Build a backbone with fresh weights from the global CPU generator.

    Args:
        name: one of `names.OWN`, or `torchvision/` and the name of one of its classifiers.
        image_size: side of the square input in pixels; a multiple of 16, or for torchvision what the classifier takes.
        embedding_size: length of the embedding, at least 1.

    Returns:
        A module from images [B, 3, S, S] to embeddings [B, embedding_size], not normalised, float32 under autocast.

    Raises:
        UserError: the name is unknown or the image size does not fit.
    """
    check_backbone(name)
    if embedding_size < 1:
        raise UserError(f"`embedding_size >= 1` must hold, but got {embedding_size}; 512 is usual")
    if name.startswith(TORCHVISION):
        classifier = name.removeprefix(TORCHVISION)
        return TorchvisionBackbone(classifier, image_size=image_size, embedding_size=embedding_size)
    if image_size < HALVED or image_size % HALVED:
        nearest = max(HALVED, round(image_size / HALVED) * HALVED)
        raise UserError(
            f"image_size must be a multiple of {HALVED}, but got {image_size}; {nearest} is the nearest that fits"
        )
    if name in mobilefacenet.SHAPES:
        shape = mobilefacenet.SHAPES[name]
        return mobilefacenet.MobileFaceNet(shape, image_size=image_size, embedding_size=embedding_size)
    return iresnet.IResNet(iresnet.SHAPES[name], image_size=image_size, embedding_size=embedding_size)
