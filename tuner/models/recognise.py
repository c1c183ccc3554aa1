"""Which backbone a state dict belongs to, as its names and shapes tell."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tuner.models import iresnet, mobilefacenet


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """What `tuner.models.backbones.build_backbone` wants to know; None where a state dict does not tell."""

    backbone: str | None = None
    image_size: int | None = None
    embedding_size: int | None = None


def recognise(state: Mapping[str, Tensor]) -> Recognised:
    """Return which backbone of this project a state dict is of, and its sizes; nothing of it is checked further.

    Of a torchvision classifier only the length of the embedding is known.
    """
    shapes = {str(name): tuple(value.shape) for name, value in state.items()}
    return _iresnet(shapes) or _mobilefacenet(shapes) or Recognised(embedding_size=_first(shapes, "features.weight"))


def _iresnet(shapes: Mapping[str, tuple[int, ...]]) -> Recognised | None:
    units = tuple(_num_children(shapes, f"layer{stage}.") for stage in range(1, 5))
    for name, shape in iresnet.SHAPES.items():
        if (units, _first(shapes, "conv1.weight")) == (shape.units, shape.stem):
            features = shapes.get("fc.weight", (0, 0))[-1]
            size = 16 * math.isqrt(features // shape.widths[3]) or None
            return Recognised(backbone=name, image_size=size, embedding_size=_first(shapes, "fc.weight"))
    return None


def _mobilefacenet(shapes: Mapping[str, tuple[int, ...]]) -> Recognised | None:
    units = tuple(_num_children(shapes, f"layers.{place}.layers.") for place in (3, 5, 7))
    for name, shape in mobilefacenet.SHAPES.items():
        if (units, _first(shapes, "layers.0.layers.0.weight")) == (shape.units, 64 * shape.width):
            size = 16 * shapes.get("features.layers.0.layers.0.weight", (0,))[-1] or None
            return Recognised(backbone=name, image_size=size, embedding_size=_first(shapes, "features.layers.2.weight"))
    return None


def _num_children(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in shapes if name.startswith(prefix)})


def _first(shapes: Mapping[str, tuple[int, ...]], name: str) -> int | None:
    """Return the first dimension of a tensor; None where there is no such tensor, or it has none."""
    return next(iter(shapes.get(name, ())), None)
