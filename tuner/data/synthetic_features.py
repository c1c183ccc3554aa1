"""Eyes, brows, nose, mouth, beard and marks, painted onto the surface of a head before it is lit."""

from dataclasses import dataclass

import numpy as np

from tuner.data.synthetic_canvas import bump, coverage, ellipse, paint, ramp
from tuner.data.synthetic_factors import Array, Person, Scene


@dataclass(frozen=True)
class Surface:
    """Where on the head every pixel lies: longitude and latitude in radians, each [B, height, width].

    `pixel` is the width of a pixel in radians at the middle of the face, `yaw` and `pitch` the turn of the head:
    what stands out of the surface by `e` moves by about `e * sin(turn)`.
    """

    longitude: Array
    latitude: Array
    pixel: Array
    yaw: Array
    pitch: Array

    def lifted(self, by: float | Array) -> tuple[Array, Array]:
        """Return longitude and latitude for parts that stand out of the surface by `by`."""
        return self.longitude - by * np.sin(self.yaw), self.latitude - by * np.sin(self.pitch)


def relief(surface: Surface, person: Person, scene: Scene) -> Array:
    """Return the height of the face above a smooth head, in units of half the picture: it only tilts the light."""
    u, v = surface.longitude, surface.latitude
    side = np.abs(u)
    tip_u, tip_v = surface.lifted(0.5 * person.nose_height)
    nose_v = person.eye_latitude + person.nose_length
    along = ramp(v, person.eye_latitude - 0.1, nose_v) * (1 - ramp(v, nose_v, nose_v + 0.13))
    half = person.nose_bridge + 0.6 * person.nose_width * along
    nose = person.nose_height * (0.25 + 0.75 * along) * np.exp(-((tip_u / half) ** 2))
    nose = nose * ramp(v, person.eye_latitude - 0.25, person.eye_latitude + 0.1) * (1 - ramp(v, nose_v, nose_v + 0.12))
    wings = 0.06 * bump(np.abs(tip_u) - 0.75 * person.nose_width, tip_v - nose_v, 0.07, 0.08)
    sockets = -0.07 * person.socket * bump(side - person.eye_gap, v - person.eye_latitude + 0.02, 0.22, 0.15)
    brows = 0.035 * person.socket * bump(side - person.eye_gap, v - person.eye_latitude + person.brow_gap, 0.3, 0.09)
    cheeks = (0.03 + 0.05 * person.cheek + 0.02 * scene.smile) * bump(side - 0.62, v - 0.32, 0.28, 0.26)
    lips = 0.035 * bump(u, v - person.mouth_latitude, person.mouth_width, 0.13)
    chin = 0.06 * bump(u, v - 1.08, 0.28, 0.18)
    height: Array = nose + wings + sockets + brows + cheeks + lips + chin
    return height


def paint_skin_marks(albedo: Array, surface: Surface, person: Person, scene: Scene) -> None:
    """Paint blush, freckles, a mole, and the folds that age and smiling draw."""
    u, v, edge = surface.longitude, surface.latitude, surface.pixel
    side = np.abs(u)
    blush = person.skin * np.array([1.02, 0.72, 0.72], np.float32)[:, None, None, None]
    paint(albedo, blush, 0.5 * bump(side - 0.62, v - 0.33, 0.28, 0.22))
    dark = 0.5 * person.skin
    speckle = ramp(np.sin(31 * u + 3 * np.sin(17 * v)) * np.sin(29 * v + 2 * np.sin(13 * u)), 0.35, 0.75)
    paint(albedo, dark, 0.7 * person.freckles * speckle * bump(side - 0.45, v - 0.25, 0.45, 0.25))
    mole = ellipse(u - person.mole_longitude, v - person.mole_latitude, 0.04, 0.045)
    paint(albedo, 0.25 * person.skin, person.mole * coverage(mole, edge))
    # Nasolabial folds: from the wings of the nose down beside the mouth.
    nose_v = person.eye_latitude + person.nose_length
    fold_u = person.nose_width + 0.05 + 0.45 * np.clip(v - nose_v, 0, 1) + 0.04 * scene.smile
    fold = np.exp(-(((side - fold_u) / 0.035) ** 2)) * ramp(v, nose_v - 0.08, nose_v + 0.05)
    fold = fold * (1 - ramp(v, person.mouth_latitude - 0.08, person.mouth_latitude + 0.08))
    paint(albedo, dark, fold * np.clip(0.12 + 0.35 * person.wrinkles + 0.25 * scene.smile, 0, 0.7))
    lines = ramp(np.sin(38 * v + 2 * np.cos(2 * u)), 0.55, 1.0) * bump(u, v + 0.52, 0.5, 0.13)
    paint(albedo, dark, lines * np.clip(0.6 * person.wrinkles * (0.6 + 6 * scene.brow_raise), 0, 0.6))
    bags = bump(side - person.eye_gap, v - person.eye_latitude - 0.15, 0.15, 0.035)
    paint(albedo, 0.6 * person.skin, bags * (0.15 + 0.5 * person.wrinkles))


def paint_eyes(albedo: Array, surface: Surface, person: Person, scene: Scene) -> None:
    """Paint both eyes at once: `p` runs outwards from the middle of an eye, `r` downwards."""
    u, v, edge = surface.longitude, surface.latitude, surface.pixel
    p = np.abs(u) - person.eye_gap
    r = v - person.eye_latitude - person.eye_tilt * p
    arc = 1 - (p / person.eye_width) ** 2
    lid = scene.eyes_open * person.eye_open - 0.02 * np.clip(scene.smile, 0, 1)
    top = -np.maximum(lid, 0.006) * np.where(arc > 0, np.sqrt(np.maximum(arc, 0)), arc)
    bottom = 0.55 * person.eye_open * (0.35 + 0.65 * scene.eyes_open) * arc * (1 - 0.25 * np.clip(scene.smile, 0, 1))
    inside = coverage(np.maximum(top - r, r - bottom), edge)
    socket = bump(p, r + 0.06, 1.25 * person.eye_width, 0.14)
    paint(albedo, 0.55 * person.skin, (0.25 + 0.35 * person.socket) * socket)
    crease = np.abs(r - top + 0.055) - 0.008
    paint(albedo, 0.45 * person.skin, 0.6 * coverage(crease, 1.5 * edge) * (arc > 0))
    paint(albedo, 0.72, inside)
    gaze = scene.gaze_x * np.sign(u)
    iris = ellipse(p - gaze, r - scene.gaze_y + 0.018, person.iris_size, person.iris_size)
    paint(albedo, 0.35 * person.iris, inside * coverage(iris, edge))
    paint(albedo, person.iris, inside * coverage(iris + 0.02, edge))
    paint(albedo, 0.008, inside * coverage(iris + 0.55 * person.iris_size, edge))
    glint = ellipse(p - gaze - 0.025 * np.sign(u), r - scene.gaze_y + 0.045, 0.022, 0.022)
    paint(albedo, 0.95, 0.9 * inside * coverage(glint, edge))
    lash = np.maximum(np.abs(r - top + 0.008) - 0.016, np.abs(p) - person.eye_width * 1.06)
    paint(albedo, 0.015, 0.9 * coverage(lash, edge))
    lower = np.maximum(np.abs(r - bottom) - 0.006, np.abs(p) - person.eye_width)
    paint(albedo, 0.3 * person.skin, 0.5 * coverage(lower, edge))


def paint_brows(albedo: Array, surface: Surface, person: Person, scene: Scene) -> None:
    """Paint the eyebrows: tapered arcs above the eyes."""
    u, v = surface.lifted(0.04)
    p = (np.abs(u) - person.eye_gap) / person.brow_length
    height = person.eye_latitude - person.brow_gap - scene.brow_raise + scene.brow_frown * (0.35 - 0.6 * (p + 0.4))
    middle = height + person.brow_tilt * person.brow_length * p - person.brow_arch * (1 - (p - 0.1) ** 2)
    thickness = person.brow_thickness * np.clip(1.1 - 0.55 * (p + 1) / 2 - np.maximum(p - 0.5, 0), 0.1, 2)
    stroke = np.maximum(np.abs(v - middle) - thickness, (np.abs(p) - 1) * person.brow_length)
    paint(albedo, 0.75 * person.hair, person.brow_density * coverage(stroke, surface.pixel + 0.02))


def paint_nose(albedo: Array, surface: Surface, person: Person) -> None:
    """Paint nostrils and the lines beside and below the nose; its body is relief."""
    u, v = surface.lifted(0.5 * person.nose_height)
    nose_v = person.eye_latitude + person.nose_length
    side = np.abs(u)
    under = bump(u, v - nose_v - 0.10, 1.1 * person.nose_width, 0.045)
    paint(albedo, 0.45 * person.skin, 0.55 * under)
    wing = np.abs(ellipse(side - 0.62 * person.nose_width, v - nose_v, 0.5 * person.nose_width, 0.085)) - 0.008
    wing_side = (side > 0.75 * person.nose_width) & (v > nose_v - 0.06)
    paint(albedo, 0.4 * person.skin, 0.6 * coverage(wing, 1.5 * surface.pixel) * wing_side)
    nostril = ellipse(side - 0.5 * person.nose_width, v - nose_v - 0.065, 0.32 * person.nose_width, 0.026)
    paint(albedo, 0.08 * person.skin, 0.9 * coverage(nostril, surface.pixel))
    shine = bump(u, v - nose_v + 0.06, 0.035, 0.05) + 0.5 * bump(u, v - nose_v + 0.22, 0.025, 0.12)
    paint(albedo, np.minimum(1.35 * person.skin, 1), 0.5 * shine)


def paint_mouth(albedo: Array, surface: Surface, person: Person, scene: Scene) -> None:
    """Paint lips, teeth and the dark between them."""
    u, v = surface.lifted(0.06)
    edge = surface.pixel
    half = person.mouth_width * (1 + 0.22 * scene.smile)
    q = u / half
    arc = 1 - q * q
    middle = person.mouth_latitude - 0.10 * scene.smile * (q * q - 0.35)
    gap = 0.5 * scene.mouth_open * np.maximum(arc, 0)
    bow = 1 - 0.35 * np.exp(-((q / 0.18) ** 2))
    top = middle - gap - person.upper_lip * (1 - 0.25 * scene.smile) * arc * bow
    bottom = middle + 1.3 * gap + person.lower_lip * (1 - 0.2 * scene.smile) * arc
    lips = coverage(np.maximum(top - v, v - bottom), edge)
    paint(albedo, 0.5 * person.skin, 0.4 * bump(q, v - bottom - 0.05, 0.6, 0.04))
    paint(albedo, person.lips, lips)
    upper = lips * coverage(v - middle, 0.06)
    paint(albedo, 0.72 * person.lips, 0.8 * upper)
    paint(albedo, np.minimum(1.3 * person.lips, 1), 0.5 * bump(q, v - 0.5 * (middle + 1.3 * gap + bottom), 0.4, 0.025))
    opening = coverage(np.maximum(middle - gap - v, v - middle - 1.3 * gap), edge) * (arc > 0) * (scene.mouth_open > 0)
    paint(albedo, 0.02, opening)
    teeth = opening * coverage(v - middle - 0.1 * gap, edge) * (scene.mouth_open > 0.05)
    paint(albedo, 0.65, 0.85 * teeth)
    line = np.maximum(np.abs(v - middle) - 0.010, np.abs(u) - 1.03 * half)
    paint(albedo, 0.25 * person.lips, 0.85 * coverage(line, edge) * (scene.mouth_open <= 0))


def paint_beard(albedo: Array, surface: Surface, person: Person, scene: Scene) -> None:
    """Paint stubble, beard and moustache, in the colour of the hair."""
    u, v = surface.longitude, surface.latitude
    side = np.abs(u)
    nose_v = person.eye_latitude + person.nose_length
    mouth_half = person.mouth_width * (1 + 0.22 * scene.smile)
    around = ramp(v - person.mouth_latitude - 0.08 + 0.75 * np.maximum(side - mouth_half, 0), -0.05, 0.10)
    jaw = ramp(side, 0.85, 1.05) * ramp(v, -0.05, 0.15)
    lip = ramp(v, nose_v + 0.10, nose_v + 0.16) * coverage(v - person.mouth_latitude + 0.035, 0.06)
    lip = lip * coverage(side - np.maximum(mouth_half + 0.08, 0.4), 0.12)
    region = np.maximum(around, jaw)
    paint(albedo, 0.5 * person.hair + 0.2 * person.skin, person.stubble * scene.growth * np.maximum(region, lip))
    grain = 0.9 + 0.1 * np.sin(61 * u + 4 * np.sin(23 * v)) * np.sin(53 * v + 4 * np.sin(19 * u))
    paint(albedo, person.hair, np.clip(person.beard * scene.growth * 1.2, 0, 0.95) * region * grain)
    paint(albedo, person.hair, np.clip(person.moustache * scene.growth * 1.2, 0, 0.95) * lip * grain)
