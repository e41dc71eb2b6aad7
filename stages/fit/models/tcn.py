"""The generic temporal convolutional network, with masks.

Source of the architecture: Bai, Kolter and Koltun, "An Empirical Evaluation of Generic
Convolutional and Recurrent Networks for Sequence Modeling", arXiv 1803.01271 (the authors' code is
the repository locuslab/TCN). Ours: the mask before every convolution, the centred variant, initial
weights after Kaiming, where theirs are normal with a deviation of 0.01, and how it is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, relu
from torch.nn.utils.parametrizations import weight_norm


def receptive_field(kernel_size: int, levels: int) -> int:
    """Frames that one output frame sees: 1 + 2 (k - 1) (2^levels - 1), papers.md section 1."""
    return 1 + 2 * (kernel_size - 1) * ((1 << levels) - 1)


def levels_to_cover(frames: int, kernel_size: int) -> int:
    """Return the fewest levels whose receptive field is at least ``frames``; at least 1."""
    levels = 1
    while receptive_field(kernel_size, levels) < frames:
        levels += 1
    return levels


class TemporalConv(nn.Module):
    """Dilated, weight-normalised convolution over time that keeps the number of frames.

    It runs as a convolution over pictures one pixel high. Given frames whose channels lie side by
    side in memory, as a linear layer over (B, T, C) leaves them, oneDNN then reads and writes them
    so: forward and backward of 16 channels took 0.7 ms, laid out by channels and padded by a copy
    1.0 to 1.2 ms (16 clips of 330 frames, one core).
    """

    def __init__(
        self, inputs: int, outputs: int, kernel_size: int, dilation: int, causal: bool
    ) -> None:
        super().__init__()
        conv = nn.Conv1d(inputs, outputs, kernel_size, dilation=dilation)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.conv = weight_norm(conv)
        self.dilation = (1, dilation)
        reach = (kernel_size - 1) * dilation
        self.before, self.after = (reach, 0) if causal else (reach // 2, reach - reach // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, T) -> (B, Cout, T)."""
        y = x.unsqueeze(2)  # (B, Cin, 1, T)
        if self.before != self.after:
            y = pad(y, (self.before, self.after))
        within = (0, self.after if self.before == self.after else 0)
        weight = self.conv.weight.unsqueeze(2)  # (Cout, Cin, 1, K)
        return conv2d(y, weight, self.conv.bias, padding=within, dilation=self.dilation).squeeze(2)


class MaskedDropout(nn.Module):
    """Dropout that also sets frames outside the mask to 0.

    Four decisions are taken from one 64-bit number: drawing one for each, as nn.Dropout does, was
    a seventh of a training step. The share is kept to 1 / 65,536.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.dropped = min(round(share * 65_536), 65_535)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, T), mask (B, 1, T) float -> (B, C, T)."""
        if not self.training or self.dropped == 0:
            return x * mask
        b, c, t = x.shape
        drawn = torch.empty(-(-b * c * t // 4), dtype=torch.int64, device=x.device)
        drawn.random_(-(2**63), None)
        share = drawn.view(torch.int16)[: b * c * t].view(b, t, c)
        kept = (share >= self.dropped - 32_768).transpose(1, 2)  # (B, C, T)
        return x * (kept * (mask * (65_536 / (65_536 - self.dropped))))


class TemporalBlock(nn.Module):
    """Two convolutions of one dilation, ReLU and dropout after each, and a residual path.

    Frames outside the mask are 0 before each convolution: they then act exactly as the zero padding
    beyond either end does, and a clip's output is the same alone and inside a padded batch.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        dilation: int,
        dropout: float,
        causal: bool,
    ) -> None:
        super().__init__()
        self.first = TemporalConv(inputs, outputs, kernel_size, dilation, causal)
        self.second = TemporalConv(outputs, outputs, kernel_size, dilation, causal)
        self.residual = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.dropout = MaskedDropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, Cin, T), 0 outside the mask, mask (B, 1, T) float -> (B, Cout, T), likewise."""
        y = self.dropout(relu(self.first(x)), mask)  # (B, Cout, T)
        y = self.dropout(relu(self.second(y)), mask)  # (B, Cout, T)
        past = self.residual(x)  # (B, Cout, T)
        return relu(y + (past if past is x else past * mask))


class TemporalConvNet(nn.Module):
    """Blocks of dilation 1, 2, 4, ... one after the other.

    Parameters
    ----------
    inputs, channels : int
        Channels that enter, and channels of every block.
    levels : int
        Blocks; the receptive field is ``receptive_field(kernel_size, levels)``.
    causal : bool
        True: frame t sees frames up to t, as in the paper. False: as many after it as before it.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        kernel_size: int,
        levels: int,
        dropout: float,
        causal: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TemporalBlock(
                inputs if level == 0 else channels, channels, kernel_size, 2**level, dropout, causal
            )
            for level in range(levels)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, Cin, T), mask (B, 1, T) float -> (B, C, T), 0 outside the mask."""
        x = x * mask
        for block in self.blocks:
            x = block(x, mask)
        return x
