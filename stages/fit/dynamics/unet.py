"""The pixel form of MDR: a U-Net from a still crop to a raster of the same size and 3 channels.

Source: Song and others (ICPR 2020), see rank_loss.py; that the generator is a U-Net is stated for
their sister paper (papers.md, section 3), its depth and width are ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad


class _Block(nn.Sequential):
    """Two convolutions; group normalisation, which batches of one clip do not upset."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for before in (inputs, outputs):
            layers += [
                nn.Conv2d(before, outputs, 3, padding=1, bias=False),
                nn.GroupNorm(math.gcd(4, outputs), outputs),
                nn.GELU(),
            ]
        super().__init__(*layers)


class UNet(nn.Module):
    """(B, 3, S, S) -> (B, 3, S, S): three levels; d_t = s V_t + network(V_t), as in the store form.

    Parameters
    ----------
    channels : int
        Of the first level; each further one has twice as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, 2 * channels, 4 * channels)
        self.down = nn.ModuleList(
            _Block(a, b) for a, b in zip((3, *widths[:-1]), widths, strict=True)
        )
        self.up = nn.ModuleList(
            _Block(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.last = nn.Conv2d(channels, 3, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]
        self.skip = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 3, S, S)."""
        side = image.shape[-1]
        x = pad(image, (0, -side % 4, 0, -side % 4))
        levels: list[Tensor] = []
        for k, block in enumerate(self.down):
            x = block(x if k == 0 else nn.functional.avg_pool2d(x, 2))
            levels.append(x)
        for block, level in zip(self.up, levels[-2::-1], strict=True):
            x = block(torch.cat([interpolate(x, scale_factor=2, mode="nearest"), level], dim=1))
        d: Tensor = self.skip * image + self.last(x)[..., :side, :side]
        return d


class PixelGenerator(nn.Module):
    """One U-Net a window length.

    ``unit`` is the deviation of a pixel within its clip: V is the crop in these units, so that
    theta and gamma mean what they mean in the store form.
    """

    unit: Tensor

    def __init__(self, windows: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.windows = windows
        self.register_buffer("unit", torch.ones(()))
        self.scales = nn.ModuleList(UNet(channels) for _ in windows)

    def psi(self, crops: Tensor) -> Tensor:
        """(n, 3, S, S) 0 to 1 -> (n, 3 S S), such that S(d, V) is a mean over the pixels."""
        return self.images(crops).flatten(1) / math.sqrt(crops[0].numel())

    def images(self, crops: Tensor) -> Tensor:
        """(n, 3, S, S) 0 to 1 -> the same, in units of ``unit`` around grey."""
        return (crops - 0.5) / self.unit

    def rasters(self, crops: Tensor) -> Tensor:
        """MDR: (B, 3, S, S) 0 to 1 -> (B, 3 scales, S, S), the scales one after the other."""
        x = self.images(crops)
        return torch.cat([scale(x) for scale in self.scales], dim=1)

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 3, S, S) 0 to 1 -> (B, scales, 3 S S), on the scale of ``psi``."""
        x = self.images(crops)
        rows = [scale(x).flatten(1) for scale in self.scales]
        return torch.stack(rows, dim=1) / math.sqrt(crops[0].numel())
