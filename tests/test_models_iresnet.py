"""The backbone: shapes, the public state-dict layout, and what it refuses."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from tuner.models.backbones import build_backbone
from tuner.models.iresnet import IResNet, IResNetShape, IResNetUnit
from tuner.models.precision import prelu


@pytest.mark.parametrize("image_size", [32, 48, 112])
def test_maps_images_to_embeddings(image_size: int) -> None:
    backbone = build_backbone("iresnet_small", image_size=image_size, embedding_size=64)
    assert backbone(torch.randn(2, 3, image_size, image_size)).shape == (2, 64)


@pytest.mark.parametrize("image_size", [32, 48, 64, 112])
def test_the_shortcut_of_few_channels_has_the_right_gradient(image_size: int) -> None:
    """As a strided convolution its gradient would be written past its memory on some processors (oneDNN 3.12)."""
    torch.manual_seed(0)
    single = IResNetUnit(8, channels=8, stride=2)
    double = deepcopy(single).double()
    images = torch.randn(32, 8, image_size, image_size)
    weights = torch.randn(32, 8, image_size // 2, image_size // 2)
    single.to(memory_format=torch.channels_last)
    for _ in range(30):
        single.zero_grad()
        (single(images.contiguous(memory_format=torch.channels_last)) * weights).sum().backward()
    (double(images.double()) * weights).sum().backward()
    ours, right = (dict(unit.named_parameters())["downsample.0.weight"].grad for unit in (single, double))
    assert ours is not None
    assert right is not None
    torch.testing.assert_close(ours.double(), right, rtol=0, atol=1e-3 * float(right.abs().max()))


def test_the_shortcut_is_a_strided_convolution() -> None:
    torch.manual_seed(0)
    unit = IResNetUnit(4, channels=6, stride=2).double().eval()
    assert unit.downsample is not None
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    convolution, norm = unit.downsample
    branch = unit.bn3(unit.conv2(prelu(unit.bn2(unit.conv1(unit.bn1(x))), unit.prelu.weight)))
    expected = branch + norm(nn.functional.conv2d(x, convolution.weight, stride=2))
    torch.testing.assert_close(unit(x), expected)


def batch_norm(name: str) -> list[str]:
    return [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]


def public_names(units: tuple[int, ...]) -> list[str]:
    """Return the names of arcface_torch's IResNet state dict, by hand."""
    names = ["conv1.weight", *batch_norm("bn1"), "prelu.weight"]
    for layer, count in enumerate(units, start=1):
        for unit in range(count):
            at = f"layer{layer}.{unit}"
            names += [*batch_norm(f"{at}.bn1"), f"{at}.conv1.weight", *batch_norm(f"{at}.bn2"), f"{at}.prelu.weight"]
            names += [f"{at}.conv2.weight", *batch_norm(f"{at}.bn3")]
            if unit == 0:
                names += [f"{at}.downsample.0.weight", *batch_norm(f"{at}.downsample.1")]
    return [*names, *batch_norm("bn2"), "fc.weight", "fc.bias", *batch_norm("features")]


PUBLISHED = {
    "iresnet18": ((2, 2, 2, 2), 24_025_600),
    "iresnet34": ((3, 4, 6, 3), 34_139_328),
    "iresnet50": ((3, 4, 14, 3), 43_590_848),
    "iresnet100": ((3, 13, 30, 3), 65_156_160),
    "iresnet200": ((6, 26, 60, 6), 118_833_920),
}
"""Units, and parameters at 112 x 112 and 512 features: 24.03, 34.14, 43.59, 65.16 and 118.83 million."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_and_state_dict_layout(name: str) -> None:
    units, count = PUBLISHED[name]
    with torch.device("meta"):
        backbone = build_backbone(name, image_size=112, embedding_size=512)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == count
    state = backbone.state_dict()
    assert list(state) == public_names(units)
    assert state["layer3.0.conv1.weight"].shape == (256, 128, 3, 3)
    assert state["fc.weight"].shape == (512, 512 * 7 * 7)


def test_other_shapes_have_the_layout_too() -> None:
    shape = IResNetShape(stem=8, widths=(8, 8, 8, 16), units=(1, 1, 1, 2))
    assert list(IResNet(shape, image_size=32, embedding_size=4).state_dict()) == public_names(shape.units)


def test_last_normalisation_keeps_its_weight() -> None:
    backbone = build_backbone("iresnet_small", image_size=32, embedding_size=8)
    frozen = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert frozen == ["features.weight"]


def test_prelu_equals_torch_and_has_its_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([0.25, 0.0, -0.3, 0.8], dtype=torch.float64, requires_grad=True)
    expected = nn.functional.prelu(x, weight)
    torch.testing.assert_close(prelu(x, weight), expected)
    gradient = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(prelu(x, weight), (x, weight), gradient),
        torch.autograd.grad(expected, (x, weight), gradient),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
