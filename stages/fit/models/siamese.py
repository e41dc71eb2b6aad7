"""Siamese: pairs of frames of one clip, and whether something rises or falls between them.

Source: "Siamese-Structure Deep Neural Network Recognizing Changes in Facial Expression According to
the Degree of Smiling", ICPR 2020 (paper 37 of papers.md; its abstract alone was read): one network
for two images of one person, and whether the degree of smile ascends or descends between them.
Inferred: the pairs are frames of one clip, of which only the clip has a label, so that ascent and
descent are learned through what they add to the clip's score, not from labels of pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from stages.fit.models.base import Prediction, register
from stages.fit.models.layers import TwoStreamModel, at_least, score_layer, shares
from stages.fit.models.pooling import equal_shares
from store.schema import EMBEDDING_DIM

LAGS = (1, 5, 25)


@register("siamese")
class SiamesePairs(TwoStreamModel):
    """One network for every frame, pairs of frames compared: how much rises, how much falls.

    Of frames t and t + k (k 1, 5 and 25) the shared network gives f; the pair's ascents are the
    positive part of tanh(f_t+k - f_t), its descents the negative part. A frame's score is linear in
    its own f and in the ascents and descents that start at it, scaled by frames over pairs, so that
    the clip's score, their mean, weighs every pair alike.

    Parameters
    ----------
    streams : "both", "appearance" or "landmarks"
    channels, hidden : int
        Of each projected stream; of f.
    dropout, level, clip_noise, appearance_dropout, landmark_dropout, appearance_dim,
    extra_dim
        As for 2stcn; dropout in the shared network.
    """

    def __init__(
        self,
        streams: str = "both",
        channels: int = 32,
        hidden: int = 16,
        dropout: float = 0.2,
        appearance_dropout: float = 0.5,
        landmark_dropout: float = 0.25,
        level: float = 0.3,
        clip_noise: float = 0.3,
        appearance_dim: int = EMBEDDING_DIM,
        extra_dim: int = 0,
    ) -> None:
        rest = appearance_dropout, landmark_dropout, extra_dim
        super().__init__(streams, channels, appearance_dim, level, clip_noise, *rest)
        at_least(hidden=(hidden, 1))
        shares(dropout=dropout)
        self.shared = nn.Sequential(
            nn.ReLU(), nn.Dropout(dropout), nn.Conv1d(self.width, hidden, 1)
        )
        self.head = score_layer(hidden * (1 + 2 * len(LAGS)))

    def forward(
        self, appearance: Tensor, landmark: Tensor, mask: Tensor, timestamp: Tensor | None = None
    ) -> Prediction:
        """Score a padded batch, see TemporalModel.forward; ``timestamp`` is not read."""
        x, m = self.read(appearance, landmark, mask)  # (B, C, T), (B, 1, T)
        f = self.shared(x) * m  # (B, H, T)
        count = m.sum(dim=2, keepdim=True)  # (B, 1, 1)
        parts = [f]
        for lag in LAGS:
            later, there = (pad(z, (0, lag))[:, :, lag:] for z in (f, m))
            both = m * there  # (B, 1, T)
            change = torch.tanh(later - f) * both  # (B, H, T)
            per_pair = count / both.sum(dim=2, keepdim=True).clamp(min=1)  # (B, 1, 1)
            parts += [torch.relu(change) * per_pair, torch.relu(-change) * per_pair]
        frame_score = self.head(torch.cat(parts, dim=1)).squeeze(1) * mask  # (B, T)
        score = frame_score.sum(dim=1) / count.flatten().clamp(min=1)  # (B,)
        return Prediction(score, frame_score, won=equal_shares(mask))
