"""GCN: the landmarks of a frame as a graph, a recurrent network that says how much a frame counts.

Source: Liu et al., "Video-based Facial Expression Recognition using Graph Convolutional Networks",
ICPR 2020; its abstract alone was read: features as nodes, graph convolution, a recurrent network,
and learned weights of how intense a frame is. Inferred: the nodes are the 68 points (there: the
features of frames), joined along the lines of the face and to their mirror points (Kipf and
Welling, arXiv 1609.02907, equation 2), beside a learned graph; a GRU; and weights that are a
softmax over the clip.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.fit.models.attention import masked_softmax
from stages.fit.models.base import Prediction, register
from stages.fit.models.layers import TwoStreamModel, at_least, score_layer, shares
from stages.fit.models.pooling import frames_in_order, valid_first
from store.schema import EMBEDDING_DIM

POINTS = 68
# iBUG-68: jaw, brows, bridge and base of the nose are lines; eyes and lips close on themselves.
LINES = ((0, 17), (17, 22), (22, 27), (27, 31), (31, 36))
LOOPS = ((36, 42), (42, 48), (48, 60), (60, 68))
JOINTS = ((30, 33), (0, 17), (16, 26), (21, 27), (22, 27), (27, 39), (27, 42), (33, 51), (8, 57))
LIPS = ((48, 60), (51, 62), (54, 64), (57, 66))


def face_graph() -> Tensor:
    """(68, 68) float32: the lines of a face with self-loops, normalised by the nodes' degrees."""
    edges = torch.eye(POINTS)
    pairs = [(k, k + 1) for first, end in LINES for k in range(first, end - 1)]
    for first, end in LOOPS:
        pairs += [(k, k + 1 if k + 1 < end else first) for k in range(first, end)]
    pairs += [
        *JOINTS,
        *LIPS,
        *((k, 16 - k) for k in range(8)),
        *((17 + k, 26 - k) for k in range(5)),
    ]
    for a, b in pairs:
        edges[a, b] = edges[b, a] = 1
    root = edges.sum(dim=1).rsqrt()
    return root[:, None] * edges * root


class GraphConv(nn.Module):
    """Mix the channels of every node, then the nodes along the face's graph and a learned one."""

    graph: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.learned = nn.Parameter(torch.zeros(POINTS, POINTS))
        self.register_buffer("graph", face_graph(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., 68, Cin) -> (..., 68, Cout)."""
        return torch.relu((self.graph + self.learned) @ self.linear(x))


@register("gcn")
class LandmarkGraph(TwoStreamModel):
    """Graph convolutions over the landmarks of a frame, a GRU over time; appearance is not read.

    Parameters
    ----------
    channels, hidden : int
        Of the graph convolutions; of the GRU.
    layers : int
        Graph convolutions.
    dropout, level, clip_noise, appearance_dim
        As for 2stcn; dropout before the GRU.
    """

    def __init__(
        self,
        channels: int = 16,
        hidden: int = 32,
        layers: int = 2,
        dropout: float = 0.2,
        level: float = 0.3,
        clip_noise: float = 0.3,
        appearance_dim: int = EMBEDDING_DIM,
    ) -> None:
        super().__init__("landmarks", None, appearance_dim, level, clip_noise)
        at_least(channels=(channels, 1), hidden=(hidden, 1), layers=(layers, 1))
        shares(dropout=dropout)
        widths = [2] + [channels] * layers
        self.graph = nn.Sequential(
            *(GraphConv(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        )
        self.join = nn.Linear(POINTS * channels, hidden)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.intensity = nn.Linear(hidden, 1)
        self.head = score_layer(hidden)

    def forward(
        self, appearance: Tensor, landmark: Tensor, mask: Tensor, timestamp: Tensor | None = None
    ) -> Prediction:
        """Score a padded batch, see TemporalModel.forward; ``timestamp`` is not read."""
        order = valid_first(mask)  # (B, T)
        dense = mask.gather(1, order)  # (B, T), all True before all False
        frames = mask.unsqueeze(2).to(landmark.dtype)  # (B, T, 1)
        points = frames_in_order(self.scaled(appearance, landmark, frames)["landmark"], order)
        x = self.graph(points.reshape(*mask.shape, POINTS, 2)).flatten(2)  # (B, T, 68 C)
        h, _ = self.gru(self.dropout(torch.relu(self.join(x))))  # (B, T, H)
        weight = masked_softmax(self.intensity(h).squeeze(2), dense)  # (B, T)
        score = self.head(h.transpose(1, 2)).squeeze(1) * dense  # (B, T)
        empty = torch.zeros_like(score)
        won = empty.scatter(1, order, weight.detach())  # (B, T)
        return Prediction(
            score=(weight * score).sum(dim=1),  # (B,)
            frame_score=empty.scatter(1, order, score),
            won=won,
            attention=won * mask.sum(dim=1, keepdim=True),
        )
