"""The store form of MDR: from the features of one frame to one representation for every scale.

Source: Song and others (ICPR 2020), see rank_loss.py. There a U-Net turns a still picture into a
picture; here the still is the vector that the store holds of a frame, and so is d_t. S is the inner
product with psi(V), a fixed projection, as for dynamic images (Bilen and others, CVPR 2016): what
rankings are written in is how frames differ within a clip, not who it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Projection(nn.Module):
    """psi: (..., C) features of frames -> (..., K) in which frames of one clip differ.

    The principal components of frames' deviations from the mean of their clip, every channel in
    units of its own deviation; a deviation has mean square 1 in all K together.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, channels: int, components: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("matrix", torch.zeros(channels, components))

    @torch.no_grad()
    def set(self, mean: Tensor, within: Tensor, covariance: Tensor) -> None:
        """Take the frames' mean (C,), deviations within clips (C,) and covariance within (C, C)."""
        scaled = covariance / within / within[:, None]
        values, vectors = torch.linalg.eigh(scaled)
        kept = self.matrix.shape[1]
        chosen = vectors[:, -kept:].flip(1)  # (C, K), strongest first
        # The sign of an eigenvector is arbitrary: the largest entry is made positive.
        largest = chosen.gather(0, chosen.abs().argmax(dim=0, keepdim=True))
        chosen = chosen * largest.sign()
        total = values[-kept:].clamp(min=0).sum().clamp(min=1e-12)
        self.mean.copy_(mean)
        self.matrix.copy_(chosen / within[:, None] / total.sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., K)."""
        y: Tensor = (x - self.mean) @ self.matrix
        return y


class Scale(nn.Module):
    """One generator: d_t = s psi(v_t) + network(v_t), (B, C) standardised, (B, K) -> (B, K).

    The first term is the still itself, as a U-Net's skip connections hand it on; the network, whose
    last layer starts at 0, learns what to add.
    """

    def __init__(self, channels: int, components: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.skip = nn.Parameter(torch.ones(components))
        last = nn.Linear(hidden, components)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(channels, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            last,
        )

    def forward(self, x: Tensor, still: Tensor) -> Tensor:
        """(B, C), (B, K) -> (B, K)."""
        d: Tensor = self.skip * still + self.network(x)
        return d


class Generator(nn.Module):
    """One generator a window length; their outputs side by side are the MDR.

    Parameters
    ----------
    channels : int
        Of the features of a frame: appearance (or embedding) and landmarks.
    windows : tuple of int
        T of every scale, frames to either side.
    components : int
        K of psi.
    hidden : int
    dropout : float
    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        channels: int,
        windows: tuple[int, ...],
        components: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.windows = windows
        self.psi = Projection(channels, components)
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))
        self.scales = nn.ModuleList(Scale(channels, components, hidden, dropout) for _ in windows)

    def set_statistics(
        self, mean: Tensor, spread: Tensor, within: Tensor, covariance: Tensor
    ) -> None:
        """Take the training frames' mean, deviations over all and within clips, and covariance."""
        self.centre.copy_(mean)
        self.spread.copy_(spread)
        self.psi.set(mean, within, covariance)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) features of frames -> (B, scales, K)."""
        still = self.psi(x)  # (B, K)
        scaled = (x - self.centre) / self.spread  # (B, C)
        return torch.stack([scale(scaled, still) for scale in self.scales], dim=1)
