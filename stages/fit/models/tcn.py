"""The generic temporal convolutional network, with masks.

Source of the architecture: Bai, Kolter and Koltun, "An Empirical Evaluation of Generic
Convolutional and Recurrent Networks for Sequence Modeling", arXiv 1803.01271 (the authors' code is
the repository locuslab/TCN). Ours: the mask before every convolution, and the centred variant.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import pad
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


class MaskedConv(nn.Module):
    """Dilated, weight-normalised convolution over time that keeps the number of frames.

    Frames outside the mask are set to 0 first: they then act exactly as the zero padding beyond
    either end does, and a clip's output is the same alone and inside a padded batch.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel_size: int, dilation: int, causal: bool
    ) -> None:
        super().__init__()
        conv = nn.Conv1d(inputs, outputs, kernel_size, dilation=dilation)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.conv = weight_norm(conv)
        reach = (kernel_size - 1) * dilation
        self.padding = (reach, 0) if causal else (reach // 2, reach - reach // 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, Cin, T), mask (B, 1, T) float -> (B, Cout, T)."""
        y: Tensor = self.conv(pad(x * mask, self.padding))
        return y


class TemporalBlock(nn.Module):
    """Two convolutions of one dilation, ReLU and dropout after each, and a residual path."""

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
        self.first = MaskedConv(inputs, outputs, kernel_size, dilation, causal)
        self.second = MaskedConv(outputs, outputs, kernel_size, dilation, causal)
        self.residual = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, Cin, T), mask (B, 1, T) float -> (B, Cout, T)."""
        y = self.dropout(self.relu(self.first(x, mask)))  # (B, Cout, T)
        y = self.dropout(self.relu(self.second(y, mask)))  # (B, Cout, T)
        z: Tensor = self.relu(y + self.residual(x))
        return z


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
        for block in self.blocks:
            x = block(x, mask)
        return x * mask
