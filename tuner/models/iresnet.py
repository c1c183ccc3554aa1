"""IResNet backbones: from an image to an embedding, in the layout that public face-recognition weights use.

Source: Duta et al., "Improved Residual Networks for Image and Video Recognition", arXiv 2004.04989, in the variant of
Deng et al., "ArcFace", arXiv 1801.07698, section 3.1 (units BN-conv-BN-PReLU-conv-BN; BN-FC-BN behind the last one).
Module names follow arcface_torch's state dict: conv1, bn1, prelu, layer1 .. layer4, bn2, fc, features. Its dropout in
front of `fc` holds no state and is 0 in the published recipes; here there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn

from tuner.models.precision import prelu, whole_precision


@dataclass(frozen=True, slots=True, kw_only=True)
class IResNetShape:
    """Channels and number of units of the four stages, and the channels of the stem."""

    stem: int
    widths: tuple[int, int, int, int]
    units: tuple[int, int, int, int]


def _published(*units: int) -> IResNetShape:
    first, second, third, fourth = units
    return IResNetShape(stem=64, widths=(64, 128, 256, 512), units=(first, second, third, fourth))


SHAPES: Final = {
    "iresnet_small": IResNetShape(stem=8, widths=(8, 24, 48, 96), units=(1, 1, 1, 1)),  # for the CPU
    "iresnet18": _published(2, 2, 2, 2),
    "iresnet34": _published(3, 4, 6, 3),
    "iresnet50": _published(3, 4, 14, 3),
    "iresnet100": _published(3, 13, 30, 3),
    "iresnet200": _published(6, 26, 60, 6),
}
"""Shapes by name; the number of layers in a name is the published one (200 stands for 198)."""


class IResNetUnit(nn.Module):
    """One residual unit: `x + BN(conv(PReLU(BN(conv(BN(x))))))`, the second convolution with the stride.

    Shapes: [B, in_channels, H, W] -> [B, channels, H / stride, W / stride]. Where the shape changes, the shortcut is a
    1x1 convolution with BN, of every `stride`-th pixel.
    """

    def __init__(self, in_channels: int, *, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample: nn.Sequential | None = None
        self._stride = stride
        if stride != 1 or in_channels != channels:
            # The stride is taken in `forward`: of a strided 1x1 convolution of few channels, oneDNN writes the weights'
            # gradient past its memory, and the process may die (uxlfoundation/oneDNN#6035; seen with torch 2.14).
            shortcut = nn.Conv2d(in_channels, channels, 1, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the unit's output for `x`."""
        branch: Tensor = self.bn3(self.conv2(prelu(self.bn2(self.conv1(self.bn1(x))), self.prelu.weight)))
        shortcut: Tensor = x if self.downsample is None else self.downsample(x[..., :: self._stride, :: self._stride])
        return branch + shortcut


class IResNet(nn.Module):
    """Four stages of residual units, each halving the image, then BN, FC and BN to the embedding.

    Shapes: images [B, 3, S, S], S a multiple of 16 -> embeddings [B, embedding_size], not normalised. The last BN has
    its weight fixed at 1, so that no single feature can grow without bound.
    """

    def __init__(self, shape: IResNetShape, *, image_size: int, embedding_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, shape.stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(shape.stem)
        self.prelu = nn.PReLU(shape.stem)
        inputs: Sequence[int] = (shape.stem, *shape.widths[:3])
        self.layer1 = _stage(inputs[0], channels=shape.widths[0], units=shape.units[0])
        self.layer2 = _stage(inputs[1], channels=shape.widths[1], units=shape.units[1])
        self.layer3 = _stage(inputs[2], channels=shape.widths[2], units=shape.units[2])
        self.layer4 = _stage(inputs[3], channels=shape.widths[3], units=shape.units[3])
        self.bn2 = nn.BatchNorm2d(shape.widths[3])
        self.fc = nn.Linear(shape.widths[3] * (image_size // 16) ** 2, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        self.features.weight.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings of `images`."""
        x = prelu(self.bn1(self.conv1(images)), self.prelu.weight)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        with whole_precision(self.bn2(x).flatten(1)) as flat:
            embeddings: Tensor = self.features(self.fc(flat))
        return embeddings


def _stage(in_channels: int, *, channels: int, units: int) -> nn.Sequential:
    first = IResNetUnit(in_channels, channels=channels, stride=2)
    return nn.Sequential(first, *(IResNetUnit(channels, channels=channels, stride=1) for _ in range(units - 1)))
