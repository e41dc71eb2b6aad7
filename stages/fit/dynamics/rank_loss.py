"""The temporal rank loss of MDR, and the ranking accuracy that it stands for.

Source: Song, Sanchez, Shen and Valstar, "Self-supervised learning of Dynamic Representations for
Static Images", ICPR 2020, slides.

The loss of frame t:

    L = gamma ||d_t||^2 - epsilon
        + sum_{b=t-T}^{t-1} sum_{a=b+1}^{t} max(0, theta - delta_ab)
        + sum_{a=t}^{t+T-1} sum_{b=a+1}^{t+T} max(0, theta - delta_ab)

with delta_ab = S(d_t, V_a) - S(d_t, V_b) and S the inner product. The slides print T for the last
limit, t + T is meant. Of two frames on one side of t the nearer one must score higher; t itself
stands on both sides, so that each has T (T + 1) / 2 pairs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stages.fit.models.base import Description, source_of

Reduction = Literal["mean", "sum"]


SUMMARY = "Self-supervised dynamic representation of a frame; features for the other models."


def describe() -> Description:
    """Return what MDR is, as models.describe does for the networks."""
    return Description("mdr", SUMMARY, source_of(__doc__ or ""))


def sides(window: Tensor) -> Tensor:
    """Put both sides of windows in order of their distance from the middle.

    (B, 2T + 1, ...) frames t - T to t + T -> (B, 2, T + 1, ...): t, t - 1, ... and t, t + 1, ...
    """
    middle = window.shape[1] // 2
    return torch.stack([window[:, : middle + 1].flip(1), window[:, middle:]], dim=1)


def differences(score: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return delta_ab of every pair of one side, a nearer than b, and which pairs there are.

    Parameters
    ----------
    score : (B, 2T + 1) float
        S(d_t, V) of the frames t - T to t + T.
    seen : (B, 2T + 1) bool
        Frames that show the face.

    Returns
    -------
    delta : (B, 2, T + 1, T + 1) float
        Side, place of a, place of b; places are distances from t.
    pair : bool, of the same shape
        True where a is nearer than b and both are seen.
    """
    s, m = sides(score), sides(seen)  # (B, 2, T + 1)
    delta = s.unsqueeze(3) - s.unsqueeze(2)
    there = m.unsqueeze(3) & m.unsqueeze(2)
    return delta, there.triu(1)


def rank_loss(
    d: Tensor,
    window: Tensor,
    seen: Tensor,
    *,
    gamma: float,
    epsilon: float,
    theta: float,
    reduction: Reduction = "mean",
) -> Tensor:
    """L of each of B target frames.

    Parameters
    ----------
    d : (B, K) float
        Dynamic representations d_t.
    window : (B, 2T + 1, K) float
        V of the frames t - T to t + T.
    seen : (B, 2T + 1) bool
        Frames that show the face; pairs with another are left out.
    gamma, epsilon, theta : float
        Weight of the squared norm; the constant, which has no gradient; the margin.
    reduction : "mean" or "sum"
        Of the pairs: ``sum`` as printed; ``mean`` divides by their number, so that gamma means the
        same whatever T is.

    Returns
    -------
    (B,) float
    """
    score = torch.einsum("bk,bwk->bw", d, window)  # (B, 2T + 1)
    delta, pair = differences(score, seen)
    hinge = (torch.relu(theta - delta) * pair).flatten(1).sum(dim=1)  # (B,)
    if reduction == "mean":
        hinge = hinge / pair.flatten(1).sum(dim=1).clamp(min=1)
    return gamma * d.square().sum(dim=1) - epsilon + hinge


def ranked(score: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Count the pairs that are in order, and the pairs, of each target frame.

    Pairs as the slides define them: both frames on one side of t, neither t itself. Equal scores
    count half, so that a constant stands at chance.

    Parameters
    ----------
    score, seen
        (B, 2T + 1), see differences.

    Returns
    -------
    right, pairs : (B,) float
    """
    delta, pair = differences(score, seen)
    delta, pair = delta[:, :, 1:, 1:], pair[:, :, 1:, 1:]
    right = ((delta > 0) + 0.5 * (delta == 0)) * pair
    return right.flatten(1).sum(dim=1), pair.flatten(1).sum(dim=1).to(score.dtype)
