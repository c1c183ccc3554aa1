"""Painting with soft shapes: a layer is a coverage between 0 and 1 for every pixel, and a colour."""

import numpy as np

from tuner.data.synthetic_factors import Array


def coverage(distance: Array, edge: Array | float) -> Array:
    """Return how much of each pixel lies inside a shape: 1 for `distance` <= -edge / 2, 0 for >= edge / 2.

    `distance` is signed, negative inside; an `edge` one pixel wide gives antialiased shapes, a wider one soft ones.
    """
    covered: Array = np.clip(0.5 - distance / edge, 0, 1)
    return covered


def implicit_coverage(values: Array) -> Array:
    """Return the antialiased coverage of the region `values < 0`, images of shape [B, height, width].

    The distance to the border, in pixels, is values / |gradient| (first-order).
    """
    down = np.empty_like(values)
    right = np.empty_like(values)
    down[:, 1:-1] = 0.5 * (values[:, 2:] - values[:, :-2])
    down[:, 0], down[:, -1] = down[:, 1], down[:, -2]
    right[:, :, 1:-1] = 0.5 * (values[:, :, 2:] - values[:, :, :-2])
    right[:, :, 0], right[:, :, -1] = right[:, :, 1], right[:, :, -2]
    return coverage(values, np.sqrt(down * down + right * right) + np.float32(1e-6))


def slopes(values: Array) -> tuple[Array, Array]:
    """Return the derivatives of images [B, height, width] along x and y, in units per half picture."""
    step = np.float32(values.shape[-1] / 4)
    x, y = np.zeros_like(values), np.zeros_like(values)
    x[:, :, 1:-1] = step * (values[:, :, 2:] - values[:, :, :-2])
    y[:, 1:-1] = step * (values[:, 2:] - values[:, :-2])
    return x, y


def ramp(values: Array, low: float | Array, high: float | Array) -> Array:
    """Return 0 below `low`, 1 above `high`, and a smooth step between them."""
    position: Array = np.clip((values - low) / (high - low), 0, 1)
    return position * position * (3 - 2 * position)


def bump(x: Array, y: Array, width: float | Array, height: float | Array) -> Array:
    """Return the Gaussian exp(-(x / width)^2 - (y / height)^2)."""
    scaled_x, scaled_y = x / width, y / height
    values: Array = np.exp(-(scaled_x * scaled_x + scaled_y * scaled_y))
    return values


def ellipse(x: Array, y: Array, width: float | Array, height: float | Array) -> Array:
    """Return the approximate signed distance to an ellipse with half-axes `width` and `height`."""
    scaled_x, scaled_y = x / width, y / height
    radius: Array = np.sqrt(scaled_x * scaled_x + scaled_y * scaled_y)
    return (radius - 1) * np.minimum(width, height).astype(radius.dtype)


def paint(canvas: Array, colour: Array | float, alpha: Array) -> None:
    """Lay `colour` over `canvas` (in place), shape [3, B, height, width], where `alpha` [B, height, width] says."""
    change = colour - canvas
    change *= alpha
    canvas += change


def blurred(canvas: Array, amount: Array) -> Array:
    """Return `canvas` [3, B, size, size] blurred, `amount` [B, 1, 1] from 0 (sharp) to 1 (sigma about size / 48).

    Binomial kernels of growing spacing, so that the cost does not grow with the size.
    """
    share = 0.25 * amount
    size = canvas.shape[-1]
    num_passes = max(1, round((3 * 2 * (size / 48) ** 2) ** (1 / 3)))
    for spacing in range(1, num_passes + 1):
        for axis in (2, 3):
            before = np.roll(canvas, spacing, axis)
            after = np.roll(canvas, -spacing, axis)
            edges = [slice(None)] * 4
            edges[axis] = slice(0, spacing)
            before[tuple(edges)] = canvas[tuple(edges)]
            edges[axis] = slice(size - spacing, size)
            after[tuple(edges)] = canvas[tuple(edges)]
            canvas = canvas + share * (before + after - 2 * canvas)
    return canvas
