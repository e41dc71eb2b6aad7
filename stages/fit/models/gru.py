"""VSFA-style: a recurrent network, one score a frame, temporal pooling with a memory.

Source: Li, Jiang and Jiang, "Quality Assessment of In-the-Wild Videos", ACM MM 2019, section 3.3,
repository lidq92/VSFA (VSFA.py: fully connected reduction, GRU of 32, one q_t a frame, pooling with
tau 12 and beta 0.5). The line after the pooling (a learned scale and offset) is that of the same
authors' MDTVSFA, "Unified Quality Assessment of In-the-Wild Videos". Inferred: frames without a
face are left out of the sequence, and the two streams are standardised as for 2stcn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool1d, pad

from stages.fit.models.base import Prediction, register
from stages.fit.models.layers import TwoStreamModel, at_least, score_layer, shares
from stages.fit.models.pooling import equal_shares, frames_in_order, valid_first
from store.schema import EMBEDDING_DIM


def memory_pooling(q: Tensor, mask: Tensor, tau: int, beta: float) -> Tensor:
    """Frame scores as a viewer with a memory takes them: VSFA's equations for l_t, m_t and q'_t.

    l_t is the minimum of q over the last tau frames, m_t the mean of q over the next tau frames
    weighted by softmin, and q'_t = beta m_t + (1 - beta) l_t; frame t itself is in both.

    (B, T), mask (B, T) bool with all True before all False -> (B, T), 0 outside the mask.
    """
    past = -max_pool1d(pad(-q, (tau - 1, 0), value=float("-inf")).unsqueeze(1), tau, stride=1)
    ahead, weight = _ahead(q, mask, tau)
    mean = (weight * ahead).sum(dim=2)  # (B, T)
    return (beta * mean + (1 - beta) * past.squeeze(1)) * mask


def _ahead(q: Tensor, mask: Tensor, tau: int) -> tuple[Tensor, Tensor]:
    """Scores of the frames from each on, and their softmin weights: (B, T, tau) each."""
    ahead = pad(q, (0, tau - 1)).unfold(1, tau, 1)  # (B, T, tau)
    seen = pad(mask, (0, tau - 1)).unfold(1, tau, 1)  # (B, T, tau)
    # A finite floor, not -inf: a frame with nothing ahead would be 0 / 0.
    return ahead, torch.softmax((-ahead).masked_fill(~seen, torch.finfo(q.dtype).min), dim=2)


def memory_shares(q: Tensor, mask: Tensor, tau: int, beta: float) -> Tensor:
    """Weight of each frame's score in the mean of ``memory_pooling``, see Prediction.won.

    The minimum is all of the frame that has it, the softmin mean each frame's by its weight.
    """
    part = equal_shares(mask)  # (B, T)
    behind = pad(-q, (tau - 1, 0), value=float("-inf")).unsqueeze(1)  # (B, 1, T + tau - 1)
    _, place = max_pool1d(behind, tau, stride=1, return_indices=True)
    shares = torch.zeros_like(q)
    shares.scatter_add_(1, place.squeeze(1) - (tau - 1), (1 - beta) * part)
    _, weight = _ahead(q, mask, tau)
    over = beta * part.unsqueeze(2) * weight  # (B, T, tau): frame t + k's, from t
    reached = torch.arange(q.shape[1], device=q.device)[:, None] + torch.arange(
        tau, device=q.device
    )
    room = torch.zeros(len(q), q.shape[1] + tau - 1, dtype=q.dtype, device=q.device)
    room.scatter_add_(1, reached.flatten().expand(len(q), -1), over.flatten(1))
    return (shares + room[:, : q.shape[1]]) * mask


@register("gru")
class RecurrentModel(TwoStreamModel):
    """A GRU over the frames with a face, then pooling that remembers the worst of the last ones.

    Parameters
    ----------
    streams : "both", "appearance" or "landmarks"
    channels : int
        Of each stream after the reduction (128 of one stream in VSFA).
    hidden : int
        Of the GRU.
    tau : int
        Frames of the memory.
    beta : float
        Weight of what comes against what was, between 0 and 1.
    dropout : float
        On the reduced features. Ours.
    level, clip_noise, appearance_dropout, landmark_dropout, appearance_dim,
    extra_dim
        As for 2stcn.
    """

    def __init__(
        self,
        streams: str = "both",
        channels: int = 32,
        hidden: int = 32,
        tau: int = 12,
        beta: float = 0.5,
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
        at_least(hidden=(hidden, 1), tau=(tau, 1), beta=(beta, 0), **{"1 - beta": (1 - beta, 0)})
        shares(dropout=dropout)
        self.tau = tau
        self.beta = beta
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(self.width, hidden, batch_first=True)
        self.head = score_layer(hidden)
        self.scale = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(
        self, appearance: Tensor, landmark: Tensor, mask: Tensor, timestamp: Tensor | None = None
    ) -> Prediction:
        """Score a padded batch, see TemporalModel.forward; ``timestamp`` is not read."""
        x, _ = self.read(appearance, landmark, mask)  # (B, C, T)
        order = valid_first(mask)  # (B, T)
        dense = mask.gather(1, order)  # (B, T), all True before all False
        x = frames_in_order(x.transpose(1, 2), order)  # (B, T, C)
        h, _ = self.gru(self.dropout(x))  # (B, T, H)
        q = self.head(h.transpose(1, 2)).squeeze(1) * dense  # (B, T)
        felt = memory_pooling(q, dense, self.tau, self.beta)  # (B, T)
        count = mask.sum(dim=1)  # (B,)
        pooled = felt.sum(dim=1) / count.clamp(min=1)  # (B,)
        score = self.scale * pooled + self.offset
        frame = (self.scale * q + self.offset) * dense
        with torch.no_grad():
            shares = memory_shares(q, dense, self.tau, self.beta)  # (B, T)
        return Prediction(
            score=torch.where(count > 0, score, torch.zeros_like(score)),
            frame_score=torch.zeros_like(frame).scatter(1, order, frame),
            won=torch.zeros_like(frame).scatter(1, order, shares),
        )
