"""What the models share: two streams on one scale, attention over frames, the score of a frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from stages.fit.models.base import ModelError, StreamStatistics, TemporalModel, choose
from store.schema import LANDMARK_DIM

STREAMS = ("both", "appearance", "landmarks")


class Standardise(nn.Module):
    """Put one stream on a common scale by statistics of the training frames.

    A frame is its clip's mean (who it is, average pose and expression) plus its deviation from that
    (how the face moves). Per channel, y = gain * (deviation / sd_within + level * ((mean - M) / S +
    noise)). People differ much more than one face moves, so that in one common scale the motion
    would be a few per cent of the input. Every value can be had back from y: nothing is lost.
    ``gain`` = 136 / channels lets a step of Adam, whose size does not depend on the gradient's,
    move the 512 channels of appearance as far as the 136 of landmarks. While training, ``noise``
    is drawn once a clip and channel, so that no clip is known by its exact mean.
    All of it is ours; the paper's normalisation is not stated.
    """

    mean: Tensor
    sd: Tensor
    within: Tensor

    def __init__(self, channels: int, level: float, noise: float) -> None:
        super().__init__()
        self.level = level
        self.noise = noise
        self.gain = LANDMARK_DIM / channels
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("sd", torch.ones(channels))
        self.register_buffer("within", torch.ones(channels))

    def set(self, mean: Tensor, sd: Tensor, within: Tensor) -> None:
        """Take the training frames' mean, and deviations over all and within clips, (C,) each."""
        self.mean.copy_(mean)
        self.sd.copy_(sd)
        self.within.copy_(within)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, C), mask (B, T, 1) float -> (B, T, C), 0 outside the mask."""
        centre, static = self._mean_of_clips(x, mask)
        return self.gain * ((x - centre) / self.within + self.level * static) * mask

    def project(
        self, x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return what a linear layer makes of ``forward``, and the mean of ``forward`` itself.

        Both being affine, the scale goes into the weight and the rest into one bias a clip: the
        frames, 32 times as many numbers as 16 channels, are read and not written.

        (B, T, C), mask (B, T, 1) float, weight (Cout, C), bias (Cout,) -> (B, Cout, T), 0 outside
        the mask; (B, C), 0 for a clip without a valid frame.
        """
        centre, static = self._mean_of_clips(x, mask)
        rate = self.gain / self.within  # (C,)
        mean = self.gain * self.level * static  # (B, 1, C); deviations from the mean sum to 0
        offset = linear(mean - centre * rate, weight, bias)  # (B, 1, Cout)
        y = (linear(x, weight * rate) + offset) * mask  # (B, T, Cout)
        return y.transpose(1, 2), (mean * mask.amax(dim=1, keepdim=True)).squeeze(1)

    def _mean_of_clips(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return each clip's mean, and the same on the training clips' scale: (B, 1, C) each."""
        frames = mask.sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1, 1)
        centre = torch.bmm(mask.transpose(1, 2), x) / frames  # (B, 1, C)
        static = (centre - self.mean) / self.sd  # (B, 1, C)
        if self.training and self.noise:
            static = static + self.noise * torch.randn_like(static)
        return centre, static


class FrameGate(nn.Module):
    """One attention weight a frame, computed from the other stream.

    ``sigmoid``: w_t = sigmoid(W x_t + b), between 0 and 1. ``softmax``: softmax over the clip's
    valid frames, times their number, so that the mean weight is 1 whatever the length.
    """

    def __init__(self, channels: int, gate: str) -> None:
        super().__init__()
        self.linear = nn.Conv1d(channels, 1, 1)
        self.gate = gate

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, T), mask (B, 1, T) float -> (B, 1, T), 0 outside the mask."""
        logit: Tensor = self.linear(x)  # (B, 1, T)
        if self.gate == "sigmoid":
            return torch.sigmoid(logit) * mask
        # A finite floor, not -inf: a clip without a valid frame would be 0 / 0.
        logit = logit.masked_fill(mask == 0, torch.finfo(logit.dtype).min)
        return torch.softmax(logit, dim=2) * mask * mask.sum(dim=2, keepdim=True)


def score_layer(channels: int) -> nn.Conv1d:
    """Score of a frame from its channels; the first scores lie near 0, the mean label."""
    layer = nn.Conv1d(channels, 1, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def at_least(**bounds: tuple[float, float]) -> None:
    """Raise ModelError for an option, given as (value, least), that is below what it may be."""
    for name, (value, least) in bounds.items():
        if value < least:
            raise ModelError(f"{name} must be at least {least:g}, not {value}")


def shares(**values: float) -> None:
    """Raise ModelError for an option that is not a share: at least 0 and below 1."""
    for name, share in values.items():
        if not 0 <= share < 1:
            raise ModelError(f"{name} must be at least 0 and below 1, not {share}")


class TwoStreamModel(TemporalModel):
    """A model that reads one stream or both, standardised and projected to ``channels`` each.

    A third stream, ``features`` of the configuration, comes behind the channels of the appearance:
    (B, T, Da + De). It is never hidden.

    Parameters
    ----------
    streams : "both", "appearance" or "landmarks"
    channels : int, optional
        Of each projected stream; None: the model reads the standardised streams themselves.
    appearance_dim : int
        Width of the appearance stream.
    level, clip_noise : float
        See Standardise.
    appearance_dropout, landmark_dropout : float
        Share of clips from which that stream is hidden while training, where there are two.
    extra_dim : int
        Width De of the third stream, 0 for none.

    Attributes
    ----------
    width : int
        Channels of all projected streams together.

    Raises
    ------
    ModelError
        For a value that one of them cannot take.
    """

    def __init__(
        self,
        streams: str,
        channels: int | None,
        appearance_dim: int,
        level: float,
        clip_noise: float,
        appearance_dropout: float = 0.0,
        landmark_dropout: float = 0.0,
        extra_dim: int = 0,
    ) -> None:
        super().__init__()
        self.streams = choose("streams", streams, STREAMS)
        at_least(channels=(1 if channels is None else channels, 1))
        at_least(level=(level, 0), clip_noise=(clip_noise, 0), extra_dim=(extra_dim, 0))
        hidden = {
            "appearance_dropout": appearance_dropout,
            "landmark_dropout": landmark_dropout,
            "appearance_dropout + landmark_dropout": appearance_dropout + landmark_dropout,
        }
        shares(**hidden)
        self.hidden = (appearance_dropout, landmark_dropout)
        self.standardise_appearance = Standardise(appearance_dim, level, clip_noise)
        self.standardise_landmark = Standardise(LANDMARK_DIM, level, clip_noise)
        self.appearance_dim = appearance_dim
        self.project = nn.ModuleDict()
        if streams != "landmarks" and channels is not None:
            self.project["appearance"] = nn.Conv1d(appearance_dim, channels, 1)
        if streams != "appearance" and channels is not None:
            self.project["landmark"] = nn.Conv1d(LANDMARK_DIM, channels, 1)
        if extra_dim:
            self.standardise_extra = Standardise(extra_dim, level, clip_noise)
            if channels is not None:
                self.project["extra"] = nn.Conv1d(extra_dim, channels, 1)
        self.extra_dim = extra_dim
        self.width = 0 if channels is None else channels * len(self.project)

    def set_statistics(self, statistics: StreamStatistics) -> None:
        """Take the training frames' statistics, by which the streams are standardised."""
        wide = statistics.appearance_mean, statistics.appearance_sd, statistics.appearance_within
        self.standardise_appearance.set(*(value[: self.appearance_dim] for value in wide))
        if self.extra_dim:
            self.standardise_extra.set(*(value[self.appearance_dim :] for value in wide))
        self.standardise_landmark.set(
            statistics.landmark_mean, statistics.landmark_sd, statistics.landmark_within
        )

    def _hide(self, x: dict[str, Tensor]) -> None:
        """While training, hide one stream from some of the clips; never both from one."""
        if not self.training or self.streams != "both" or self.hidden == (0, 0):
            return
        some = x["landmark"]
        draw = torch.rand(len(some), 1, 1, device=some.device)  # (B, 1, 1)
        x["appearance"] = x["appearance"] * (draw >= self.hidden[0])
        x["landmark"] = x["landmark"] * (draw < 1 - self.hidden[1])

    def scaled(self, appearance: Tensor, landmark: Tensor, frames: Tensor) -> dict[str, Tensor]:
        """Return the streams that are read, standardised.

        (B, T, Da + De), (B, T, 136), frames (B, T, 1) float -> each (B, T, D), 0 outside the mask.
        """
        given = self._given(appearance, landmark)
        return {name: standardise(y, frames) for name, (standardise, y) in given.items()}

    def _given(self, appearance: Tensor, landmark: Tensor) -> dict[str, tuple[Standardise, Tensor]]:
        """Return each stream that is read, and what standardises it."""
        given: dict[str, tuple[Standardise, Tensor]] = {}
        width = self.appearance_dim + self.extra_dim
        if (self.streams != "landmarks" or self.extra_dim) and appearance.shape[-1] != width:
            raise ValueError(f"appearance must be (B, T, {width}), not {tuple(appearance.shape)}")
        own = appearance[..., : self.appearance_dim] if self.extra_dim else appearance
        if self.streams != "landmarks":
            given["appearance"] = self.standardise_appearance, own
        if self.streams != "appearance":
            given["landmark"] = self.standardise_landmark, landmark
        if self.extra_dim:
            given["extra"] = self.standardise_extra, appearance[..., self.appearance_dim :]
        return given

    def projected(
        self, appearance: Tensor, landmark: Tensor, frames: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the streams that are read, standardised and projected, and the means before that.

        While training one of the projected streams is hidden from some clips. Shapes as for
        ``scaled``; each (B, C, T), 0 outside the mask, and each (B, D), see Standardise.project.
        """
        x, means = {}, {}
        given = self._given(appearance, landmark)
        for name, layer in self.project.items():
            standardise, y = given[name]
            assert isinstance(layer, nn.Conv1d)
            weight = layer.weight.squeeze(2)  # (C, D)
            x[name], means[name] = standardise.project(y, frames, weight, layer.bias)
        self._hide(x)
        return x, means

    def read(self, appearance: Tensor, landmark: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Standardise, project and join the streams: (B, width, T), and the mask (B, 1, T) float.

        Shapes as for TemporalModel.forward.
        """
        frames = mask.unsqueeze(2).to(appearance.dtype)  # (B, T, 1)
        x, _ = self.projected(appearance, landmark, frames)
        return torch.cat(list(x.values()), dim=1), frames.transpose(1, 2)
