"""The backbone: shapes, the public state-dict layout, and what it refuses."""

import pytest
import torch
from torch import nn

from tuner.errors import UserError
from tuner.models.iresnet import IResNet, IResNetShape, build_backbone, prelu


@pytest.mark.parametrize("image_size", [32, 48, 112])
def test_maps_images_to_embeddings(image_size: int) -> None:
    backbone = build_backbone("iresnet_small", image_size=image_size, embedding_size=64)
    assert backbone(torch.randn(2, 3, image_size, image_size)).shape == (2, 64)


def test_state_dict_has_the_public_layout() -> None:
    """The names and order that arcface_torch's backbone weights use, for two units in the last stage."""
    shape = IResNetShape(stem=8, widths=(8, 8, 8, 16), units=(1, 1, 1, 2))
    names = [
        name
        for name in IResNet(shape, image_size=32, embedding_size=4).state_dict()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked", "bias"))
        and name.startswith(("layer4", "conv", "bn", "prelu", "fc", "features"))
    ]
    first = ["bn1", "conv1", "bn2", "prelu", "conv2", "bn3", "downsample.0", "downsample.1"]
    units = [f"layer4.0.{part}" for part in first] + [f"layer4.1.{part}" for part in first[:6]]
    assert names == [f"{name}.weight" for name in ("conv1", "bn1", "prelu", *units, "bn2", "fc", "features")]


def test_published_parameter_count_of_the_18_layer_shape() -> None:
    """24.0 million parameters for the 18-layer network at 112 x 112 and 512 features."""
    shape = IResNetShape(stem=64, widths=(64, 128, 256, 512), units=(2, 2, 2, 2))
    with torch.device("meta"):
        backbone = IResNet(shape, image_size=112, embedding_size=512)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == pytest.approx(24.0e6, rel=0.003)


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


def test_refuses_what_it_cannot_build() -> None:
    with pytest.raises(UserError, match=r"backbone must be one of .*iresnet_small.*, but got 'resnet'"):
        build_backbone("resnet", image_size=32, embedding_size=8)
    with pytest.raises(UserError, match="multiple of 16, but got 50; 48 is the nearest"):
        build_backbone("iresnet_small", image_size=50, embedding_size=8)
