"""Synthetic face masks: a cloth or a surgical mask from the bridge of the nose to the chin, in many shapes and colours.

Lengths are shares of the image's side, so one mask fits images of any size. The shape is made for faces aligned to the
112x112 template: eyes at 0.46 of the height, the mouth at 0.82, the middle of the face in the middle of the image.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_RANGES: Final = {
    "right": (-0.02, 0.02),  # where the middle of the face is, against the middle of the image
    "down": (-0.01, 0.01),  # how much lower the face is
    "tilt": (-0.05, 0.05),  # how far the right edge of the image is lowered against the left one
    "top": (0.55, 0.61),  # of the nose piece
    "half_width": (0.34, 0.39),
    "chin": (1.0, 1.06),  # the crop may end above it
    "grey": (25.0, 245.0),
    "tint": (0.0, 45.0),  # standard deviation of each colour about the grey
    "folds": (0.05, 0.2),  # how dark they are
}
NUM_MASK_SETTINGS: Final = 10
"""Right, down, tilt, top, half-width, chin, depth of the folds, red, green, blue."""

_CHEEK: Final = 0.09
"""How far the upper edge on the cheeks is below that on the nose."""
_JAW: Final = 0.7
"""Where the face begins to narrow towards the chin."""
_EAR: Final = 0.17
"""How far from the side of the mask a strap ends."""


def draw_masks(rng: np.random.Generator, num_masks: int) -> NDArray[np.float32]:
    """Return settings of masks for `wear_masks`, [num_masks, NUM_MASK_SETTINGS]; every second one has folds.

    They fit aligned faces. Of a face that lies further to the right or lower, columns 0 and 1 are larger, by the share
    of the image's width and height.
    """
    drawn = {name: rng.uniform(low, high, num_masks) for name, (low, high) in _RANGES.items()}
    drawn["folds"] *= rng.random(num_masks) < 0.5
    shape = [drawn[name] for name in ("right", "down", "tilt", "top", "half_width", "chin", "folds")]
    tints = rng.normal(0, 1, (3, num_masks)) * drawn["tint"]
    return np.stack([*shape, *(drawn["grey"] + tints).clip(0, 255)], axis=1).astype(np.float32)


def wear_masks(images: Tensor, masks: Tensor) -> Tensor:
    """Return the images with a mask drawn over the lower face of each.

    The upper edge rises over the nose, the sides narrow from the jaw to the chin, and two straps on each side lead to
    the ears. Edges are smoothed over a pixel. Where the face is aligned, the upper half of the image is not touched,
    and from 0.74 to 0.9 of the height the middle third of the width, where the mouth is, is covered.

    Args:
        images: faces, uint8 [B, H, W, 3].
        masks: float32 [B, NUM_MASK_SETTINGS], as `draw_masks` returns them, on the same device.

    Returns:
        uint8 [B, H, W, 3], new.
    """
    height, width = images.shape[1:3]
    right, lower_by, tilt, top, half_width, chin, depth = masks[:, :7, None, None].unbind(1)
    down = (torch.arange(height, device=images.device) + 0.5)[:, None] / height
    across = (torch.arange(width, device=images.device) + 0.5) / width - 0.5 - right
    down = down - lower_by - tilt * across
    aside = across.abs()

    # How far inside each edge a pixel lies, negative outside.
    below_top = down - (top + _CHEEK * (1 - torch.exp(-((across / 0.14) ** 2))))
    narrowing = ((down - _JAW) / (chin - _JAW)).clamp(0, 1)
    from_side = half_width * (1 - narrowing**3).sqrt() - aside
    inside = torch.minimum(torch.minimum(below_top, from_side), chin - down)
    outward = aside - half_width
    upper = (down - (top + _CHEEK + 0.02 - 0.5 * outward)).abs()
    lower = (down - (_JAW + 0.13 - 0.8 * outward)).abs()
    strap = torch.minimum(0.009 - torch.minimum(upper, lower), torch.minimum(outward + 0.04, _EAR - outward))
    cover = (torch.maximum(inside, strap) * height + 0.5).clamp(0, 1)

    folds = torch.cos((down + 0.25 * aside**2 - top) * (torch.pi / 0.075)) ** 6
    hem = 0.12 * (1 - ((below_top - 0.015) / 0.01) ** 2).clamp(min=0)
    shade = 1 - 0.35 * (aside / half_width).clamp(0, 1) ** 2 - depth * folds * (down < 0.93) - hem
    colours = masks[:, None, None, 7:] * shade[..., None]
    return torch.lerp(images.to(torch.float32), colours, cover[..., None]).round_().clamp_(0, 255).to(torch.uint8)
