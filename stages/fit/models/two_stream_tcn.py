"""2S-TCN: appearance and landmark streams, attentive enhancement, TCNs, fusion of frame scores.

Source: Weng, Wang, Li and Wang, "Two-Stream Temporal Convolutional Network for Dynamic Facial
Attractiveness Prediction" (ICPR 2020; the slides are all that could be read). What they state and
what is our reading is told apart in docs and at each option. No published code is known.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.fit.models.base import ModelError, Prediction, choose, register
from stages.fit.models.layers import FrameGate, TwoStreamModel, at_least, score_layer, shares
from stages.fit.models.pooling import TEMPORAL_FUSIONS, fuse, make_pooling
from stages.fit.models.tcn import TemporalConvNet, levels_to_cover, receptive_field
from store.schema import EMBEDDING_DIM

DIRECTIONS = ("l2a", "a2l", "both")
GATES = ("sigmoid", "softmax")
MODALITY_FUSIONS = ("feature", "decision", "score")


@register("2stcn")
class TwoStreamTCN(TwoStreamModel):
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
    extra_dim : int
        Width of a third stream, 0 for none: a branch of its own, fused as the two are, outside the
        attention. Ours.

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
        extra_dim: int = 0,
    ) -> None:
        super().__init__(
            streams,
            channels,
            appearance_dim,
            level,
            clip_noise,
            appearance_dropout,
            landmark_dropout,
            extra_dim,
        )
        self.direction = choose("direction", direction, DIRECTIONS)
        self.modality_fusion = choose("modality_fusion", modality_fusion, MODALITY_FUSIONS)
        choose("gate", gate, GATES)
        choose("temporal_fusion", temporal_fusion, TEMPORAL_FUSIONS)
        if attention and streams != "both":
            raise ModelError(f"attention needs two streams; streams is '{streams}'")
        at_least(
            kernel_size=(kernel_size, 2),
            levels=(1 if levels is None else levels, 1),
            max_frames=(max_frames, 1),
            affine_points=(affine_points, 2),
        )
        shares(dropout=dropout)

        both = streams == "both"
        self.attention = both if attention is None else attention
        self.residual = residual
        self.levels = levels_to_cover(max_frames, kernel_size) if levels is None else levels
        self.receptive_field = receptive_field(kernel_size, self.levels)

        self.gates = nn.ModuleDict()
        if self.attention and direction in ("l2a", "both"):
            self.gates["l2a"] = FrameGate(channels, gate)
        if self.attention and direction in ("a2l", "both"):
            self.gates["a2l"] = FrameGate(channels, gate)

        streams_read = len(self.project)
        joined = streams_read > 1 and modality_fusion == "feature"
        branches = 1 if joined else streams_read
        self.tcn = nn.ModuleList(
            TemporalConvNet(
                self.width if joined else channels,
                channels,
                kernel_size,
                self.levels,
                dropout,
                causal,
            )
            for _ in range(branches)
        )
        heads = branches if modality_fusion == "score" else 1
        width = channels * branches // heads
        self.head = nn.ModuleList(score_layer(width) for _ in range(heads))
        self.pool = nn.ModuleList(
            make_pooling(temporal_fusion, affine_points) for _ in range(heads)
        )

    def _enhance(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * (1 + weight) if self.residual else x * weight

    def forward(
        self, appearance: Tensor, landmark: Tensor, mask: Tensor, timestamp: Tensor | None = None
    ) -> Prediction:
        """Score a padded batch, see TemporalModel.forward; ``timestamp`` is not read."""
        frames = mask.unsqueeze(2).to(appearance.dtype)  # (B, T, 1)
        m = frames.transpose(1, 2)  # (B, 1, T)
        x, _ = self.projected(appearance, landmark, frames)  # each (B, C, T)

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
        score, won = fuse(self.pool, scores, mask)  # (B,), (B, T)
        a = {key: weight.squeeze(1) for key, weight in weights.items()}  # each (B, T)
        return Prediction(
            score=score,
            frame_score=torch.stack(scores).mean(dim=0),  # (B, T)
            won=won,
            attention=a.get("l2a", a.get("a2l")),
            attention_landmark=a.get("a2l"),
        )
