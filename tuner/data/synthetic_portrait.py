"""From the factors of a person and of B scenes to B pictures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tuner.data.synthetic_canvas import blurred, coverage, ellipse, paint, ramp
from tuner.data.synthetic_factors import Array, Person, Scene
from tuner.data.synthetic_features import (
    Surface,
    paint_beard,
    paint_brows,
    paint_eyes,
    paint_mouth,
    paint_nose,
    paint_skin_marks,
)
from tuner.data.synthetic_hair import hair_colour, hair_length, mane, paint_hair, paint_hat
from tuner.data.synthetic_head import Head, lighting, place_head


def render(person: Person, scene: Scene, noise: Sequence[np.random.Generator], *, size: int) -> NDArray[np.uint8]:
    """Return the pictures of `person` in the B scenes, uint8 [B, size, size, 3].

    Painted from back to front in linear light: background, hair behind the head, shoulders, ears; then the face, whose
    colours are painted on the head's surface and lit; then what covers it; then the camera.
    """
    head = place_head(person, scene, size=size)
    light = lighting(head, person, scene)
    hair = hair_colour(head, person, scene)

    canvas = _background(scene, size=size)
    behind = mane(head, person, scene)
    paint(canvas, 0.7 * hair * light.behind, behind)
    _paint_shoulders(canvas, head, person, scene, light.behind)
    paint(canvas, hair * light.behind, behind * ramp(np.abs(head.x), 0.35, 0.5))  # falls in front of the shoulders
    _paint_ears(canvas, head, person, scene, light.behind)

    albedo = np.broadcast_to(person.skin, (3, *head.inside.shape)).astype(np.float32)
    paint_skin_marks(albedo, head.surface, person, scene)
    paint_nose(albedo, head.surface, person)
    paint_mouth(albedo, head.surface, person, scene)
    paint_beard(albedo, head.surface, person, scene)
    paint_eyes(albedo, head.surface, person, scene)
    paint_brows(albedo, head.surface, person, scene)
    paint_hair(albedo, head, person, scene, hair)
    _paint_glasses(albedo, head.surface, person, scene)
    _paint_mask(albedo, head.surface, scene)
    paint(canvas, albedo * light.face + light.gloss, head.inside)

    paint_hat(canvas, head, person, scene, light)
    _paint_object(canvas, scene, head.pixel)
    return _photograph(canvas, scene, noise)


def _screen(size: int) -> tuple[Array, Array]:
    """Return x [1, 1, size] and y [1, size, 1] of the pixels' middles, from -1 to 1."""
    axis = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    return axis[None, None, :], axis[None, :, None]


def _background(scene: Scene, *, size: int) -> Array:
    x, y = _screen(size)
    along = np.cos(scene.background_angle) * x + np.sin(scene.background_angle) * y
    other = np.cos(scene.background_angle + 2) * x + np.sin(scene.background_angle + 2) * y
    wave = np.sin(
        scene.background_waves * along + scene.background_phase + np.sin(2.5 * other + scene.background_phase)
    )
    mix = ramp(wave, -0.8, 0.8)
    backdrop = scene.background + mix * (scene.background_other - scene.background)
    grey = backdrop.mean(axis=0, keepdims=True)
    muted: Array = grey + np.float32(0.6) * (backdrop - grey)
    return muted


def _paint_shoulders(canvas: Array, head: Head, person: Person, scene: Scene, light: Array) -> None:
    x, y, pixel = head.x, head.y, head.pixel
    neck = np.maximum(np.abs(x) - 0.54 * person.width, 0.3 - y)
    shade = 0.55 + 0.25 * ramp(y, person.height, person.height + 0.25)
    paint(canvas, person.skin * shade * light, coverage(neck, pixel))
    body = 0.93 + 0.28 * np.abs(x) ** 1.7 + 0.06 * scene.neckline - y
    collar = scene.neckline - np.sqrt(x * x + (1.5 * (y - 0.82)) ** 2)
    paint(canvas, scene.clothes * (0.75 + 0.25 * light), coverage(np.maximum(body, collar), pixel))


def _paint_ears(canvas: Array, head: Head, person: Person, scene: Scene, light: Array) -> None:
    x, y, pixel = head.x, head.y, head.pixel
    reach = 0.98 * person.width * np.cos(scene.yaw)
    middle = person.height * np.sin(person.eye_latitude + 0.14 + scene.pitch)
    for side in (-1, 1):
        away = side * (x - side * reach - 0.3 * person.ear * np.sin(scene.yaw))
        covered = 1 - ramp(hair_length(person, scene), 0.15, 0.5)
        ear = coverage(ellipse(away, y - middle, 0.75 * person.ear, 1.5 * person.ear), pixel) * covered
        paint(canvas, 0.85 * person.skin * light, ear)
        fold = coverage(ellipse(away - 0.01, y - middle, 0.4 * person.ear, 0.95 * person.ear), 2 * pixel) * covered
        paint(canvas, 0.5 * person.skin * light, 0.6 * fold)


def _paint_glasses(albedo: Array, surface: Surface, person: Person, scene: Scene) -> None:
    """Paint glasses: rounded frames with a bridge and temples; sunglasses are the same with dark lenses."""
    worn = np.maximum(person.glasses * scene.glasses_on, scene.sunglasses)
    u, v = surface.lifted(0.16)
    down = v - person.eye_latitude - 0.03
    across = np.abs(u) - person.eye_gap
    power = person.glasses_roundness
    radius = (np.abs(across / person.glasses_width) ** power + np.abs(down / person.glasses_height) ** power) ** (
        1 / power
    )
    distance = (radius - 1) * np.minimum(person.glasses_width, person.glasses_height)
    paint(albedo, 0.012, worn * 0.93 * scene.sunglasses * coverage(distance, surface.pixel))
    frame = np.abs(distance) - person.glasses_frame
    bridge = np.maximum(np.abs(down + 0.05) - person.glasses_frame, np.abs(u) - person.eye_gap + person.glasses_width)
    temple = np.maximum(np.abs(down + 0.05) - person.glasses_frame, person.glasses_width - across)
    lines = coverage(np.minimum(frame, np.minimum(bridge, temple)), surface.pixel)
    paint(albedo, person.glasses_colour, 0.92 * worn * lines)
    glare = ramp(np.sin(6 * (across + down) + 20 * scene.light_azimuth), 0.75, 1.0)
    paint(albedo, 0.9, 0.25 * worn * glare * coverage(distance + 0.03, surface.pixel))


def _paint_mask(albedo: Array, surface: Surface, scene: Scene) -> None:
    u, v = surface.lifted(0.10)
    top = 0.20 + 0.22 * np.minimum(np.abs(u), 1.2) ** 2 - 0.06 * np.exp(-((u / 0.2) ** 2))
    cloth = coverage(top - v, surface.pixel)
    folds = 0.9 + 0.1 * np.sin(26 * v)
    paint(albedo, scene.mask_colour * folds, scene.mask * cloth)
    straps = coverage(np.abs(v - 0.28 + 0.2 * (np.abs(u) - 0.9)) - 0.015, surface.pixel) * (np.abs(u) > 0.9)
    paint(albedo, scene.mask_colour, scene.mask * straps)


def _paint_object(canvas: Array, scene: Scene, pixel: Array) -> None:
    """Paint something in front of the face, reaching in from the border: a hand, a cup, a phone."""
    x, y = _screen(canvas.shape[-1])
    cos, sin = np.cos(scene.object_angle), np.sin(scene.object_angle)
    along = cos * x + sin * y
    across = cos * y - sin * x
    shape = np.maximum(scene.object_reach - along, np.abs(across) - scene.object_size)
    shade = 0.8 + 0.3 * np.cos(2.2 * across / scene.object_size)
    paint(canvas, scene.object_colour * shade, scene.object * coverage(shape, 2 * pixel))


def _photograph(canvas: Array, scene: Scene, noise: Sequence[np.random.Generator]) -> NDArray[np.uint8]:
    """Expose, blur and develop: linear light [3, B, size, size] to uint8 [B, size, size, 3]."""
    size = canvas.shape[-1]
    exposed = blurred(canvas * (scene.exposure * scene.white_balance), scene.blur)
    developed = np.sqrt(np.clip(exposed, 0, None))
    developed = 0.45 + scene.contrast * (developed - 0.45)
    developed = developed / np.maximum(1, 0.65 + 0.35 * developed)  # highlights roll off
    grain = np.stack([rng.random((3, size, size), dtype=np.float32) for rng in noise], axis=1) - np.float32(0.5)
    levels = 255 * (developed + scene.noise * grain) + np.float32(0.5)
    return np.ascontiguousarray(np.clip(levels, 0, 255).astype(np.uint8).transpose(1, 2, 3, 0))
