"""MobileFaceNet: a backbone of about a million parameters, in the layout that public face-recognition weights use.

Source: Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-time Face Verification on Mobile Devices",
arXiv 1804.07573, table 1. Module names follow arcface_torch's state dict: layers.0 .. layers.7, conv_sep, features.
"""

from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn

from tuner.models.precision import prelu, whole_precision


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileFaceNetShape:
    """`width` multiplies the channels between the bottlenecks, not those inside them; `units` are residual ones."""

    width: int
    units: tuple[int, int, int]


SHAPES: Final = {
    # The network of the paper.
    "mobilefacenet": MobileFaceNetShape(width=1, units=(4, 6, 2)),
    # The variant whose weights arcface_torch publishes under the name of mbf.
    "mbf": MobileFaceNetShape(width=2, units=(4, 6, 2)),
}


class ConvUnit(nn.Module):
    """A convolution without bias, BN, and PReLU unless `linear`.

    Shapes: [B, in_channels, H, W] -> [B, channels, H / stride, W / stride], unless `padding` says otherwise.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        padding: int | None = None,
        linear: bool = False,
    ) -> None:
        super().__init__()
        around = (kernel - 1) // 2 if padding is None else padding
        convolution = nn.Conv2d(in_channels, channels, kernel, stride, around, groups=groups, bias=False)
        self.layers = nn.Sequential(convolution, nn.BatchNorm2d(channels))
        if not linear:
            self.layers.append(nn.PReLU(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the unit's output for `x`."""
        for layer in self.layers:
            x = prelu(x, layer.weight) if isinstance(layer, nn.PReLU) else layer(x)
        return x


class Bottleneck(nn.Module):
    """Widen to `inner` channels, filter each of them alone, and narrow without PReLU; `residual` adds the input."""

    def __init__(self, in_channels: int, channels: int, *, inner: int, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.Sequential(
            ConvUnit(in_channels, inner),
            ConvUnit(inner, inner, kernel=3, stride=stride, groups=inner),
            ConvUnit(inner, channels, linear=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the bottleneck's output for `x`."""
        branch: Tensor = self.layers(x)
        return x + branch if self.residual else branch


class Stage(nn.Module):
    """Residual bottlenecks one behind the other."""

    def __init__(self, channels: int, *, inner: int, units: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Bottleneck(channels, channels, inner=inner, residual=True) for _ in range(units)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the stage's output for `x`."""
        result: Tensor = self.layers(x)
        return result


class GlobalEmbedding(nn.Module):
    """A filter over the whole map for each channel ("GDC"), then the embedding and BN, in float32 at least."""

    def __init__(self, channels: int, *, map_size: int, embedding_size: int) -> None:
        super().__init__()
        filters = ConvUnit(channels, channels, kernel=map_size, groups=channels, padding=0, linear=True)
        embedding = nn.Linear(channels, embedding_size, bias=False)
        self.layers = nn.Sequential(filters, nn.Flatten(), embedding, nn.BatchNorm1d(embedding_size))

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings [B, embedding_size] of maps [B, channels, map_size, map_size]."""
        result: Tensor = self.layers(x)
        return result


class MobileFaceNet(nn.Module):
    """A stem, three halvings with residual bottlenecks behind each, and the global filter.

    Shapes: images [B, 3, S, S], S a multiple of 16 -> embeddings [B, embedding_size], not normalised.
    """

    def __init__(self, shape: MobileFaceNetShape, *, image_size: int, embedding_size: int) -> None:
        super().__init__()
        narrow, wide = 64 * shape.width, 128 * shape.width
        self.layers = nn.ModuleList(
            [
                ConvUnit(3, narrow, kernel=3, stride=2),
                ConvUnit(narrow, narrow, kernel=3, groups=64),
                Bottleneck(narrow, narrow, inner=128, stride=2),
                Stage(narrow, inner=128, units=shape.units[0]),
                Bottleneck(narrow, wide, inner=256, stride=2),
                Stage(wide, inner=256, units=shape.units[1]),
                Bottleneck(wide, wide, inner=512, stride=2),
                Stage(wide, inner=256, units=shape.units[2]),
            ]
        )
        self.conv_sep = ConvUnit(wide, 512)
        self.features = GlobalEmbedding(512, map_size=image_size // 16, embedding_size=embedding_size)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings of `images`."""
        x = images
        for layer in self.layers:
            x = layer(x)
        with whole_precision(self.conv_sep(x)) as maps:
            embeddings: Tensor = self.features(maps)
        return embeddings
