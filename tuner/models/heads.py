"""Margin heads: from embeddings and labels to the training loss."""

import math
from typing import Final

import torch
from torch import Tensor, nn

MIN_SCALE: Final = 16.0
"""Smallest scale chosen by itself: below it, a margin keeps even well-separated classes at a high loss."""


def adaptive_scale(num_classes: int) -> float:
    """Return the scale `max(16, sqrt(2) * ln(C - 1))` for C classes.

    The second term is AdaCos' fixed scale (Zhang et al., arXiv 1905.00292, eq. 12).
    """
    return max(MIN_SCALE, math.sqrt(2) * math.log(num_classes - 1)) if num_classes > 2 else MIN_SCALE


def monotone_cos(phi: Tensor) -> Tensor:
    """Return `(-1)^k cos(phi) - 2k` with `k = floor(phi / pi)`: cos on [0, pi], then falling further for phi >= 0.

    A margin can push an angle beyond pi, where cos would rise again and reward the worst embeddings. This extension
    (SphereFace, Liu et al., arXiv 1704.08063, eq. 7) is continuous with a continuous derivative, and never rises.
    """
    k = torch.floor(phi.detach() / math.pi)
    sign = 1 - 2 * torch.remainder(k, 2)
    return sign * torch.cos(phi) - 2 * k


class CombinedMarginHead(nn.Module):
    """Cross-entropy over scaled cosines to the class centres, with a margin on the true class.

    Logits: `s * (cos(m1 * theta + m2) - m3)` for the true class, `s * cos(theta)` for the others, theta the angle
    between embedding and class centre. ArcFace (arXiv 1801.07698, eq. 4) is (1, m2, 0), CosFace (arXiv 1801.09414) is
    (1, 0, m3), SphereFace is (m1, 0, 0).

    1. theta comes from the vectors by `2 * atan2(|x - w|, |x + w|)` (Kahan), not from acos of their dot product: its
       gradient is exact at every angle, so no cosine has to be clamped and no gradient is lost near 0 and pi.
    2. Beyond pi the true class's cosine goes on falling, see `monotone_cos`.
    3. Computed in float32 at least, whatever the backbone's precision or an autocast around it.

    The state is `weight`, the class centres [num_classes, embedding_size], normalised on use.

    Args:
        num_classes: number of training identities, at least 2.
        embedding_size: length of the embeddings.
        m1: factor on the angle, >= 1.
        m2: angle added, in radians, >= 0.
        m3: cosine subtracted, >= 0.
        scale: s > 0; None takes `adaptive_scale(num_classes)`.

    >>> head = CombinedMarginHead(10, embedding_size=4)
    >>> head(torch.ones(2, 4), torch.tensor([3, 7])).shape
    torch.Size([])
    """

    def __init__(
        self,
        num_classes: int,
        *,
        embedding_size: int,
        m1: float = 1.0,
        m2: float = 0.0,
        m3: float = 0.0,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.m1, self.m2, self.m3 = m1, m2, m3
        self.scale = adaptive_scale(num_classes) if scale is None else scale
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss, shape (), of embeddings [B, embedding_size] with labels [B] in 0 .. num_classes - 1."""
        return nn.functional.cross_entropy(self.logits(embeddings, labels), labels)

    def logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the logits [B, num_classes], margin included."""
        dtype = torch.promote_types(torch.promote_types(embeddings.dtype, self.weight.dtype), torch.float32)
        with torch.autocast(embeddings.device.type, enabled=False):
            x = nn.functional.normalize(embeddings.to(dtype))
            w = nn.functional.normalize(self.weight.to(dtype))
            cosines = x @ w.T
            # embedding(), unlike w[labels], adds up the gradients of repeated labels in a fixed order on every device.
            centres = nn.functional.embedding(labels, w)
            theta = 2 * torch.atan2((x - centres).norm(dim=1), (x + centres).norm(dim=1))
            target = monotone_cos(self.m1 * theta + self.m2) - self.m3
            return self.scale * cosines.scatter(1, labels[:, None], target[:, None])
