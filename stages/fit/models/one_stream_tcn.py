"""TCN: one stream, one temporal convolutional network, one score a frame.

Source: Bai, Kolter and Koltun, "An Empirical Evaluation of Generic Convolutional and Recurrent
Networks for Sequence Modeling", arXiv 1803.01271, repository locuslab/TCN; with one stream and max
pooling it is the single-stream row of the 2S-TCN slides' ablation. Standardisation, the centred
variant and the temporal fusion are those of 2stcn here.
"""

from __future__ import annotations

from torch import Tensor

from stages.fit.models.base import Prediction, choose, register
from stages.fit.models.layers import TwoStreamModel, at_least, score_layer, shares
from stages.fit.models.pooling import TEMPORAL_FUSIONS, make_pooling
from stages.fit.models.tcn import TemporalConvNet, levels_to_cover
from store.schema import EMBEDDING_DIM


@register("tcn")
class OneStreamTCN(TwoStreamModel):
    """A temporal convolutional network on one stream: what the other stream adds is the question.

    Parameters
    ----------
    stream : "landmarks" or "appearance"
    temporal_fusion : "last", "affine" or "max"
    channels, kernel_size, levels, max_frames, dropout, level, clip_noise, causal, affine_points,
    appearance_dim, extra_dim
        As for 2stcn; a third stream is joined to the one.
    """

    def __init__(
        self,
        stream: str = "landmarks",
        temporal_fusion: str = "max",
        channels: int = 16,
        kernel_size: int = 3,
        levels: int | None = None,
        max_frames: int = 323,
        dropout: float = 0.2,
        level: float = 0.3,
        clip_noise: float = 0.3,
        causal: bool = False,
        affine_points: int = 32,
        appearance_dim: int = EMBEDDING_DIM,
        extra_dim: int = 0,
    ) -> None:
        choose("stream", stream, ("landmarks", "appearance"))
        choose("temporal_fusion", temporal_fusion, TEMPORAL_FUSIONS)
        super().__init__(stream, channels, appearance_dim, level, clip_noise, extra_dim=extra_dim)
        at_least(
            kernel_size=(kernel_size, 2),
            levels=(1 if levels is None else levels, 1),
            max_frames=(max_frames, 1),
            affine_points=(affine_points, 2),
        )
        shares(dropout=dropout)
        depth = levels_to_cover(max_frames, kernel_size) if levels is None else levels
        self.tcn = TemporalConvNet(self.width, channels, kernel_size, depth, dropout, causal)
        self.head = score_layer(channels)
        self.pool = make_pooling(temporal_fusion, affine_points)

    def forward(
        self, appearance: Tensor, landmark: Tensor, mask: Tensor, timestamp: Tensor | None = None
    ) -> Prediction:
        """Score a padded batch, see TemporalModel.forward; ``timestamp`` is not read."""
        x, m = self.read(appearance, landmark, mask)  # (B, C, T), (B, 1, T)
        frame_score = self.head(self.tcn(x, m)).squeeze(1) * mask  # (B, T)
        pooled, won = self.pool.with_shares(frame_score, mask)  # (B,), (B, T)
        return Prediction(pooled, frame_score, won=won)
