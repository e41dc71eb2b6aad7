"""CAM-TCN: landmark trajectories through one small TCN, and a map of which point counted when.

Source: "Interpretable Emotion Classification Using Temporal Convolutional Models" (paper 11 of
papers.md; its abstract alone was read): trajectories of landmarks as a spatio-temporal image, a
convolutional network, class activation maps. The map is that of Zhou et al., "Learning Deep
Features for Discriminative Localization", arXiv 1512.04150: a global average, then a linear layer,
whose terms are the map. Inferred: the convolutions run along time, the same for every point, after
an offset of the point's own; nothing mixes the points, so that each has its own row of the map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.fit.models.base import Prediction, register
from stages.fit.models.gcn import POINTS
from stages.fit.models.layers import TwoStreamModel, at_least, score_layer, shares
from stages.fit.models.pooling import equal_shares
from stages.fit.models.tcn import TemporalConvNet
from store.schema import EMBEDDING_DIM


@register("cam-tcn")
class ActivationMapTCN(TwoStreamModel):
    """One TCN for every landmark, averaged over points and time; appearance is not read.

    Parameters
    ----------
    channels, kernel_size, levels : int
        Of the TCN; few levels, since it runs 68 times.
    dropout, level, clip_noise, appearance_dim
        As for 2stcn.
    """

    def __init__(
        self,
        channels: int = 8,
        kernel_size: int = 3,
        levels: int = 4,
        dropout: float = 0.1,
        level: float = 0.3,
        clip_noise: float = 0.3,
        appearance_dim: int = EMBEDDING_DIM,
    ) -> None:
        super().__init__("landmarks", None, appearance_dim, level, clip_noise)
        at_least(channels=(channels, 1), kernel_size=(kernel_size, 2), levels=(levels, 1))
        shares(dropout=dropout)
        self.lift = nn.Linear(2, channels)
        self.place = nn.Parameter(torch.randn(POINTS, channels) * 0.1)
        self.tcn = TemporalConvNet(channels, channels, kernel_size, levels, dropout, causal=False)
        self.head = score_layer(channels)

    def activation_map(self, landmark: Tensor, mask: Tensor) -> Tensor:
        """Tell what each point adds to the score of each frame.

        (B, T, 136), mask (B, T) bool -> (B, T, 68), 0 outside the mask; the mean over the points is
        the frame's score, whose mean over the valid frames is the clip's.
        """
        b, t = mask.shape
        frames = mask.unsqueeze(2).to(landmark.dtype)  # (B, T, 1)
        x = self.standardise_landmark(landmark, frames).view(b, t, POINTS, 2)
        x = self.lift(x) + self.place  # (B, T, 68, C)
        x = x.permute(0, 2, 3, 1).flatten(0, 1)  # (B 68, C, T)
        m = frames.transpose(1, 2).repeat_interleave(POINTS, dim=0)  # (B 68, 1, T)
        y: Tensor = self.head(self.tcn(x, m))  # (B 68, 1, T)
        return y.view(b, POINTS, t).transpose(1, 2) * frames

    def forward(
        self, appearance: Tensor, landmark: Tensor, mask: Tensor, timestamp: Tensor | None = None
    ) -> Prediction:
        """Score a padded batch, see TemporalModel.forward; ``timestamp`` is not read."""
        frame_score = self.activation_map(landmark, mask).mean(dim=2)  # (B, T)
        count = mask.sum(dim=1).clamp(min=1)  # (B,)
        return Prediction(frame_score.sum(dim=1) / count, frame_score, won=equal_shares(mask))
