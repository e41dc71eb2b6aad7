"""Attention over the frames of padded clips, and the time of a frame as a code.

Source: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762: scaled dot-product attention,
heads, and the sines of a position. Ours: the position is the timestamp, not the index, and the
normalisation stands before each part ("pre-norm"), which trains without a warm-up of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stages.fit.models.base import ModelError
from stages.fit.models.layers import at_least

SHORTEST_S, LONGEST_S = 0.1, 60.0
ASSUMED_FPS = 25.0


def check_heads(width: int, heads: int) -> None:
    """Raise ModelError unless ``width`` channels can be divided among the heads."""
    at_least(heads=(heads, 1))
    if width % heads or width % 2:
        raise ModelError(f"{width} channels in all must be even and a multiple of heads ({heads})")


class TimeEncoding(nn.Module):
    """Sine and cosine of a frame's time since the first frame with a face.

    Half the channels are sines, half cosines, of periods from 0.1 s to 60 s in equal ratios.
    Without timestamps 25 frames a second are assumed.
    """

    rate: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        period = torch.logspace(math.log10(SHORTEST_S), math.log10(LONGEST_S), channels // 2)
        self.register_buffer("rate", 2 * math.pi / period.double(), persistent=False)

    def forward(self, timestamp: Tensor | None, mask: Tensor) -> Tensor:
        """(B, T) float64 s, mask (B, T) bool -> (B, T, C) float32, 0 outside the mask."""
        if timestamp is None:
            time = torch.arange(mask.shape[1], device=mask.device) / ASSUMED_FPS
            timestamp = time.expand(mask.shape)
        first = mask.to(torch.uint8).argmax(dim=1, keepdim=True)  # (B, 1)
        since = timestamp.double() - timestamp.double().gather(1, first)  # (B, T)
        phase = since.unsqueeze(2) * self.rate  # (B, T, C / 2)
        code = torch.cat([phase.sin(), phase.cos()], dim=2).float()
        return code * mask.unsqueeze(2)


class Attention(nn.Module):
    """Multi-head attention that never looks at masked keys, and tells its weights."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def _split(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        return x.view(b, n, self.heads, c // self.heads).transpose(1, 2)  # (B, H, N, C / H)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, N, C) queries, memory (B, T, C), mask (B, T) bool -> (B, N, C), weights (B, N, T).

        The weights are the mean over the heads; they sum to 1 over the memory.
        """
        q, k, v = self._split(self.query(x)), self._split(self.key(memory)), self.value(memory)
        logit = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])  # (B, H, N, T)
        weight = masked_softmax(logit, None if mask is None else mask[:, None, None, :])
        mixed = self.dropout(weight) @ self._split(v)  # (B, H, N, C / H)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y, weight.mean(dim=1)


def masked_softmax(logit: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last dimension; 0 where the mask, of a shape that broadcasts, is False."""
    if mask is None:
        return torch.softmax(logit, dim=-1)
    # A finite floor, not -inf: a clip without a valid frame would be 0 / 0.
    weight = torch.softmax(logit.masked_fill(~mask, torch.finfo(logit.dtype).min), dim=-1)
    return weight * mask


class Feedforward(nn.Sequential):
    """Two linear layers with a ReLU between them, behind a normalisation."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, inner),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(inner, width),
            nn.Dropout(dropout),
        )


class EncoderBlock(nn.Module):
    """Every frame looks at every valid frame."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.feedforward = Feedforward(width, inner, dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, C), mask (B, T) bool -> (B, T, C)."""
        normed = self.norm(x)
        x = x + self.attention(normed, normed, mask)[0]
        y: Tensor = x + self.feedforward(x)
        return y


class DecoderBlock(nn.Module):
    """Queries look at each other, then at the frames."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.among = Attention(width, heads, dropout)
        self.across = Attention(width, heads, dropout)
        self.feedforward = Feedforward(width, inner, dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, C) queries, memory (B, T, C), mask (B, T) -> (B, N, C), weights (B, N, T)."""
        normed = self.norm[0](x)
        x = x + self.among(normed, normed, None)[0]
        seen, weight = self.across(self.norm[1](x), memory, mask)
        x = x + seen
        return x + self.feedforward(x), weight
