"""GDLT: learned grades look at the frames, and the clip's grade is their weighted mean.

Source: Xu et al., "Likert Scoring with Grade Decoupling for Long-term Action Assessment", CVPR
2022, repository xuangch/CVPR22_GDLT (models/model.py: two 1x1 convolutions, one encoder and two
decoder layers without a code of position, four queries, one linear output each, sigmoids divided by
their sum, grades at equal steps). Inferred: grades from -2.5 to 2.5 deviations of the label, where
the repository has 0 to 1; layer instead of batch normalisation, which padding would change; no
triplet loss; and the score of a frame, for which the repository has no equation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.fit.models.attention import DecoderBlock, EncoderBlock, check_heads
from stages.fit.models.base import Prediction, register
from stages.fit.models.layers import TwoStreamModel, at_least, shares
from store.schema import EMBEDDING_DIM

SPAN = 2.5


@register("gdlt")
class GradeDecoupled(TwoStreamModel):
    """Grade queries over all frames; the order of the frames cannot be seen.

    Parameters
    ----------
    streams : "both", "appearance" or "landmarks"
    channels : int
        Of each stream after the first projection.
    hidden, heads, grades : int
        Width of the decoder, heads of its attention, and queries.
    encoders, decoders : int
        Blocks.
    dropout, level, clip_noise, appearance_dropout, landmark_dropout, appearance_dim,
    extra_dim
        As for 2stcn; dropout in the blocks.
    """

    grade: Tensor

    def __init__(
        self,
        streams: str = "both",
        channels: int = 32,
        hidden: int = 32,
        heads: int = 4,
        grades: int = 4,
        encoders: int = 1,
        decoders: int = 2,
        dropout: float = 0.3,
        appearance_dropout: float = 0.5,
        landmark_dropout: float = 0.25,
        level: float = 0.3,
        clip_noise: float = 0.3,
        appearance_dim: int = EMBEDDING_DIM,
        extra_dim: int = 0,
    ) -> None:
        rest = appearance_dropout, landmark_dropout, extra_dim
        super().__init__(streams, channels, appearance_dim, level, clip_noise, *rest)
        at_least(hidden=(hidden, 1), grades=(grades, 2), encoders=(encoders, 0))
        at_least(decoders=(decoders, 1))
        check_heads(hidden, heads)
        shares(dropout=dropout)
        inner = 3 * hidden
        self.reduce = nn.Sequential(
            nn.LayerNorm(self.width), nn.ReLU(), nn.Linear(self.width, hidden), nn.LayerNorm(hidden)
        )
        self.encoder = nn.ModuleList(
            EncoderBlock(hidden, heads, inner, dropout) for _ in range(encoders)
        )
        self.decoder = nn.ModuleList(
            DecoderBlock(hidden, heads, inner, dropout) for _ in range(decoders)
        )
        self.queries = nn.Parameter(torch.randn(grades, hidden))
        self.weight = nn.Parameter(torch.randn(grades, hidden) * hidden**-0.5)
        self.bias = nn.Parameter(torch.zeros(grades))
        self.register_buffer("grade", torch.linspace(-SPAN, SPAN, grades), persistent=False)

    def forward(
        self, appearance: Tensor, landmark: Tensor, mask: Tensor, timestamp: Tensor | None = None
    ) -> Prediction:
        """Score a padded batch, see TemporalModel.forward; ``timestamp`` is not read.

        The score of a frame is the mean grade of those that look at it, each by its response times
        the attention it gives the frame.
        """
        x, _ = self.read(appearance, landmark, mask)  # (B, C, T)
        memory = self.reduce(x.transpose(1, 2))  # (B, T, H)
        for block in self.encoder:
            memory = block(memory, mask)
        q = self.queries.expand(len(x), -1, -1)  # (B, G, H)
        weight = torch.empty(0)
        for block in self.decoder:
            q, weight = block(q, memory, mask)  # (B, G, H), (B, G, T)
        response = torch.sigmoid((q * self.weight).sum(dim=2) + self.bias)  # (B, G)
        share = response / response.sum(dim=1, keepdim=True)  # (B, G)
        score = share @ self.grade  # (B,)
        looked = share.unsqueeze(2) * weight  # (B, G, T)
        total = looked.sum(dim=1)  # (B, T)
        frame = torch.einsum("bgt,g->bt", looked, self.grade) / total.clamp(min=1e-12)
        seen = mask.any(dim=1)
        return Prediction(
            score=torch.where(seen, score, torch.zeros_like(score)),
            frame_score=frame * mask,
            won=total.detach() * mask,
            attention=total.detach() * mask.sum(dim=1, keepdim=True),
        )
