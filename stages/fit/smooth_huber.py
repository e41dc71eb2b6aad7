"""Losses of a score by HMTNet: Smooth Huber in three forms, and what it was compared with."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import huber_loss, l1_loss, mse_loss, softplus

ScoreLoss = Literal["smooth-huber", "slide", "repository", "mse", "l1", "smooth-l1"]
SCORE_LOSSES: tuple[ScoreLoss, ...] = get_args(ScoreLoss)


def log_cosh(error: Tensor) -> Tensor:
    """log(cosh(e)) of every element, without the overflow of cosh."""
    size = error.abs()
    return size + softplus(-2 * size) - math.log(2)


def score_loss(
    p: Tensor, g: Tensor, form: ScoreLoss = "smooth-huber", delta: float = 0.6
) -> Tensor:
    """Mean loss of predictions: (n,), labels (n,) in the same units -> ().

    Source: slides of HMTNet, "Optimization Object": with e = g - p, log(cosh(e)) where
    ``|e| <= delta`` and ``delta |e| - delta^2 / 2`` otherwise; its Table 4 compares it with MSE, L1
    and Smooth L1. delta is 0.6 in the repository lucasxlu/HMTNet, in points of a 5-point scale.

    ``smooth-huber``: the two pieces made to meet. At ``delta`` the slide's jump, from
    log(cosh(0.6)) = 0.170 to 0.180; here the second piece is lowered by that difference, to
    ``delta (|e| - delta) + log(cosh(delta))``. It is continuous, convex, and has the slope of the
    slide on either side (tanh(delta) to the left of delta, delta to the right).
    ``slide``: as printed, with the jump.
    ``repository``: as its code has it: where ``|e| >= delta`` every element is the mean of all
    ``|e|`` of the batch.
    ``mse``, ``l1``, ``smooth-l1``: Torch's; the last has its corner at 1.

    Raises
    ------
    ValueError
        Another form, or a delta that is not above 0.
    """
    if form not in SCORE_LOSSES:
        raise ValueError(f"form must be one of {', '.join(SCORE_LOSSES)}, not {form!r}")
    if not delta > 0:
        raise ValueError(f"delta must be above 0, not {delta}")
    if form == "mse":
        return mse_loss(p, g)
    if form == "l1":
        return l1_loss(p, g)
    if form == "smooth-l1":
        return huber_loss(p, g)
    size = (g - p).abs()
    if form == "repository":
        return torch.where(size < delta, log_cosh(size), size.mean()).mean()
    if form == "slide":
        beyond = delta * size - delta**2 / 2
    else:
        beyond = delta * (size - delta) + math.log(math.cosh(delta))
    return torch.where(size <= delta, log_cosh(size), beyond).mean()
