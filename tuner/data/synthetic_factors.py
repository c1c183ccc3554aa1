"""What a synthetic face depends on: the factors of a person, which stay, and those of a picture, which change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
"""A factor of B pictures, shape [B, 1, 1], or a colour, shape [3, B, 1, 1]; it broadcasts over [B, height, width]."""

RENDERER_VERSION = 1
"""Enters every seed and the cache key; raised whenever a picture would change."""

_NUM_DRAWS = 128
"""Uniform numbers drawn for each person and each picture; what is left over is room for further factors."""

# Linear-light RGB. Skin runs from light to dark, hair from black to grey.
_SKIN = np.array([[0.80, 0.55, 0.43], [0.66, 0.41, 0.29], [0.42, 0.24, 0.15], [0.16, 0.085, 0.055]])
_HAIR = np.array(
    [[0.012, 0.010, 0.010], [0.05, 0.028, 0.018], [0.14, 0.07, 0.035], [0.22, 0.075, 0.03], [0.50, 0.34, 0.15]]
)
_GREY_HAIR = np.array([0.45, 0.44, 0.43])
_EYES = np.array([[0.06, 0.03, 0.015], [0.14, 0.09, 0.03], [0.10, 0.16, 0.08], [0.10, 0.20, 0.34], [0.22, 0.26, 0.30]])


class _Draws:
    """Turns columns of uniform numbers, shape [B, _NUM_DRAWS], into factors, one after the other."""

    def __init__(self, uniform: NDArray[np.float64]) -> None:
        self._columns = iter(uniform.T)

    def uniform(self, low: float, high: float) -> Array:
        """Return values spread evenly from `low` to `high`."""
        values: Array = (low + (high - low) * next(self._columns)).astype(np.float32)
        return values[:, None, None]

    def tent(self, mean: float, spread: float) -> Array:
        """Return values within `spread` of `mean`, most of them near it (the sum of two uniform numbers)."""
        values: Array = (mean + spread * (next(self._columns) + next(self._columns) - 1)).astype(np.float32)
        return values[:, None, None]

    def chance(self, probability: float | Array) -> Array:
        """Return 1 with `probability`, else 0."""
        happens: Array = (next(self._columns)[:, None, None] < probability).astype(np.float32)
        return happens

    def colour(self, low: float, high: float) -> Array:
        """Return colours with channels from `low` to `high`, shape [3, B, 1, 1]."""
        return np.stack([self.uniform(low, high) for _ in range(3)])

    def palette(self, colours: NDArray[np.float64], position: Array) -> Array:
        """Return the colours at `position` (0 to 1) along the `colours` of a palette, shape [3, B, 1, 1]."""
        stops = np.linspace(0, 1, len(colours))
        mixed = [np.interp(position, stops, colours[:, channel]) for channel in range(3)]
        return np.stack(mixed).astype(np.float32)


@dataclass(frozen=True)
class Person:
    """The factors of one identity, each of shape [1, 1, 1] (colours [3, 1, 1, 1]).

    Lengths are in units of half the picture; positions on the face are angles in radians on a rounded head, longitude
    (0 is the middle of the face) and latitude (0 is the middle of the head, positive is down).
    """

    skin: Array
    hair: Array
    iris: Array
    lips: Array
    # head
    width: Array
    height: Array
    jaw: Array
    chin: Array
    crown: Array
    depth: Array
    ear: Array
    cheek: Array
    # eyes and brows
    eye_gap: Array
    eye_latitude: Array
    eye_width: Array
    eye_open: Array
    eye_tilt: Array
    iris_size: Array
    socket: Array
    brow_gap: Array
    brow_thickness: Array
    brow_length: Array
    brow_arch: Array
    brow_tilt: Array
    brow_density: Array
    # nose and mouth
    nose_length: Array
    nose_width: Array
    nose_height: Array
    nose_bridge: Array
    mouth_latitude: Array
    mouth_width: Array
    upper_lip: Array
    lower_lip: Array
    # hair, beard, marks, glasses
    hairline: Array
    hair_top: Array
    hair_side: Array
    hair_length: Array
    hair_receding: Array
    hair_parting: Array
    hair_fringe: Array
    hair_curl: Array
    hair_grain: Array
    beard: Array
    moustache: Array
    stubble: Array
    wrinkles: Array
    freckles: Array
    mole: Array
    mole_longitude: Array
    mole_latitude: Array
    glasses: Array
    glasses_width: Array
    glasses_height: Array
    glasses_roundness: Array
    glasses_frame: Array
    glasses_colour: Array


@dataclass(frozen=True)
class Scene:
    """The factors of B pictures, each of shape [B, 1, 1] (colours [3, B, 1, 1]); angles in radians."""

    # pose and framing
    yaw: Array
    pitch: Array
    roll: Array
    scale: Array
    shift_x: Array
    shift_y: Array
    # light and camera
    light_azimuth: Array
    light_elevation: Array
    light_share: Array
    exposure: Array
    white_balance: Array
    contrast: Array
    blur: Array
    noise: Array
    # expression
    smile: Array
    mouth_open: Array
    brow_raise: Array
    brow_frown: Array
    eyes_open: Array
    gaze_x: Array
    gaze_y: Array
    # what is worn and what is in the way
    glasses_on: Array
    sunglasses: Array
    mask: Array
    mask_colour: Array
    hat: Array
    hat_latitude: Array
    hat_colour: Array
    object: Array
    object_angle: Array
    object_reach: Array
    object_size: Array
    object_colour: Array
    growth: Array
    hair_tied: Array
    hair_shift: Array
    hair_volume: Array
    clothes: Array
    neckline: Array
    background: Array
    background_other: Array
    background_angle: Array
    background_waves: Array
    background_phase: Array


def generator(identity: int, image: int | None = None) -> np.random.Generator:
    """Return the random generator of a person, or of one picture of that person."""
    entropy = [RENDERER_VERSION, identity] if image is None else [RENDERER_VERSION, identity, image]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def draw_person(identity: int) -> Person:
    """Return the factors of person number `identity` (from 0)."""
    draw = _Draws(generator(identity).random((1, _NUM_DRAWS)))
    build = draw.uniform(-1, 1)  # slight to sturdy: jaw, brows, hair length and beard go together, as in people
    melanin = draw.uniform(0, 1)
    skin = draw.palette(_SKIN, melanin) * (1 + draw.colour(-0.07, 0.07))
    age = draw.uniform(0, 1)
    # Hair colour: light hair goes with light skin, grey with age.
    hair = draw.palette(_HAIR, draw.uniform(0, 1) * (1 - 0.85 * melanin))
    hair = hair + draw.chance(0.9 * np.clip(age - 0.65, 0, 1) / 0.35) * (
        draw.uniform(0.5, 1) * (_GREY_HAIR.astype(np.float32)[:, None, None, None] - hair)
    )
    iris = draw.palette(_EYES, draw.uniform(0, 1) * (1 - 0.8 * melanin))
    lips = skin * np.stack([draw.uniform(0.80, 1.0), draw.uniform(0.45, 0.68), draw.uniform(0.5, 0.75)])
    bearded = draw.chance(0.55 * (build > 0))
    long_hair = draw.chance(np.where(build < 0, 0.75, 0.08))
    bald = draw.chance(np.where(build > 0, 0.22, 0.0) * (0.3 + age))
    fringe = draw.chance(0.3) * (1 - bald)
    return Person(
        skin=skin,
        hair=hair,
        iris=iris,
        lips=lips,
        width=draw.tent(0.545, 0.078) + 0.01 * build,
        height=draw.tent(0.70, 0.072),
        jaw=draw.tent(2.45, 0.616) + 0.25 * build,
        chin=draw.tent(0.24, 0.188) - 0.05 * build,
        crown=draw.tent(2.4, 0.3),
        depth=draw.tent(1.15, 0.12),
        ear=draw.tent(0.105, 0.045),
        cheek=draw.uniform(0, 1),
        eye_gap=draw.tent(0.47, 0.134),
        eye_latitude=draw.tent(-0.06, 0.134),
        eye_width=draw.tent(0.215, 0.067),
        eye_open=draw.tent(0.098, 0.040) - 0.008 * build,
        eye_tilt=draw.tent(-0.06, 0.296),
        iris_size=draw.tent(0.088, 0.020),
        socket=draw.uniform(0.2, 1.0),
        brow_gap=draw.tent(0.255, 0.094) - 0.02 * build,
        brow_thickness=draw.tent(0.048, 0.032) + 0.010 * build,
        brow_length=draw.tent(0.27, 0.081),
        brow_arch=draw.tent(0.07, 0.067) - 0.01 * build,
        brow_tilt=draw.tent(0.06, 0.26),
        brow_density=draw.uniform(0.45, 0.95),
        nose_length=draw.tent(0.40, 0.148),
        nose_width=draw.tent(0.155, 0.081),
        nose_height=draw.tent(0.20, 0.08),
        nose_bridge=draw.tent(0.075, 0.03),
        mouth_latitude=draw.tent(0.66, 0.108),
        mouth_width=draw.tent(0.33, 0.121),
        upper_lip=draw.tent(0.055, 0.036),
        lower_lip=draw.tent(0.080, 0.047),
        hairline=np.where(
            bald > 0, np.float32(-1.5), np.where(fringe > 0, draw.tent(-0.48, 0.12), draw.tent(-0.74, 0.16))
        ),
        hair_top=np.where(bald > 0, np.float32(0.0), draw.uniform(0.04, 0.20)),
        hair_side=np.where(bald > 0, np.float32(0.0), draw.uniform(0.02, 0.14) + 0.08 * long_hair),
        hair_length=np.where(long_hair > 0, draw.uniform(0.75, 1.6), draw.uniform(-0.35, 0.25)),
        hair_receding=draw.uniform(0, 0.45) * draw.chance(0.3 + 0.2 * build) * (1 - fringe),
        hair_parting=draw.tent(0, 0.5),
        hair_fringe=fringe,
        hair_curl=draw.uniform(0, 1) * draw.chance(0.5),
        hair_grain=draw.uniform(12, 32),
        beard=bearded * draw.chance(0.6) * draw.uniform(0.5, 1.0),
        moustache=bearded * draw.chance(0.7) * draw.uniform(0.5, 1.0),
        stubble=np.clip(build, 0, 1) * draw.uniform(0.05, 0.4),
        wrinkles=np.clip(1.6 * age - 0.4, 0, 1),
        freckles=draw.chance(0.2) * (1 - melanin) * draw.uniform(0.4, 1),
        mole=draw.chance(0.25),
        mole_longitude=draw.uniform(-0.8, 0.8),
        mole_latitude=draw.uniform(0.15, 0.9),
        glasses=draw.chance(0.3),
        glasses_width=draw.tent(0.30, 0.05),
        glasses_height=draw.tent(0.20, 0.06),
        glasses_roundness=draw.uniform(2.0, 5.0),
        glasses_frame=draw.uniform(0.016, 0.045),
        glasses_colour=draw.palette(
            np.array([[0.01, 0.01, 0.01], [0.12, 0.04, 0.02], [0.4, 0.38, 0.36]]), draw.uniform(0, 1)
        ),
    )


def draw_scenes(identity: int, images: Sequence[int]) -> tuple[Scene, list[np.random.Generator]]:
    """Return the factors of the pictures `images` of a person, and a generator for the noise of each picture."""
    generators = [generator(identity, image) for image in images]
    draw = _Draws(np.stack([rng.random(_NUM_DRAWS) for rng in generators]))
    happy = draw.uniform(0, 1)
    scene = Scene(
        yaw=draw.tent(0, 0.58),
        pitch=draw.tent(0, 0.27),
        roll=draw.tent(0, 0.20),
        scale=draw.tent(1.36, 0.16),
        shift_x=draw.tent(0, 0.11),
        shift_y=draw.tent(0, 0.10),
        light_azimuth=draw.tent(0, 1.5),
        light_elevation=draw.tent(0.45, 0.75),
        light_share=draw.uniform(0.25, 0.90),
        exposure=np.exp(draw.tent(0.15, 0.9)),
        white_balance=np.exp(np.stack([draw.tent(0.05, 0.35), draw.tent(0, 0.10), draw.tent(-0.05, 0.40)])),
        contrast=draw.tent(1.15, 0.25),
        blur=0.4 * draw.uniform(0, 1) ** 4,
        noise=draw.uniform(0.01, 0.05),
        smile=np.clip(2.0 * happy - 0.7, -0.3, 1.2),
        mouth_open=draw.chance(0.4) * draw.uniform(0.02, 0.16),
        brow_raise=draw.tent(0.01, 0.07),
        brow_frown=draw.tent(0.0, 0.10),
        eyes_open=np.where(draw.chance(0.06) > 0, np.float32(0.08), draw.tent(0.88, 0.28)),
        gaze_x=draw.tent(0, 0.10),
        gaze_y=draw.tent(0, 0.03),
        glasses_on=draw.chance(0.9),
        sunglasses=draw.chance(0.04),
        mask=draw.chance(0.04),
        mask_colour=draw.palette(
            np.array([[0.7, 0.8, 0.85], [0.3, 0.55, 0.7], [0.02, 0.02, 0.025]]), draw.uniform(0, 1)
        ),
        hat=draw.chance(0.12),
        hat_latitude=draw.uniform(-0.75, -0.50),
        hat_colour=draw.colour(0.01, 0.6),
        object=draw.chance(0.08),
        object_angle=draw.uniform(0, 2 * np.pi),
        object_reach=draw.uniform(0.35, 0.85),
        object_size=draw.uniform(0.18, 0.45),
        object_colour=draw.colour(0.02, 0.6),
        growth=draw.uniform(0.5, 1.0),
        hair_tied=draw.chance(0.45),
        hair_shift=draw.tent(0, 0.12),
        hair_volume=draw.tent(0, 0.10),
        clothes=draw.colour(0.01, 0.7),
        neckline=draw.uniform(0.0, 0.3),
        background=draw.colour(0.0, 1.0),
        background_other=draw.colour(0.0, 1.0),
        background_angle=draw.uniform(0, 2 * np.pi),
        background_waves=draw.uniform(0.5, 7.0),
        background_phase=draw.uniform(0, 2 * np.pi),
    )
    return scene, generators
