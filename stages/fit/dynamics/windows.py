"""Target frames of a clip and the frames around them."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(places: Tensor, most: int) -> Tensor:
    """At most ``most`` of the places (n,), evenly spaced: (m,)."""
    if len(places) <= most:
        return places
    return places[torch.linspace(0, len(places) - 1, most).round().long()]


def around(places: Tensor, frames: int, reach: int) -> tuple[Tensor, Tensor]:
    """Rows t - T to t + T of targets t.

    (B,) places -> rows (B, 2T + 1), cut to 0..frames - 1, and (B, 2T + 1) bool, those that exist.
    """
    rows = places[:, None] + torch.arange(-reach, reach + 1)
    return rows.clamp(0, frames - 1), (rows >= 0) & (rows < frames)
