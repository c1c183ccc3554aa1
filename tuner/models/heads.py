"""Margin heads: from embeddings and labels to the training loss."""

import math
from typing import Final

import torch
from torch import Tensor, nn

from tuner.models.class_chunks import chunked_wrong_classes

AUTO_CHUNK_FROM: Final = 131_072
"""Number of classes from which they are scored in chunks where nothing is said about it."""

AUTO_CHUNK: Final = 16_384
"""Classes at a time then: products large enough to be fast, memory small beside that of the centres."""

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
    4. With a `filter_threshold`, wrong classes of a larger cosine count as if at 90 degrees, without a gradient: they
       may be the same person under another label. This is InsightFace's inter-class filtering.

    The state is `weight`, the class centres [num_classes, embedding_size], normalised on use.

    Memory, for C classes, embeddings of D, a batch of B, 4 bytes a number: the centres, their gradient and the
    optimizer's momentum take 3 C D. On top of that a step needs 4 C D for all classes at once (C D + 4 B C where that
    is more), or 3 K D + 4 B K for K at a time. For 617,970 identities, D = 512, B = 128, K = 16,384 that is 3.8 GB, and
    5.1 GB or 0.13 GB on top. `benchmarks/head_memory.py` measures it; `PartialFC` needs less still.

    Args:
        num_classes: number of training identities, at least 2.
        embedding_size: length of the embeddings.
        m1: factor on the angle, >= 1.
        m2: angle added, in radians, >= 0.
        m3: cosine subtracted, >= 0.
        scale: s > 0; None takes `adaptive_scale(num_classes)`.
        filter_threshold: cosine in (0, 1) above which wrong classes are left out; None leaves out none.
        chunk: number of classes scored at a time, at least 1; None takes all below 131,072 classes, else 16,384.

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
        filter_threshold: float | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.m1, self.m2, self.m3 = m1, m2, m3
        self.filter_threshold, self.chunk = filter_threshold, chunk
        self.scale = adaptive_scale(num_classes) if scale is None else scale
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss, shape (), of embeddings [B, embedding_size] with labels [B] in 0 .. num_classes - 1."""
        num_classes = len(self.weight)
        chunk = self.chunk or (num_classes if num_classes < AUTO_CHUNK_FROM else AUTO_CHUNK)
        if chunk < num_classes:
            return self._loss_in_chunks(embeddings, labels, chunk)
        return nn.functional.cross_entropy(self.logits(embeddings, labels), labels)

    def logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the logits [B, num_classes], margin included."""
        with torch.autocast(embeddings.device.type, enabled=False):
            x = self._unit(embeddings)
            w = nn.functional.normalize(self.weight.to(x.dtype))
            cosines = x @ w.T
            # embedding(), unlike w[labels], adds up the gradients of repeated labels in a fixed order on every device.
            centres = nn.functional.embedding(labels, w)
            if self.filter_threshold is not None:
                cosines = cosines.masked_fill(cosines > self.filter_threshold, 0)
            return self.scale * cosines.scatter(1, labels[:, None], self._target(x, centres)[:, None])

    def _loss_in_chunks(self, embeddings: Tensor, labels: Tensor, chunk: int) -> Tensor:
        with torch.autocast(embeddings.device.type, enabled=False):
            x = self._unit(embeddings)
            wrong, rows = chunked_wrong_classes(
                x, self.weight, labels, scale=self.scale, filter_threshold=self.filter_threshold, chunk=chunk
            )
            target = self.scale * self._target(x, nn.functional.normalize(rows))
            # log(exp(target) + exp(wrong)) - target
            return nn.functional.softplus(wrong - target).mean()

    def _unit(self, embeddings: Tensor) -> Tensor:
        dtype = torch.promote_types(torch.promote_types(embeddings.dtype, self.weight.dtype), torch.float32)
        return nn.functional.normalize(embeddings.to(dtype))

    def _target(self, x: Tensor, centres: Tensor) -> Tensor:
        """Return the true classes' cosines with their margin, [B], from unit embeddings and centres."""
        theta = 2 * torch.atan2((x - centres).norm(dim=1), (x + centres).norm(dim=1))
        return monotone_cos(self.m1 * theta + self.m2) - self.m3
