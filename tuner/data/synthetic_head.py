"""The shape of a head, where its surface faces, and how it is lit."""

from dataclasses import dataclass

import numpy as np

from tuner.data.synthetic_canvas import implicit_coverage, slopes
from tuner.data.synthetic_factors import Array, Person, Scene
from tuner.data.synthetic_features import Surface, relief


@dataclass(frozen=True)
class Head:
    """A head in B pictures.

    `x` and `y` are a pixel's place in the upright frame of the head, in units of half the picture at scale 1, and
    `pixel` the width of a pixel there. `stretch` is how much wider than from the front the head looks. `across` and
    `bulge` are a pixel's place relative to the outline, which is `across^2 + bulge = 1`, and `inside` its coverage.
    """

    x: Array
    y: Array
    pixel: Array
    stretch: Array
    across: Array
    bulge: Array
    inside: Array
    surface: Surface


@dataclass(frozen=True)
class Light:
    """Light on the face (`face`, with highlights `gloss` on top) and on flat things behind it (`behind`)."""

    face: Array
    gloss: Array
    behind: Array


def place_head(person: Person, scene: Scene, *, size: int) -> Head:
    """Return where the head of `person` is in pictures of `size` pixels.

    The head is a stack of ellipses, one a row, turned by the yaw: a row with half-width w and half-depth depth * w
    projects to |x| <= w * stretch, and a pixel at x sees the longitude arcsin(x / (w * stretch)) - delta, where
    stretch^2 = cos^2(yaw) + depth^2 sin^2(yaw) and tan(delta) = depth * tan(yaw). Pitch moves latitudes.
    """
    axis = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    right = axis[None, None, :] - scene.shift_x + 0.28 * np.sin(scene.yaw)  # crops follow the features, not the skull
    down = axis[None, :, None] - scene.shift_y + 0.35 * np.sin(scene.pitch)
    cos, sin = np.cos(scene.roll), np.sin(scene.roll)
    x = (cos * right + sin * down) / scene.scale
    y = (cos * down - sin * right) / scene.scale
    pixel = 2 / (size * scene.scale)

    t = y / person.height
    bulge = np.exp(np.where(t < 0, person.crown, person.jaw) * np.log(np.abs(t) + np.float32(1e-6)))
    half_width = person.width * (1 - person.chin * np.clip(t, 0, 1) ** 2 - 0.06 * np.clip(-t, 0, 1) ** 2)
    stretch = np.sqrt(np.cos(scene.yaw) ** 2 + (person.depth * np.sin(scene.yaw)) ** 2)
    delta = np.arctan2(person.depth * np.sin(scene.yaw), np.cos(scene.yaw))
    across = x / (half_width * stretch)
    row = np.sqrt(np.maximum(1 - bulge, np.float32(1e-4)))
    surface = Surface(
        longitude=np.arcsin(np.clip(across / row, -0.9999, 0.9999)) - delta,
        latitude=np.arcsin(np.clip(t, -0.9999, 0.9999)) - scene.pitch,
        pixel=pixel / person.width,
        yaw=scene.yaw,
        pitch=scene.pitch,
    )
    inside = implicit_coverage(across * across + bulge - 1)
    return Head(x, y, pixel, stretch, across, bulge, inside, surface)


def lighting(head: Head, person: Person, scene: Scene) -> Light:
    """Return the light of the scene: ambient light and one soft lamp, on the head's rounding and its relief."""
    t = head.y / person.height
    depth = np.sqrt(np.maximum(1 - head.across * head.across - head.bulge, np.float32(1e-3)))
    slope_x, slope_y = slopes(relief(head.surface, person, scene))
    normal_x, normal_y, normal_z = head.across - slope_x, t * np.abs(t) - slope_y, depth + np.float32(0.15)
    length = np.sqrt(normal_x**2 + normal_y**2 + normal_z**2)
    lamp_x = np.sin(scene.light_azimuth) * np.cos(scene.light_elevation)
    lamp_y = -np.sin(scene.light_elevation)
    lamp_z = np.cos(scene.light_azimuth) * np.cos(scene.light_elevation)
    facing = (lamp_x * normal_x + lamp_y * normal_y + lamp_z * normal_z) / length
    lit = np.clip((facing + 0.2) / 1.2, 0, None) ** 1.3  # light reaches a little round the edge, as on skin
    return Light(
        face=(1 - scene.light_share) + 1.7 * scene.light_share * lit,
        gloss=0.10 * scene.light_share * np.clip(facing, 0, 1) ** 12,
        behind=(1 - scene.light_share) + scene.light_share * np.clip(0.7 + 0.5 * lamp_x * head.x, 0.2, 1.5),
    )
