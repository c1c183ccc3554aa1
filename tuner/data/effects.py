"""Augmentation beside flip and crop: masks, contrast, brightness, occlusion; a few tensor operations for a batch.

Each works on uint8 [B, H, W, 3] and returns the like, rounded and clipped to 0 to 255. What is drawn is drawn on the
host by (seed, step), each effect from a stream of its own: one that is switched on leaves the others as they were.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuner.data.masks import draw_masks, wear_masks
from tuner.data.stored_images import to_device
from tuner.errors import UserError

# Streams of random numbers, beside those of the order, the flips, the sampled classes and dropout.
_MASK: Final = 5
_CONTRAST: Final = 6
_BRIGHTNESS: Final = 7
_OCCLUSION: Final = 8

_LEAST_AREA: Final = 0.1
_MOST_STRETCHED: Final = 2.0

Draw = Callable[[np.random.Generator, int], NDArray[np.float32]]
Effect = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """How often each effect is applied to an image, and how strongly.

    In this order, x being a pixel's value:

    1. mask: a synthetic mask over the lower face (`tuner.data.masks`);
    2. contrast: x becomes m + c (x - m), m the image's mean, c uniform in 1 -+ `contrast_change`;
    3. brightness: x becomes g x, g uniform in 1 -+ `brightness_change`;
    4. occlusion: a rectangle of one random colour. Its share of the image is uniform in 0.1 to 1 times
       `occlusion_area`, its height up to twice its width or half of it, its place uniform.

    A batch is the same on every device up to rounding: a pixel may differ by 1 where its contrast changes.

    Args:
        mask: probability, as `contrast`, `brightness` and `occlusion` are.
        contrast_change: in (0, 1), as `brightness_change` is.
        occlusion_area: share of the image that the largest rectangle takes, in (0, 0.5].

    Raises:
        UserError: a setting is out of its range.
    """

    mask: float = 0.0
    contrast: float = 0.0
    contrast_change: float = 0.4
    brightness: float = 0.0
    brightness_change: float = 0.4
    occlusion: float = 0.0
    occlusion_area: float = 0.2

    def __post_init__(self) -> None:
        for name in ("mask", "contrast", "brightness", "occlusion"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"`0 <= {name} <= 1` must hold, but got {getattr(self, name)}; 0 is the default")
        for name in ("contrast_change", "brightness_change"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"`0 < {name} < 1` must hold, but got {getattr(self, name)}; 0.4 is the default")
        if not 0 < self.occlusion_area <= 0.5:
            raise UserError(f"`0 < occlusion_area <= 0.5` must hold, but got {self.occlusion_area}; 0.2 is the default")

    def apply(self, images: Tensor, *, moves: NDArray[np.float64], seed: int, step: int) -> Tensor:
        """Change flipped and cropped images, in place, and return them.

        Args:
            images: uint8 [B, H, W, 3].
            moves: [B, 2], how far a crop has moved each face to the right and down, as shares of width and height.
            seed: of what is drawn.
            step: of the batch, from 0.
        """
        for stream, probability, draw, effect in (
            (_MASK, self.mask, _masks(moves), wear_masks),
            (_CONTRAST, self.contrast, _factors(self.contrast_change), change_contrast),
            (_BRIGHTNESS, self.brightness, _factors(self.brightness_change), brighten),
            (_OCCLUSION, self.occlusion, _boxes(self.occlusion_area), occlude),
        ):
            if probability > 0:
                rng = np.random.default_rng([seed, stream, step])
                chosen = np.flatnonzero(rng.random(len(images)) < probability)
                _change(images, chosen, draw(rng, len(images))[chosen], effect)
        return images


NO_EFFECTS: Final = Effects()


def change_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Return m + factor (x - m) of each image, m its mean over pixels and colours; `factors` float32 [B, 1]."""
    values = images.to(torch.float32)
    means = values.mean(dim=(1, 2, 3), keepdim=True)
    return _pixels(torch.lerp(means, values, factors[:, :, None, None]))


def brighten(images: Tensor, gains: Tensor) -> Tensor:
    """Return gain times x of each image; `gains` float32 [B, 1]."""
    return _pixels(images.to(torch.float32) * gains[:, :, None, None])


def occlude(images: Tensor, boxes: Tensor) -> Tensor:
    """Return the images with a rectangle filled in each: the pixels whose centres are in it.

    Args:
        images: uint8 [B, H, W, 3].
        boxes: float32 [B, 7]: top, left, height and width as shares of the image, and the colour, 0 to 255.
    """
    rows = _within(images.shape[1], boxes[:, 0:1], boxes[:, 2:3])
    columns = _within(images.shape[2], boxes[:, 1:2], boxes[:, 3:4])
    inside = rows[:, :, None, None] & columns[:, None, :, None]
    return torch.where(inside, boxes[:, None, None, 4:].to(torch.uint8), images)


def _change(images: Tensor, chosen: NDArray[np.int64], settings: NDArray[np.float32], effect: Effect) -> None:
    """Apply an effect to the chosen images, and leave the others alone."""
    if len(chosen):
        rows = to_device(chosen, images.device)
        images.index_copy_(0, rows, effect(images.index_select(0, rows), to_device(settings, images.device)))


def _masks(moves: NDArray[np.float64]) -> Draw:
    def draw(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        masks = draw_masks(rng, count)
        masks[:, :2] += moves
        return masks

    return draw


def _factors(change: float) -> Draw:
    return lambda rng, count: rng.uniform(1 - change, 1 + change, (count, 1)).astype(np.float32)


def _boxes(largest: float) -> Draw:
    def draw(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        areas = largest * rng.uniform(_LEAST_AREA, 1, count)
        stretch = _MOST_STRETCHED ** rng.uniform(-1, 1, count)  # height by width
        heights, widths = np.sqrt(areas * stretch), np.sqrt(areas / stretch)  # at most 1, since areas are at most 0.5
        tops, lefts = rng.random((2, count)) * (1 - np.stack([heights, widths]))
        colours = rng.integers(0, 256, (count, 3))
        return np.column_stack([tops, lefts, heights, widths, colours]).astype(np.float32)

    return draw


def _within(size: int, starts: Tensor, lengths: Tensor) -> Tensor:
    """Return which of `size` pixels in a row have their centre from `starts` [B, 1] on for `lengths`, [B, size]."""
    centres = (torch.arange(size, device=starts.device) + 0.5) / size - starts
    return (centres >= 0) & (centres < lengths)


def _pixels(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255).to(torch.uint8)
