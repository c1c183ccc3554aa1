"""Log-sum-exp over the wrong classes, some classes at a time, so that no logits of all classes are ever held."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class WrongClasses(torch.autograd.Function):
    """From unit embeddings and class centres to `log sum_{j != label} exp(s * cos_j)`, and the rows of the labels.

    Logits are computed twice, in the forward and again in the backward pass, which costs a fourth matrix product beside
    three. Beyond inputs and gradients, memory is that of one chunk: its logits [B, chunk] and its centres
    [chunk, embedding_size], a few times over. The rows are returned from here, so that the gradient of all centres is
    one tensor and not the sum of two.

    Args (of `apply`):
        x: unit embeddings [B, D].
        weight: centres [C, D], not normalised.
        labels: int64 [B].
        scale: s.
        filter_threshold: cosines above it count as 0; None filters nothing.
        chunk: classes at a time.

    Returns:
        The log-sum-exp [B] and the labels' centres [B, D], both in the precision of x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        labels: Tensor,
        scale: float,
        filter_threshold: float | None,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        """Return log-sum-exp and rows."""
        total = x.new_full((len(x),), -torch.inf)
        for start in range(0, len(weight), chunk):
            rows = weight[start : start + chunk].to(x.dtype)
            logits, _ = _logits(x, torch.nn.functional.normalize(rows), labels - start, scale, filter_threshold)
            total = torch.logaddexp(total, logits.logsumexp(1))
        ctx.save_for_backward(x, weight, labels, total)
        ctx.settings = scale, filter_threshold, chunk
        return total, weight[labels].to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and of weight."""
        of_total, of_rows = gradients
        x, weight, labels, total = ctx.saved_tensors
        scale, filter_threshold, chunk = ctx.settings
        of_x, of_weight = torch.zeros_like(x), torch.empty_like(weight)
        # Whoever calls backward inside an autocast gets exact gradients all the same.
        with torch.autocast(x.device.type, enabled=False):
            for start in range(0, len(weight), chunk):
                rows = weight[start : start + chunk].to(x.dtype)
                norms = rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
                w = rows / norms
                logits, filtered = _logits(x, w, labels - start, scale, filter_threshold)
                of_cosines = logits.sub_(total[:, None]).exp_().mul_(scale * of_total[:, None])
                if filtered is not None:
                    of_cosines.masked_fill_(filtered, 0)
                of_x.addmm_(of_cosines, w)
                of_w = of_cosines.T @ x
                # Along the centre itself nothing changes: only its direction counts.
                of_w.sub_(w * (w * of_w).sum(1, keepdim=True)).div_(norms)
                of_weight[start : start + chunk] = of_w
            of_weight.index_add_(0, labels, of_rows.to(weight.dtype))
        return of_x, of_weight, None, None, None, None


def chunked_wrong_classes(
    x: Tensor, weight: Tensor, labels: Tensor, *, scale: float, filter_threshold: float | None, chunk: int
) -> tuple[Tensor, Tensor]:
    """Return `WrongClasses.apply` of these."""
    total, rows = WrongClasses.apply(x, weight, labels, scale, filter_threshold, chunk)
    return total, rows


def _logits(
    x: Tensor, w: Tensor, places: Tensor, scale: float, filter_threshold: float | None
) -> tuple[Tensor, Tensor | None]:
    """Return the chunk's logits, -inf for the true class (at `places`, where inside), and which were filtered."""
    cosines = x @ w.T
    filtered = None if filter_threshold is None else cosines > filter_threshold
    if filtered is not None:
        cosines.masked_fill_(filtered, 0)
    logits = cosines.mul_(scale)
    inside = (places >= 0) & (places < len(w))
    # Rows whose true class is elsewhere put back what their first logit is: no shape depends on the data.
    at = torch.where(inside, places, 0)[:, None]
    logits.scatter_(1, at, logits.gather(1, at).masked_fill(inside[:, None], -torch.inf))
    return logits, filtered
