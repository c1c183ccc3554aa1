"""Hair behind and on the head, and the hat that may cover it."""

import numpy as np

from tuner.data.synthetic_canvas import coverage, implicit_coverage, paint, ramp
from tuner.data.synthetic_factors import Array, Person, Scene
from tuner.data.synthetic_head import Head, Light


def hair_colour(head: Head, person: Person, scene: Scene) -> Array:
    """Return the colour of the hair, in strands, before light falls on it."""
    strand = head.x / person.width + scene.hair_shift
    strand = strand + 0.15 * (0.3 + person.hair_curl) * np.sin(7 * head.y + 3 * head.x)
    streaks = 1 + 0.14 * np.sin(person.hair_grain * strand) + 0.10 * np.sin(2.3 * person.hair_grain * strand + 1.0)
    return person.hair * streaks


def hair_length(person: Person, scene: Scene) -> Array:
    """Return how far down the hair falls: long hair may be tied up in a picture."""
    return np.where(scene.hair_tied > 0, np.minimum(person.hair_length, -0.1), person.hair_length)


def mane(head: Head, person: Person, scene: Scene) -> Array:
    """Return the coverage of the hair behind the head: the skull, widened, and what hangs beside the face."""
    x, y = head.x, head.y
    volume = (1 + scene.hair_volume * np.sign(person.hair_top)) * np.ones_like(x)
    wide = (person.width * head.stretch + person.hair_side + 0.03 * person.hair_curl * np.sin(14 * y)) * volume
    tall = (person.height + person.hair_top + 0.02 * person.hair_curl * np.sin(17 * x)) * volume
    shift = 0.10 * np.sin(scene.yaw)
    side = np.abs(x + shift) / wide
    above = np.clip(-y / tall, 0, None)
    cap = side**2.3 + above**2.3 - 1
    length = hair_length(person, scene)
    end = length + 0.05 * np.sin(11 * x)
    tuck = 2.0 * np.clip(side - 0.75, 0, 1) * (length < 0.5)  # short hair ends in a curve, long hair falls
    return implicit_coverage(np.maximum(cap, 2.2 * (y - end + tuck))) * (person.hair_top > 0)


def paint_hair(albedo: Array, head: Head, person: Person, scene: Scene, colour: Array) -> None:
    """Paint the hair on the head itself: everything above the hairline, and the sides in front of the ears."""
    u, v = head.surface.lifted(0.08)
    side = np.abs(u)
    line = person.hairline + person.hair_parting * u * (1 - 0.5 * person.hair_fringe)
    line = line - person.hair_receding * np.exp(-(((side - 0.55) / 0.25) ** 2))
    wave = 0.035 * (0.4 + person.hair_curl + person.hair_fringe)
    strands = wave * np.sin(person.hair_grain * 0.5 * (u + scene.hair_shift))
    temples = (0.75 + np.clip(hair_length(person, scene), -0.3, 1.0)) * ramp(side, 0.78, 1.2) * (person.hairline > -1.4)
    line = line + strands + temples + scene.hair_shift * np.cos(2 * u)
    shadow = coverage(v - line - 0.06, 0.12)
    paint(albedo, 0.6 * person.skin, 0.6 * shadow * (person.hairline > -1.4))
    paint(albedo, colour, implicit_coverage(v - line))


def paint_hat(canvas: Array, head: Head, person: Person, scene: Scene, light: Light) -> None:
    """Paint a knitted hat, over hair and head."""
    x, y, surface = head.x, head.y, head.surface
    brim = scene.hat_latitude + 0.10 * np.abs(surface.longitude)
    on_head = coverage(surface.latitude - brim, surface.pixel) * head.inside
    wide = person.width + 0.06 + 0.9 * person.hair_side
    above = np.clip(-y / (person.height + 0.06 + person.hair_top), 0, None)
    start = person.height * np.sin(np.clip(scene.hat_latitude + 0.12 + scene.pitch, -1.4, 1.4))
    crown = implicit_coverage(np.maximum(np.abs(x / wide) ** 2.2 + above**2.2 - 1, 2 * (y - start)))
    knit = 0.85 + 0.15 * np.sin(45 * x)
    band = 1 - 0.35 * coverage(np.abs(surface.latitude - brim + 0.12) - 0.10, 0.04)
    paint(canvas, scene.hat_colour * knit * band * (0.35 + 0.65 * light.face), scene.hat * np.maximum(crown, on_head))
