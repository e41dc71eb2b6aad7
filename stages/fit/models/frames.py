"""What models of single frames share: the valid frames as one batch, their mean as the clip's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stages.fit.models.base import ModelError, StreamStatistics, TemporalModel, choose
from stages.fit.models.layers import at_least, shares

# Of ImageNet's training pictures, RGB, 0 to 255: what torchvision's weights were trained with.
PICTURE_MEAN = (123.675, 116.28, 103.53)
PICTURE_SD = (58.395, 57.12, 57.375)
TEST_CROPS = ("centre", "five")


class FrameModel(TemporalModel):
    """A model that looks at each frame by itself; a clip is the mean of its frames.

    Parameters
    ----------
    mean, sd : (C,) float
        By which channels are standardised until ``set_statistics`` gives others.
    """

    sees_order = False
    mean: Tensor
    sd: Tensor

    def __init__(self, mean: Sequence[float], sd: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("sd", torch.tensor(sd))

    def set_statistics(self, statistics: StreamStatistics) -> None:
        """Take the mean and deviation of the training frames' channels."""
        self.mean.copy_(statistics.appearance_mean)
        self.sd.copy_(statistics.appearance_sd)

    def valid_frames(self, appearance: Tensor, mask: Tensor) -> Tensor:
        """Return the frames that count: (B, T, ...), mask (B, T) bool -> (N, ...).

        At least two while training, since batch normalisation cannot take less: one alone stands
        twice, none as two of zeros. ``by_clip`` leaves those out.
        """
        frames = appearance[mask]
        if self.training and len(frames) < 2:
            more = frames if len(frames) else frames.new_zeros(1, *appearance.shape[2:])
            frames = torch.cat([frames, more, more])[:2]
        return frames


def by_clip(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Put values of valid frames back into their clips, and average them there.

    (N, C), mask (B, T) bool -> (B, T, C), 0 outside the mask, and (B, C), 0 without a valid frame.
    """
    frames = values.new_zeros(*mask.shape, values.shape[1])
    frames = frames.masked_scatter(mask.unsqueeze(2), values[: int(mask.sum())])
    return frames, frames.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def mean_shares(mask: Tensor) -> Tensor:
    """Return what each frame has in the mean over a clip's: mask (B, T) -> (B, T) float."""
    return mask / mask.sum(dim=1, keepdim=True).clamp(min=1)


class Windows(nn.Module):
    """The windows of a picture that a network looks at: itself, its middle, or five of it.

    Source: five crops (the corners and the middle), averaged, are how HMTNet is tested.
    """

    def __init__(self, size: int, test_crops: str) -> None:
        super().__init__()
        self.size = size
        self.test_crops = choose("test_crops", test_crops, TEST_CROPS)

    def forward(self, images: Tensor) -> Tensor:
        """(N, F, F, 3) uint8 -> (W N, 3, size, size) float32, window by window; W is 1 or 5."""
        x = images.permute(0, 3, 1, 2)
        spare, s = x.shape[2] - self.size, self.size
        if spare == 0:
            return x.float()
        middle = spare // 2
        places = [(middle, middle)]
        if self.test_crops == "five":
            places += [(0, 0), (0, spare), (spare, 0), (spare, spare)]
        return torch.cat([x[:, :, i : i + s, j : j + s] for i, j in places]).float()


def check_pictures(size: int, margin: float, rotation: float, colour: float) -> None:
    """Raise ModelError for settings that Pictures cannot have; networks need 64 pixels."""
    at_least(size=(size, 64), margin=(margin, 0), rotation=(rotation, 0), colour=(colour, 0))
    shares(colour=colour)
    if margin > 1:
        raise ModelError(f"margin must be at most 1, not {margin}")


def over_windows(values: Tensor, images: int) -> Tensor:
    """Average over the windows of each picture: (W N, C) -> (N, C)."""
    if not images:
        return values
    return values.view(-1, images, values.shape[1]).mean(dim=0)
