"""Temporal score fusion: from one score a frame to one score a clip, blind to masked frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TEMPORAL_FUSIONS = ("last", "affine", "max")


def valid_first(mask: Tensor) -> Tensor:
    """(B, T) bool -> (B, T) indices: the valid frames in their order, then the others."""
    return torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)


def frames_in_order(x: Tensor, order: Tensor) -> Tensor:
    """(B, T, C), order (B, T) indices -> (B, T, C) with the frames in that order."""
    return x.gather(1, order.unsqueeze(2).expand(-1, -1, x.shape[2]))


class MaxPooling(nn.Module):
    """The highest score of a valid frame."""

    def forward(self, score: Tensor, mask: Tensor) -> Tensor:
        """(B, T), mask (B, T) bool -> (B,); 0 for a clip without a valid frame."""
        best = score.masked_fill(~mask, float("-inf")).amax(dim=1)  # (B,)
        return torch.where(mask.any(dim=1), best, torch.zeros_like(best))


class LastPooling(nn.Module):
    """The score of the last valid frame, which in a causal network has seen the whole clip."""

    def forward(self, score: Tensor, mask: Tensor) -> Tensor:
        """(B, T), mask (B, T) bool -> (B,); 0 for a clip without a valid frame."""
        position = torch.arange(mask.shape[1], device=mask.device)  # (T,)
        last = (position * mask).amax(dim=1, keepdim=True)  # (B, 1)
        chosen = score.gather(1, last).squeeze(1)  # (B,)
        return torch.where(mask.any(dim=1), chosen, torch.zeros_like(chosen))


class AffinePooling(nn.Module):
    """A learned affine function of the clip's scores, whatever its length.

    An affine (fully connected) layer needs a fixed number of inputs and clips have any number of
    frames; how the paper met that is not stated. Ours: the scores of the valid frames, in order,
    are interpolated linearly at ``points`` equally spaced positions from the first to the last of
    them, and the fully connected layer reads those. It starts as their mean.
    """

    def __init__(self, points: int = 32) -> None:
        super().__init__()
        self.points = points
        self.weight = nn.Parameter(torch.full((points,), 1.0 / points))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, score: Tensor, mask: Tensor) -> Tensor:
        """(B, T), mask (B, T) bool -> (B,); 0 for a clip without a valid frame."""
        dense = score.gather(1, valid_first(mask))  # (B, T)
        count = mask.sum(dim=1, keepdim=True)  # (B, 1)
        grid = torch.linspace(0.0, 1.0, self.points, device=score.device)  # (P,)
        position = grid * (count - 1).clamp(min=0)  # (B, P)
        low = position.floor().long()  # (B, P)
        high = torch.minimum(low + 1, (count - 1).clamp(min=0))  # (B, P)
        part = position - low
        sampled = dense.gather(1, low) * (1 - part) + dense.gather(1, high) * part  # (B, P)
        pooled = sampled @ self.weight + self.bias  # (B,)
        return torch.where(count.squeeze(1) > 0, pooled, torch.zeros_like(pooled))


class SoftMaxPooling(nn.Module):
    """A weighted mean that leans to the high scores: (1 / b) log sum_t w_t exp(b s_t).

    ``w`` sums to 1 over a clip, whatever its length; b is learned, stays above 0 and starts at
    ``sharpness``: towards 0 it is the mean, from above it comes to the maximum.
    """

    def __init__(self, sharpness: float) -> None:
        super().__init__()
        self.log_sharpness = nn.Parameter(torch.tensor(float(sharpness)).log())

    def forward(self, score: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        """(B, T), mask (B, T) bool, weight (B, T) above 0 -> (B,); 0 without a valid frame."""
        b = self.log_sharpness.exp()
        # Outside the mask a finite floor, not -inf: without a valid frame that would be NaN.
        floor = torch.finfo(score.dtype).min / 4
        log_weight = weight.clamp(min=1e-12).log().masked_fill(~mask, floor)  # (B, T)
        total = torch.logsumexp(log_weight, dim=1)  # (B,)
        held = (b * score).masked_fill(~mask, 0.0)
        pooled = (torch.logsumexp(held + log_weight, dim=1) - total) / b  # (B,)
        return torch.where(mask.any(dim=1), pooled, torch.zeros_like(pooled))


def make_pooling(name: str, points: int) -> nn.Module:
    """Return the pooling layer of that name: ``last``, ``affine`` or ``max``."""
    if name == "affine":
        return AffinePooling(points)
    return LastPooling() if name == "last" else MaxPooling()
