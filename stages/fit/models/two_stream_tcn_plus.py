"""2S-TCN with what was learnt since: soft pooling, frames weighed by quality, and who it is apart.

Source: 2stcn (Weng et al., ICPR 2020) with candidates of papers.md section 6. Ours: log-sum-exp
pooling weighed by a quality for the hard maximum of the slides; a linear path beside the network
that reads the clip's mean features alone, as the ridge does that few networks beat; the rest as in
2stcn. Train it with plcc above 0 for the linear-correlation loss of MDTVSFA.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.fit.models.base import Prediction, register
from stages.fit.models.layers import FrameGate, TwoStreamModel, at_least, score_layer, shares
from stages.fit.models.pooling import SoftMaxPooling
from stages.fit.models.tcn import TemporalConvNet, levels_to_cover
from store.schema import EMBEDDING_DIM, LANDMARK_DIM


@register("2stcn-plus")
class TwoStreamTCNPlus(TwoStreamModel):
    """Two TCNs, decision-level fusion, quality-gated log-sum-exp pooling, and a static path.

    score = (1 / b) log sum_t w_t exp(b s_t) + u, where s_t is the score of a frame, w_t its quality
    divided by the clip's sum, b a learned sharpness (0: the mean, large: the maximum), and u a
    linear function of the clip's mean features, from which ``static_dropout`` hides channels while
    training. The frame score is s_t + u.

    Parameters
    ----------
    sharpness : float
        What b starts at.
    static_dropout : float
        Share of channels hidden from the static path while training.
    channels, kernel_size, levels, max_frames, dropout, appearance_dropout, landmark_dropout, level,
    clip_noise, appearance_dim, extra_dim
        As for 2stcn.
    """

    def __init__(
        self,
        channels: int = 16,
        kernel_size: int = 3,
        levels: int | None = None,
        max_frames: int = 323,
        dropout: float = 0.2,
        appearance_dropout: float = 0.5,
        landmark_dropout: float = 0.25,
        level: float = 0.3,
        clip_noise: float = 0.3,
        sharpness: float = 3.0,
        static_dropout: float = 0.3,
        appearance_dim: int = EMBEDDING_DIM,
        extra_dim: int = 0,
    ) -> None:
        rest = appearance_dropout, landmark_dropout, extra_dim
        super().__init__("both", channels, appearance_dim, level, clip_noise, *rest)
        at_least(
            kernel_size=(kernel_size, 2),
            levels=(1 if levels is None else levels, 1),
            max_frames=(max_frames, 1),
            sharpness=(sharpness, 1e-3),
        )
        shares(dropout=dropout, static_dropout=static_dropout)
        depth = levels_to_cover(max_frames, kernel_size) if levels is None else levels
        self.gate = FrameGate(channels, "sigmoid")
        self.quality = FrameGate(self.width, "sigmoid")
        self.tcn = nn.ModuleList(
            TemporalConvNet(channels, channels, kernel_size, depth, dropout, causal=False)
            for _ in self.project
        )
        self.head = score_layer(self.width)
        self.pool = SoftMaxPooling(sharpness)
        self.hide_channels = nn.Dropout(static_dropout)
        self.static = nn.Linear(appearance_dim + LANDMARK_DIM + extra_dim, 1)
        nn.init.zeros_(self.static.weight)
        nn.init.zeros_(self.static.bias)

    def forward(
        self, appearance: Tensor, landmark: Tensor, mask: Tensor, timestamp: Tensor | None = None
    ) -> Prediction:
        """Score a padded batch, see TemporalModel.forward; ``timestamp`` is not read."""
        frames = mask.unsqueeze(2).to(appearance.dtype)  # (B, T, 1)
        m = frames.transpose(1, 2)  # (B, 1, T)
        x, means = self.projected(appearance, landmark, frames)  # each (B, C, T); each (B, D)
        quality = self.quality(torch.cat(list(x.values()), dim=1), m).squeeze(1)  # (B, T)
        gate = self.gate(x["landmark"], m)  # (B, 1, T)
        x["appearance"] = x["appearance"] * (1 + gate)
        streams = zip(self.tcn, x.values(), strict=True)
        hidden = torch.cat([tcn(z, m) for tcn, z in streams], dim=1)  # (B, width, T)
        score = self.head(hidden).squeeze(1)  # (B, T)
        mean = torch.cat(list(means.values()), dim=1)  # (B, all D)
        who = self.static(self.hide_channels(mean))  # (B, 1)
        frame_score = (score + who) * mask  # (B, T)
        pooled, won = self.pool.with_shares(frame_score, mask, quality)  # (B,), (B, T)
        return Prediction(pooled, frame_score, attention=gate.squeeze(1), won=won)
