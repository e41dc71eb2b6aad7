"""2S-TCN: appearance and landmark streams, attentive enhancement, TCNs, fusion of frame scores.

Source: Weng, Wang, Li and Wang, "Two-Stream Temporal Convolutional Network for Dynamic Facial
Attractiveness Prediction" (ICPR 2020; the slides are all that could be read). What they state and
what is our reading is told apart in docs and at each option. No published code is known.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.fit.models.base import (
    ModelError,
    Prediction,
    StreamStatistics,
    TemporalModel,
    choose,
    register,
)
from stages.fit.models.pooling import make_pooling
from stages.fit.models.tcn import TemporalConvNet, levels_to_cover, receptive_field
from store.schema import EMBEDDING_DIM, LANDMARK_DIM

STREAMS = ("both", "appearance", "landmarks")
DIRECTIONS = ("l2a", "a2l", "both")
GATES = ("sigmoid", "softmax")
MODALITY_FUSIONS = ("feature", "decision", "score")
TEMPORAL_FUSIONS = ("last", "affine", "max")


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
        frames = mask.sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1, 1)
        centre = (x * mask).sum(dim=1, keepdim=True) / frames  # (B, 1, C)
        static = (centre - self.mean) / self.sd  # (B, 1, C)
        if self.training and self.noise:
            static = static + self.noise * torch.randn_like(static)
        return self.gain * ((x - centre) / self.within + self.level * static) * mask


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


def _score_layer(channels: int) -> nn.Conv1d:
    """Score of a frame from its channels; the first scores lie near 0, the mean label."""
    layer = nn.Conv1d(channels, 1, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


@register("2stcn")
class TwoStreamTCN(TemporalModel):
    """The reference model; every row of the paper's ablation is a choice of its arguments.

    Parameters
    ----------
    streams : "both", "appearance" or "landmarks"
        Which streams are read. With one of them, attention and modality fusion do not exist.
    attention : bool, optional
        Attentive feature enhancement. Left out: on where there are two streams.
    direction : "l2a", "a2l" or "both"
        Which stream weighs which. ``l2a`` (landmarks weigh appearance) is our reading: the slides'
        attention falls with pose and distortion, which landmarks show.
    gate : "sigmoid" or "softmax"
    residual : bool
        x (1 + w) instead of x w.
    modality_fusion : "feature", "decision" or "score"
        ``feature``: streams concatenated before one TCN. ``decision``: the outputs of two TCNs
        concatenated before the score of a frame. ``score``: mean of the two streams' clip scores.
    temporal_fusion : "last", "affine" or "max"
    channels, kernel_size : int
    levels : int, optional
        TCN blocks. Left out: as few as cover ``max_frames``.
    max_frames : int
        Frames of the longest clip. Longer ones can be scored; no frame then sees all of them.
    dropout : float
        Within the TCN blocks, Bai et al.
    appearance_dropout, landmark_dropout : float
        Share of clips from which that stream is hidden while training (never both), where there
        are two: neither stream may be leant on alone. Ours.
    level : float
        Scale of a clip's mean beside the motion around it, see Standardise. Ours.
    clip_noise : float
        Noise on a clip's mean while training, in standard deviations, see Standardise. Ours.
    causal : bool
        True as in Bai et al.: frame t sees what came before it. False, the default, is ours: a clip
        is scored when it is over, so each frame may see as many frames after it as before it; with
        60 training clips held-out SRC was about .05 to .1 higher. The slides state neither.
        ``last`` pooling wants True: a centred last frame sees only the second half of its field.
    affine_points : int
        See AffinePooling.
    appearance_dim : int
        Width of the appearance stream.

    Raises
    ------
    ModelError
        For a value that is not listed here.
    """

    def __init__(
        self,
        streams: str = "both",
        attention: bool | None = None,
        direction: str = "l2a",
        gate: str = "sigmoid",
        residual: bool = True,
        modality_fusion: str = "decision",
        temporal_fusion: str = "max",
        channels: int = 16,
        kernel_size: int = 3,
        levels: int | None = None,
        max_frames: int = 323,
        dropout: float = 0.2,
        appearance_dropout: float = 0.5,
        landmark_dropout: float = 0.25,
        level: float = 0.3,
        clip_noise: float = 0.3,
        causal: bool = False,
        affine_points: int = 32,
        appearance_dim: int = EMBEDDING_DIM,
    ) -> None:
        super().__init__()
        self.streams = choose("streams", streams, STREAMS)
        self.direction = choose("direction", direction, DIRECTIONS)
        self.modality_fusion = choose("modality_fusion", modality_fusion, MODALITY_FUSIONS)
        choose("gate", gate, GATES)
        choose("temporal_fusion", temporal_fusion, TEMPORAL_FUSIONS)
        if attention and streams != "both":
            raise ModelError(f"attention needs two streams; streams is '{streams}'")
        for name, value, least in (
            ("channels", channels, 1),
            ("kernel_size", kernel_size, 2),
            ("levels", 1 if levels is None else levels, 1),
            ("max_frames", max_frames, 1),
            ("affine_points", affine_points, 2),
        ):
            if value < least:
                raise ModelError(f"{name} must be at least {least}, not {value}")
        for name, share in (
            ("dropout", dropout),
            ("appearance_dropout", appearance_dropout),
            ("landmark_dropout", landmark_dropout),
            ("appearance_dropout + landmark_dropout", appearance_dropout + landmark_dropout),
        ):
            if not 0 <= share < 1:
                raise ModelError(f"{name} must be at least 0 and below 1, not {share}")
        for name, amount in (("level", level), ("clip_noise", clip_noise)):
            if amount < 0:
                raise ModelError(f"{name} must be at least 0, not {amount}")

        both = streams == "both"
        self.attention = both if attention is None else attention
        self.residual = residual
        self.hidden = (appearance_dropout, landmark_dropout)
        self.levels = levels_to_cover(max_frames, kernel_size) if levels is None else levels
        self.receptive_field = receptive_field(kernel_size, self.levels)

        self.standardise_appearance = Standardise(appearance_dim, level, clip_noise)
        self.standardise_landmark = Standardise(LANDMARK_DIM, level, clip_noise)
        self.project = nn.ModuleDict()
        if streams != "landmarks":
            self.project["appearance"] = nn.Conv1d(appearance_dim, channels, 1)
        if streams != "appearance":
            self.project["landmark"] = nn.Conv1d(LANDMARK_DIM, channels, 1)

        self.gates = nn.ModuleDict()
        if self.attention and direction in ("l2a", "both"):
            self.gates["l2a"] = FrameGate(channels, gate)
        if self.attention and direction in ("a2l", "both"):
            self.gates["a2l"] = FrameGate(channels, gate)

        joined = both and modality_fusion == "feature"
        branches = 1 if joined or not both else 2
        self.tcn = nn.ModuleList(
            TemporalConvNet(
                2 * channels if joined else channels,
                channels,
                kernel_size,
                self.levels,
                dropout,
                causal,
            )
            for _ in range(branches)
        )
        heads = 2 if both and modality_fusion == "score" else 1
        width = channels * branches // heads
        self.head = nn.ModuleList(_score_layer(width) for _ in range(heads))
        self.pool = nn.ModuleList(
            make_pooling(temporal_fusion, affine_points) for _ in range(heads)
        )

    def set_statistics(self, statistics: StreamStatistics) -> None:
        """Take the training frames' statistics, by which the streams are standardised."""
        self.standardise_appearance.set(
            statistics.appearance_mean, statistics.appearance_sd, statistics.appearance_within
        )
        self.standardise_landmark.set(
            statistics.landmark_mean, statistics.landmark_sd, statistics.landmark_within
        )

    def _hide(self, x: dict[str, Tensor]) -> None:
        """While training, hide one stream from some of the clips; never both from one."""
        if not self.training or len(x) < 2 or self.hidden == (0, 0):
            return
        some = x["landmark"]
        draw = torch.rand(len(some), 1, 1, device=some.device)  # (B, 1, 1)
        x["appearance"] = x["appearance"] * (draw >= self.hidden[0])
        x["landmark"] = x["landmark"] * (draw < 1 - self.hidden[1])

    def _enhance(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * (1 + weight) if self.residual else x * weight

    def forward(
        self, appearance: Tensor, landmark: Tensor, mask: Tensor, timestamp: Tensor | None = None
    ) -> Prediction:
        """Score a padded batch, see TemporalModel.forward; ``timestamp`` is not read."""
        frames = mask.unsqueeze(2).to(appearance.dtype)  # (B, T, 1)
        m = frames.transpose(1, 2)  # (B, 1, T)
        x: dict[str, Tensor] = {}
        for name, raw, scale in (
            ("appearance", appearance, self.standardise_appearance),
            ("landmark", landmark, self.standardise_landmark),
        ):
            if name in self.project:
                scaled = scale(raw, frames).transpose(1, 2)  # (B, D, T)
                x[name] = self.project[name](scaled) * m  # (B, C, T)

        self._hide(x)

        weights: dict[str, Tensor] = {}
        if "l2a" in self.gates:
            weights["l2a"] = self.gates["l2a"](x["landmark"], m)  # (B, 1, T)
        if "a2l" in self.gates:
            weights["a2l"] = self.gates["a2l"](x["appearance"], m)  # (B, 1, T)
        # Both weights come from the streams as they were: neither direction goes first.
        if "l2a" in weights:
            x["appearance"] = self._enhance(x["appearance"], weights["l2a"])
        if "a2l" in weights:
            x["landmark"] = self._enhance(x["landmark"], weights["a2l"])

        inputs = list(x.values())
        if len(inputs) > len(self.tcn):
            inputs = [torch.cat(inputs, dim=1)]  # (B, 2C, T)
        hidden = [tcn(z, m) for tcn, z in zip(self.tcn, inputs, strict=True)]  # each (B, C, T)
        if len(hidden) > len(self.head):
            hidden = [torch.cat(hidden, dim=1)]  # (B, 2C, T)
        scores = [
            head(h).squeeze(1) * mask for head, h in zip(self.head, hidden, strict=True)
        ]  # each (B, T)
        pooled = [pool(s, mask) for pool, s in zip(self.pool, scores, strict=True)]  # each (B,)

        a = {key: weight.squeeze(1) for key, weight in weights.items()}  # each (B, T)
        return Prediction(
            score=torch.stack(pooled).mean(dim=0),  # (B,)
            frame_score=torch.stack(scores).mean(dim=0),  # (B, T)
            attention=a.get("l2a", a.get("a2l")),
            attention_landmark=a.get("a2l"),
        )
