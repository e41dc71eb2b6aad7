"""An attentive probe over the frames' features, with the time of a frame as a code.

Source: STEP, "Self-Supervised Temporal Enhanced Probing", arXiv 2503.24298 (frame positional
encoding, a global query, simplified attention over frozen image embeddings); its abstract alone was
read, so the layers are inferred: pre-norm encoder blocks and one pooling attention. Ours: the code
is of the timestamp, and what the attention pools are frame scores, so that each frame's part in the
result can be told.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stages.fit.models.attention import EncoderBlock, TimeEncoding, check_heads, masked_softmax
from stages.fit.models.base import Prediction, register
from stages.fit.models.layers import TwoStreamModel, at_least, shares
from store.schema import EMBEDDING_DIM


@register("transformer")
class AttentiveProbe(TwoStreamModel):
    """Encoder blocks over frames with their time, then learned queries that pool frame scores.

    The width of the blocks is ``channels`` for one stream and twice that for both.

    Parameters
    ----------
    streams : "both", "appearance" or "landmarks"
    channels, heads, layers : int
        Of each stream; of the attention and queries of the pooling; encoder blocks, 0 for none.
    dropout, level, clip_noise, appearance_dropout, landmark_dropout, appearance_dim,
    extra_dim
        As for 2stcn; dropout in the blocks.
    """

    def __init__(
        self,
        streams: str = "both",
        channels: int = 32,
        heads: int = 4,
        layers: int = 2,
        dropout: float = 0.1,
        appearance_dropout: float = 0.5,
        landmark_dropout: float = 0.25,
        level: float = 0.3,
        clip_noise: float = 0.3,
        appearance_dim: int = EMBEDDING_DIM,
        extra_dim: int = 0,
    ) -> None:
        rest = appearance_dropout, landmark_dropout, extra_dim
        super().__init__(streams, channels, appearance_dim, level, clip_noise, *rest)
        check_heads(self.width, heads)
        at_least(layers=(layers, 0))
        shares(dropout=dropout)
        self.time = TimeEncoding(self.width)
        self.blocks = nn.ModuleList(
            EncoderBlock(self.width, heads, 2 * self.width, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(self.width)
        self.look = nn.Linear(self.width, heads)
        self.value = nn.Linear(self.width, heads)
        nn.init.normal_(self.value.weight, std=0.01)  # the first scores lie near 0, the mean label
        nn.init.zeros_(self.value.bias)

    def forward(
        self, appearance: Tensor, landmark: Tensor, mask: Tensor, timestamp: Tensor | None = None
    ) -> Prediction:
        """Score a padded batch, see TemporalModel.forward."""
        x, _ = self.read(appearance, landmark, mask)  # (B, C, T)
        x = x.transpose(1, 2) + self.time(timestamp, mask)  # (B, T, C)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        logit = self.look(x).transpose(1, 2) / math.sqrt(x.shape[2])  # (B, H, T)
        weight = masked_softmax(logit, mask.unsqueeze(1))  # (B, H, T)
        value = self.value(x).transpose(1, 2) * mask.unsqueeze(1)  # (B, H, T)
        won = weight.detach().mean(dim=1)  # (B, T)
        return Prediction(
            score=(weight * value).sum(dim=2).mean(dim=1),  # (B,)
            frame_score=value.mean(dim=1),  # (B, T)
            won=won,
            attention=won * mask.sum(dim=1, keepdim=True).to(torch.float32),
        )
