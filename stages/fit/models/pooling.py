"""Temporal score fusion: from one score a frame to one score a clip, blind to masked frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

TEMPORAL_FUSIONS = ("last", "affine", "max")


def valid_first(mask: Tensor) -> Tensor:
    """(B, T) bool -> (B, T) indices: the valid frames in their order, then the others."""
    return torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)


def frames_in_order(x: Tensor, order: Tensor) -> Tensor:
    """(B, T, C), order (B, T) indices -> (B, T, C) with the frames in that order."""
    return x.gather(1, order.unsqueeze(2).expand(-1, -1, x.shape[2]))


def equal_shares(mask: Tensor) -> Tensor:
    """(B, T) bool -> (B, T) float32: 1 / n in each of a clip's n valid frames, 0 elsewhere."""
    held = mask.to(torch.float32)
    return held / held.sum(dim=1, keepdim=True).clamp(min=1)


class Pooling(nn.Module, ABC):
    """A temporal fusion, and what each frame had in its result."""

    @abstractmethod
    def shares(self, score: Tensor, mask: Tensor, *weight: Tensor) -> Tensor:
        """Weight of each frame's score in the pooled one, see Prediction.won; as ``forward``.

        (B, T), mask (B, T) bool -> (B, T), 0 outside the mask.
        """

    def with_shares(self, score: Tensor, mask: Tensor, *weight: Tensor) -> tuple[Tensor, Tensor]:
        """Pool, and tell the shares, these without a graph: (B,), (B, T)."""
        pooled: Tensor = self(score, mask, *weight)
        with torch.no_grad():
            return pooled, self.shares(score, mask, *weight)


class MaxPooling(Pooling):
    """The highest score of a valid frame."""

    def forward(self, score: Tensor, mask: Tensor) -> Tensor:
        """(B, T), mask (B, T) bool -> (B,); 0 for a clip without a valid frame."""
        best = score.masked_fill(~mask, float("-inf")).amax(dim=1)  # (B,)
        return torch.where(mask.any(dim=1), best, torch.zeros_like(best))

    def shares(self, score: Tensor, mask: Tensor, *weight: Tensor) -> Tensor:
        """1 in the frame that won, the first of those with the same score."""
        best = score.masked_fill(~mask, float("-inf")).argmax(dim=1, keepdim=True)  # (B, 1)
        return torch.zeros_like(score).scatter_(1, best, 1.0) * mask


class LastPooling(Pooling):
    """The score of the last valid frame, which in a causal network has seen the whole clip."""

    def forward(self, score: Tensor, mask: Tensor) -> Tensor:
        """(B, T), mask (B, T) bool -> (B,); 0 for a clip without a valid frame."""
        chosen = score.gather(1, self._last(mask)).squeeze(1)  # (B,)
        return torch.where(mask.any(dim=1), chosen, torch.zeros_like(chosen))

    def shares(self, score: Tensor, mask: Tensor, *weight: Tensor) -> Tensor:
        """1 in the last valid frame."""
        return torch.zeros_like(score).scatter_(1, self._last(mask), 1.0) * mask

    @staticmethod
    def _last(mask: Tensor) -> Tensor:
        position = torch.arange(mask.shape[1], device=mask.device)  # (T,)
        return (position * mask).amax(dim=1, keepdim=True)  # (B, 1)


class AffinePooling(Pooling):
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
        low, high, part = self._places(count)
        sampled = dense.gather(1, low) * (1 - part) + dense.gather(1, high) * part  # (B, P)
        pooled = sampled @ self.weight + self.bias  # (B,)
        return torch.where(count.squeeze(1) > 0, pooled, torch.zeros_like(pooled))

    def shares(self, score: Tensor, mask: Tensor, *weight: Tensor) -> Tensor:
        """Return what the layer's weights come to on each frame; the bias belongs to none."""
        low, high, part = self._places(mask.sum(dim=1, keepdim=True))
        dense = torch.zeros_like(score)
        dense.scatter_add_(1, low, (1 - part) * self.weight)
        dense.scatter_add_(1, high, part * self.weight)
        return torch.zeros_like(score).scatter_(1, valid_first(mask), dense) * mask

    def _places(self, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 1) frames -> the two neighbours of each point, and how far towards the second."""
        grid = torch.linspace(0.0, 1.0, self.points, device=count.device)  # (P,)
        position = grid * (count - 1).clamp(min=0)  # (B, P)
        low = position.floor().long()  # (B, P)
        high = torch.minimum(low + 1, (count - 1).clamp(min=0))  # (B, P)
        return low, high, position - low


class SoftMaxPooling(Pooling):
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
        log_weight = self._log(weight, mask)  # (B, T)
        total = torch.logsumexp(log_weight, dim=1)  # (B,)
        held = (b * score).masked_fill(~mask, 0.0)
        pooled = (torch.logsumexp(held + log_weight, dim=1) - total) / b  # (B,)
        return torch.where(mask.any(dim=1), pooled, torch.zeros_like(pooled))

    def shares(self, score: Tensor, mask: Tensor, *weight: Tensor) -> Tensor:
        """w_t exp(b s_t) over its sum: the derivative of the pooled score by each frame's."""
        held = (self.log_sharpness.exp() * score).masked_fill(~mask, 0.0)
        return torch.softmax(held + self._log(weight[0], mask), dim=1) * mask

    @staticmethod
    def _log(weight: Tensor, mask: Tensor) -> Tensor:
        # Outside the mask a finite floor, not -inf: without a valid frame that would be NaN.
        floor = torch.finfo(weight.dtype).min / 4
        return weight.clamp(min=1e-12).log().masked_fill(~mask, floor)


def fuse(poolings: Iterable[Any], scores: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of what poolings make of scores (B, T), one each, and of their shares: (B,), (B, T)."""
    pairs = [p.with_shares(s, mask) for p, s in zip(poolings, scores, strict=True)]
    pooled, shares = zip(*pairs, strict=True)
    return torch.stack(pooled).mean(dim=0), torch.stack(shares).mean(dim=0)


def make_pooling(name: str, points: int) -> Pooling:
    """Return the pooling layer of that name: ``last``, ``affine`` or ``max``."""
    if name == "affine":
        return AffinePooling(points)
    return LastPooling() if name == "last" else MaxPooling()
