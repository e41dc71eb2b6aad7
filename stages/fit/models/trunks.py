"""Trunks of HMTNet: features at three depths, aggregated over the layers around each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.fit.models import vision
from stages.fit.models.base import choose

AGGREGATES = ("average", "concat")


@dataclass(frozen=True)
class Depths:
    """Which of a trunk's blocks are aggregated at each depth, and how many channels they have.

    ``blocks``: places of the blocks whose outputs, all of one shape, are aggregated; ``channels``:
    of one of them. Early, middle, late.
    """

    blocks: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    channels: tuple[int, int, int]


class Trunk(nn.Module):
    """A chain of blocks; what some of them give is aggregated to maps of three depths.

    Source: HMTNet slides, "Feature Aggregator", equations 1 (average) and 2 (concat).

    Parameters
    ----------
    blocks : sequence of Module
    depths : Depths
    aggregate : "average" or "concat"

    Attributes
    ----------
    channels : tuple of 3 int
        Of the early, middle and late maps.
    """

    def __init__(self, blocks: Sequence[nn.Module], depths: Depths, aggregate: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.depths = depths.blocks
        self.aggregate = choose("aggregate", aggregate, AGGREGATES)
        wide = [len(b) if aggregate == "concat" else 1 for b in depths.blocks]
        early, middle, late = (c * w for c, w in zip(depths.channels, wide, strict=True))
        self.channels = (early, middle, late)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C, H, W) -> maps (N, C_d, H_d, W_d) of the three depths; (N, C) -> (N, C_d).

        The chain goes on from each block's own output, not from an aggregate. Ours: the published
        text leaves it open, and concatenated maps would not fit the next block.
        """
        given: dict[int, Tensor] = {}
        wanted = {place for places in self.depths for place in places}
        for place, block in enumerate(self.blocks):
            x = block(x)
            if place in wanted:
                given[place] = x
        early, middle, late = (self._together([given[p] for p in ps]) for ps in self.depths)
        return early, middle, late

    def _together(self, maps: list[Tensor]) -> Tensor:
        if self.aggregate == "concat":
            return torch.cat(maps, dim=1)
        return torch.stack(maps).mean(dim=0)


def feature_trunk(
    channels: int, hidden: int, input_dropout: float, dropout: float, aggregate: str
) -> Trunk:
    """Three layers behind frozen features (N, channels): maps of one place.

    Linear layers, not convolutions of 1x1, which took 2 to 3 times as long for the same numbers.
    """

    def layer(wide: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(wide, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout)
        )

    blocks = [nn.Dropout(input_dropout), layer(channels), layer(hidden), layer(hidden)]
    return Trunk(blocks, Depths(((1,), (1, 2), (1, 2, 3)), (hidden,) * 3), aggregate)


def vgg_m_trunk(size: int, aggregate: str) -> Trunk:
    """VGG-M with batch normalisation, fully convolutional, as HMTNet has it, with random weights.

    Source: repository lucasxlu/HMTNet (cfg vgg_m_face_bn_dag): 96@7x7/2, 256@5x5/2, three of
    512@3x3, 4096@6x6, 4096@1x1; the middle aggregate is of conv3 before normalisation and of the
    rectified conv3 and conv5, the late one of fc6 and fc7 before normalisation and of the rectified
    fc7. For pictures smaller than 224 pixels fc6 is as wide as the map in front of it.
    """
    side = size
    for kernel, stride, padding, up in ((7, 2, 0, 0), (3, 2, 0, 0), (5, 2, 1, 0), (3, 2, 0, 1)):
        side = (side + 2 * padding - kernel + up) // stride + 1  # pool2 rounds up
    side = (side - 3) // 2 + 1  # pool5
    inner = [
        *(nn.Conv2d(3, 96, 7, 2), nn.BatchNorm2d(96), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, 2, 1), nn.BatchNorm2d(256), nn.ReLU()),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        *(nn.Conv2d(256, 512, 3, 1, 1), nn.BatchNorm2d(512), nn.ReLU()),  # 8, 9, 10
        *(nn.Conv2d(512, 512, 3, 1, 1), nn.BatchNorm2d(512), nn.ReLU()),
        *(nn.Conv2d(512, 512, 3, 1, 1), nn.BatchNorm2d(512), nn.ReLU()),  # 14, 15, 16
        nn.MaxPool2d(3, 2),
        *(nn.Conv2d(512, 4096, min(6, side)), nn.BatchNorm2d(4096), nn.ReLU()),  # 18, 19, 20
        *(nn.Conv2d(4096, 4096, 1), nn.BatchNorm2d(4096), nn.ReLU()),  # 21, 22, 23
    ]
    return Trunk(inner, Depths(((10,), (8, 10, 16), (18, 21, 23)), (512, 512, 4096)), aggregate)


def vision_trunk(name: str, aggregate: str) -> tuple[Trunk, nn.Module]:
    """Trunk of one of torchvision's networks, and that network, whose weights the trunk shares.

    Each depth aggregates the blocks of one stage: those whose outputs are of one shape.
    """
    network = vision.build(name)
    if name == "mobilenet":
        blocks = list(network.features)  # type: ignore[arg-type]
        return Trunk(
            blocks, Depths(((6,), (11, 12, 13), (18,)), (32, 96, 1280)), aggregate
        ), network
    stem = [network.conv1, network.bn1, network.relu, network.maxpool]
    stages = [list(getattr(network, f"layer{k}")) for k in (1, 2, 3, 4)]
    blocks = [*stem, *(block for stage in stages for block in stage)]
    ends = [len(stem) + sum(len(s) for s in stages[: k + 1]) for k in range(4)]
    wide = 128 if name == "resnet18" else 512
    depths = Depths(
        ((ends[1] - 1,), tuple(range(ends[1], ends[2])), tuple(range(ends[2], ends[3]))),
        (wide, 2 * wide, 4 * wide),
    )
    return Trunk(blocks, depths, aggregate), network
