"""Loss of the 2S-TCN: mean squared error plus a margin ranking loss (papers.md section 4)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

RankForm = Literal["normalised", "printed"]


def margin_ranking_loss(
    p: Tensor,
    g: Tensor,
    delta: float,
    form: RankForm = "normalised",
    adaptive: bool | None = None,
) -> Tensor:
    """Penalise pairs of clips that are predicted in the wrong order, or too close.

    Source: L_r of the 2S-TCN slides,
    ``sum_i sum_{j>i} max((p_i - p_j) sign(g_j - g_i) + delta, 0)``. The ``printed`` form is exactly
    that: it grows with n (n - 1) / 2, and a tied pair adds the constant ``max(delta, 0)``. The
    ``normalised`` form drops tied pairs, divides by the number of the others (so that alpha means
    the same for any batch size), and, being adaptive, asks of a pair no wider margin than the
    labels themselves have: min(delta, |g_i - g_j|).

    Parameters
    ----------
    p, g : (n,) float
        Predictions and labels, in the same units.
    delta : float
        Margin in label units, at least 0.
    form : "normalised" or "printed"
    adaptive : bool, optional
        Whether the margin is min(delta, |g_i - g_j|). Left out: True for ``normalised``, False for
        ``printed``.

    Returns
    -------
    () float
        0 (with a gradient of 0) when there is no pair to compare.
    """
    if form not in ("normalised", "printed"):
        raise ValueError(f"form must be 'normalised' or 'printed', not {form!r}")
    if p.shape != g.shape or p.ndim != 1:
        raise ValueError(f"p and g must both be (n,), not {tuple(p.shape)} and {tuple(g.shape)}")
    if adaptive is None:
        adaptive = form == "normalised"
    i, j = torch.triu_indices(len(p), len(p), offset=1, device=p.device)  # (n (n-1) / 2,) each
    gap = g[j] - g[i]
    if form == "normalised":
        i, j, gap = i[gap != 0], j[gap != 0], gap[gap != 0]
    margin = gap.abs().clamp(max=delta) if adaptive else torch.full_like(gap, delta)
    hinge = torch.relu((p[i] - p[j]) * torch.sign(gap) + margin)  # (pairs,)
    total = hinge.sum()
    return total / max(len(gap), 1) if form == "normalised" else total


def total_loss(
    p: Tensor,
    g: Tensor,
    alpha: float,
    delta: float,
    form: RankForm = "normalised",
    adaptive: bool | None = None,
    plcc: float = 0.0,
) -> Tensor:
    """L = L_m + alpha L_r + plcc L_p, where L_m is the mean squared error. Shapes as above."""
    loss = torch.mean((p - g) ** 2) + alpha * margin_ranking_loss(p, g, delta, form, adaptive)
    return loss + plcc * correlation_loss(p, g) if plcc else loss


def correlation_loss(p: Tensor, g: Tensor) -> Tensor:
    """(1 - r) / 2 with Pearson's r of the batch: (n,), (n,) -> () between 0 and 1.

    Source: the linear-correlation loss of MDTVSFA (repository lidq92/MDTVSFA, VQAloss.py).
    0.5, with a gradient of 0, where one side is constant or there are fewer than 3 pairs: two are
    always in line.
    """
    a, b = p - p.mean(), g - g.mean()
    size = a.norm() * b.norm()
    if len(p) < 3 or not bool(size > 1e-8):
        return 0.5 + 0.0 * p.sum()
    r: Tensor = (a @ b) / size
    return (1 - r) / 2
