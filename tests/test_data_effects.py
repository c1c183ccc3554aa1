"""Effects: what their docstrings say, drawn by (seed, step) alone, and none of them by default."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_data_batches import CPU, digest_of, make
from torch import Tensor

from tuner.config.run import AugmentationConfig, FaceConfig
from tuner.data.batches import Batches
from tuner.data.effects import Effects, brighten, change_contrast, occlude
from tuner.data.faces import FaceSet
from tuner.data.masks import NUM_MASK_SETTINGS, draw_masks, wear_masks
from tuner.errors import UserError
from tuner.training.fingerprint import fingerprint

ALL = Effects(mask=0.5, contrast=0.5, brightness=0.5, occlusion=0.5)
SIZES = st.sampled_from([32, 48, 112])


def noise(num_images: int, *, size: int = 32, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, size=(num_images, size, size, 3), dtype=np.uint8))


def batches_with(effects: Effects, *, seed: int = 0, flip: float = 0.0, crop: float = 0.0) -> Batches:
    images = noise(20).numpy()
    faces = FaceSet(images, np.arange(20) % 4, tuple("abcd"), "digest", "test")
    return Batches(faces, batch_size=16, seed=seed, flip=flip, crop=crop, device=CPU, effects=effects)


def apply(effects: Effects, images: Tensor, *, seed: int = 0) -> Tensor:
    return effects.apply(images, moves=np.zeros((len(images), 2)), seed=seed, step=0)


def pixels(batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the images of a batch as they were before normalisation, int64 [B, H, W, 3]."""
    return ((batch[0].permute(0, 2, 3, 1).double() + 1) * 127.5).round().long()


def test_batches_without_effects_are_what_they_were_before_there_were_any() -> None:
    """Digests of batches from when flip and crop were all there was."""
    assert digest_of(make(9, 4, seed=3), 11) == "905dc495ac6b2c559396ea991191612290f10692eb7df6664ecf44445f630157"
    assert digest_of(make(50, 32), 7) == "e5826d40b6cdc52078dd877582a76058a2faa3d71da0759512e2341e4a6c60fa"


def test_no_effect_is_on_by_default() -> None:
    assert Effects(**AugmentationConfig().model_dump(exclude={"flip", "crop"})) == Effects()
    plain = batches_with(Effects(), flip=0.5, crop=0.1)
    images = noise(16)
    assert torch.equal(apply(Effects(), images.clone()), images)
    # Effects draw nothing from the stream of flips and crops.
    occluded = batches_with(Effects(occlusion=1.0), flip=0.5, crop=0.1)
    same = pixels(plain(5)) == pixels(occluded(5))
    assert 0.7 < same.double().mean() < 1


@given(steps=st.lists(st.integers(0, 60), min_size=2, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_a_batch_does_not_depend_on_the_batches_before(steps: list[int], seed: int) -> None:
    batches = batches_with(ALL, seed=seed, flip=0.5, crop=0.1)
    for step in steps:
        assert torch.equal(batches(step)[0], batches_with(ALL, seed=seed, flip=0.5, crop=0.1)(step)[0])


def test_the_stored_images_stay_as_they_are() -> None:
    batches = batches_with(ALL)
    for step in range(5):
        batches(step)
    assert np.array_equal(batches._faces.images, noise(20).numpy())


@pytest.mark.parametrize("name", ["mask", "contrast", "brightness", "occlusion"])
def test_switching_an_effect_on_leaves_the_others_as_they_were(name: str) -> None:
    """Where an image is not chosen for an effect, it is as it would be without."""
    others = {other: 0.5 for other in ("mask", "contrast", "brightness", "occlusion") if other != name}
    without, both = Effects(**others), Effects(**others, **{name: 0.5})  # type: ignore[arg-type]
    same = 0
    for step in range(4):
        before, after = batches_with(without)(step)[0], batches_with(both)(step)[0]
        same += sum(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert 12 < same < 52  # of 64, about half


@pytest.mark.parametrize("name", ["mask", "contrast", "brightness", "occlusion"])
def test_a_probability_is_how_often(name: str) -> None:
    stored = noise(64, seed=5)
    for probability, low, high in ((1.0, 60, 64), (0.25, 5, 30)):  # a factor of nearly 1 changes nothing
        effects = Effects(**{name: probability})
        changed = apply(effects, stored.clone(), seed=1)
        assert low <= int((changed != stored).flatten(1).any(1).sum()) <= high


@given(change=st.floats(0.01, 0.99), seed=st.integers(0, 2**40))
@settings(max_examples=30, deadline=None)
def test_brightness_is_a_gain_within_its_range(change: float, seed: int) -> None:
    images = torch.full((40, 8, 8, 3), 100, dtype=torch.uint8)
    changed = apply(Effects(brightness=1.0, brightness_change=change), images, seed=seed)
    assert changed.flatten(1).float().std(1).max() == 0  # one gain an image
    gains = changed[:, 0, 0, 0].float() / 100
    assert gains.min() >= 1 - change - 0.0051
    assert gains.max() <= 1 + change + 0.0051
    assert gains.max() - gains.min() > change


@given(change=st.floats(0.1, 0.9), seed=st.integers(0, 2**40))
@settings(max_examples=30, deadline=None)
def test_contrast_scales_about_the_mean(change: float, seed: int) -> None:
    images = 128 + torch.tensor([-40, 40], dtype=torch.int64).repeat(96).reshape(1, 8, 8, 3).repeat(40, 1, 1, 1)
    changed = apply(Effects(contrast=1.0, contrast_change=change), images.to(torch.uint8), seed=seed)
    assert (changed.double().mean(dim=(1, 2, 3)) - 128).abs().max() <= 0.5
    factors = (changed.flatten(1).max(1).values.float() - changed.flatten(1).min(1).values.float()) / 80
    assert factors.min() >= 1 - change - 0.013
    assert factors.max() <= 1 + change + 0.013


def test_light_is_rounded_and_clipped() -> None:
    images = torch.tensor([0, 3, 100, 200, 255], dtype=torch.uint8)[:, None].repeat(1, 3).reshape(1, 1, 5, 3)
    ones, halves, doubles = (torch.full((1, 1), value) for value in (1.0, 0.5, 2.0))
    assert torch.equal(brighten(images, ones), images)
    assert torch.equal(change_contrast(images, ones), images)
    assert brighten(images, halves)[0, 0, :, 0].tolist() == [0, 2, 50, 100, 128]
    assert brighten(images, doubles)[0, 0, :, 0].tolist() == [0, 6, 200, 255, 255]
    assert change_contrast(images, doubles)[0, 0, :, 0].tolist() == [0, 0, 88, 255, 255]  # mean 111.6


@given(area=st.floats(0.05, 0.5), seed=st.integers(0, 2**40), size=SIZES)
@settings(max_examples=30, deadline=None)
def test_an_occlusion_is_one_rectangle_of_one_colour_and_takes_its_share(area: float, seed: int, size: int) -> None:
    images = torch.zeros((30, size, size, 3), dtype=torch.uint8)
    changed = apply(Effects(occlusion=1.0, occlusion_area=area), images, seed=seed)
    for image in changed:
        inside = (image != 0).any(2)
        if not inside.any():
            continue  # a black one
        rows, columns = inside.any(1), inside.any(0)
        assert torch.equal(inside, rows[:, None] & columns)
        assert len(image[inside].unique(dim=0)) == 1
        height, width = int(rows.sum()), int(columns.sum())
        assert int(rows.nonzero().max() - rows.nonzero().min()) == height - 1
        assert int(columns.nonzero().max() - columns.nonzero().min()) == width - 1
        # A side is its length to within one pixel.
        assert (height + 1) * (width + 1) / size**2 > 0.1 * area
        assert (height - 1) * (width - 1) / size**2 < area
        assert (height - 1) < 2 * (width + 1)
        assert (width - 1) < 2 * (height + 1)


def test_occlusions_reach_every_place() -> None:
    images = torch.zeros((2000, 8, 8, 3), dtype=torch.uint8)
    changed = apply(Effects(occlusion=1.0, occlusion_area=0.5), images, seed=0)
    assert (changed != 0).any(3).any(0).all()


def test_a_box_is_filled_with_its_colour() -> None:
    box = torch.tensor([[0.25, 0.5, 0.5, 0.25, 10.0, 20.0, 30.0]])
    filled = occlude(torch.zeros((1, 8, 8, 3), dtype=torch.uint8), box)[0]
    expected = torch.zeros((8, 8, 3), dtype=torch.uint8)
    expected[2:6, 4:6] = torch.tensor([10, 20, 30], dtype=torch.uint8)
    assert torch.equal(filled, expected)


@given(seed=st.integers(0, 2**40), size=SIZES)
@settings(max_examples=30, deadline=None)
def test_a_mask_covers_the_mouth_and_leaves_the_upper_face(seed: int, size: int) -> None:
    masks = torch.from_numpy(draw_masks(np.random.default_rng(seed), 12))
    # Whatever shines through differs between the two.
    dark, light = torch.zeros((12, size, size, 3), dtype=torch.uint8), torch.full((12, size, size, 3), 255).byte()
    on_dark, on_light = wear_masks(dark, masks), wear_masks(light, masks)
    covered = (on_dark == on_light).all(3)
    touched = (on_dark != dark).any(3) | (on_light != light).any(3)
    assert not touched[:, : size // 2].any()
    assert covered[:, round(0.74 * size) : round(0.9 * size), round(size / 3) : round(2 * size / 3)].all()
    assert 0.18 < covered.double().mean() < 0.45


def test_masks_are_the_same_shape_at_every_size() -> None:
    masks = torch.from_numpy(draw_masks(np.random.default_rng(3), 8))
    grey = torch.full((8, 1, 1, 3), 100, dtype=torch.uint8)
    small, large = (wear_masks(grey.expand(8, size, size, 3), masks).float() for size in (56, 224))
    shrunk = torch.nn.functional.avg_pool2d(large.permute(0, 3, 1, 2), 4).permute(0, 2, 3, 1)
    assert (small - shrunk).abs().mean() < 2


def test_masks_differ_and_are_drawn_by_the_generator_alone() -> None:
    masks = draw_masks(np.random.default_rng(7), 50)
    assert masks.shape == (50, NUM_MASK_SETTINGS)
    assert np.array_equal(masks, draw_masks(np.random.default_rng(7), 50))
    assert (np.ptp(masks, axis=0) > 0).all()
    assert masks[:, 6:].min() >= 0
    assert masks[:, 6:].max() <= 255
    images = noise(50)
    before = images.clone()
    worn = wear_masks(images, torch.from_numpy(masks))
    assert torch.equal(images, before)
    assert worn.dtype == torch.uint8
    assert len(worn.flatten(1).unique(dim=0)) == 50


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_mask_moves_with_the_face(flip: float) -> None:
    """A face that is black but for a white line down its middle and one across its forehead shows where it is."""
    size = 40
    images = np.zeros((1, size, size, 3), dtype=np.uint8)
    images[:, :, size // 2 - 1 : size // 2 + 1] = images[:, 12] = 255
    faces = FaceSet(images, np.zeros(1, dtype=np.int64), ("a",), "digest", "test")

    def batch(effects: Effects) -> Tensor:
        batches = Batches(faces, batch_size=200, seed=0, flip=flip, crop=0.25, device=CPU, effects=effects)
        return pixels(batches(0))

    heights = set()
    for bare, worn in zip(batch(Effects()), batch(Effects(mask=1.0)), strict=True):
        forehead = int((bare[:, :, 0] == 255).all(1).nonzero())
        middle = float((bare[:, :, 0] == 255).all(0).nonzero().float().mean())
        nose, changed = round(middle), (bare != worn).any(2)
        assert not changed[: forehead + 8].any()
        top = int(changed[:, nose].nonzero().min()) - forehead
        heights.add(top)
        below = changed[forehead + 8 :].any(0).nonzero().float()
        left, right = float(below.min()), float(below.max())
        assert left == 0 or right == size - 1 or abs((left + right) / 2 - middle) < 2
    assert max(heights) - min(heights) <= 4


BAD: list[tuple[str, Any]] = [
    *((name, value) for name in ("mask", "contrast", "brightness", "occlusion") for value in (-0.1, 1.1, float("nan"))),
    *((name, value) for name in ("contrast_change", "brightness_change") for value in (0.0, 1.0)),
    ("occlusion_area", 0.0),
    ("occlusion_area", 0.51),
]


@pytest.mark.parametrize(("setting", "value"), BAD)
def test_settings_out_of_range_are_named(setting: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"`.*{setting}.*` must hold, but got"):
        Effects(**{setting: value})
    with pytest.raises(ValidationError, match=setting):
        AugmentationConfig(**{setting: value})


def test_effects_tell_runs_apart_and_the_cache_does_not() -> None:
    def mark(**settings: Any) -> dict[str, Any]:
        config = FaceConfig.model_validate(settings)
        return fingerprint(config, seed=0, train="a", verification="b", device=CPU)

    assert mark() == mark(data={"cache": "disk"}) == mark(data={"cache": "device"})
    assert mark() != mark(augmentation={"mask": 0.1})
    assert mark(augmentation={"occlusion": 0.1}) != mark(augmentation={"occlusion": 0.1, "occlusion_area": 0.1})
