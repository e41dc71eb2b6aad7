"""Networks of single pictures: the static baselines of the 2S-TCN paper's Table II.

Source: the slides of the 2S-TCN, Table II, in which AlexNet (Krizhevsky et al., 2012), ResNet-18
(He et al., 2016) and ResNeXt-50 (Xie et al., 2017) stand, as torchvision has them. How the paper
made one score of a clip's frames is not stated; here it is the mean over its crops. Weights are
random, or come from a local file: nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from stages.fit.models import vision
from stages.fit.models.base import Prediction, register
from stages.fit.models.frames import (
    PICTURE_MEAN,
    PICTURE_SD,
    FrameModel,
    Windows,
    by_clip,
    check_pictures,
    mean_shares,
    over_windows,
)
from stages.fit.pictures import Pictures


class StaticModel(FrameModel):
    """One of torchvision's classifiers with one output, the score of a picture.

    Parameters
    ----------
    size : int
        Side of the pictures, pixels.
    margin, flip, rotation, colour
        See Pictures.
    test_crops : "centre" or "five"
        Windows of a picture that are averaged in testing.
    weights : str, optional
        A safetensors file with torchvision's names; its last layer is left out.
    """

    network: ClassVar[str]

    def __init__(
        self,
        size: int = 224,
        margin: float = 1 / 7,
        flip: bool = True,
        rotation: float = 10.0,
        colour: float = 0.2,
        test_crops: str = "centre",
        weights: str | None = None,
    ) -> None:
        super().__init__(PICTURE_MEAN, PICTURE_SD)
        check_pictures(size, margin, rotation, colour)
        self.windows = Windows(size, test_crops)
        self.body = vision.build(self.network)
        self._weights = weights
        place = "classifier.6" if self.network == "alexnet" else "fc"
        old = self.body.get_submodule(place)
        assert isinstance(old, nn.Linear)
        head = nn.Linear(old.in_features, 1)
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
        self.body.set_submodule(place, head)

    @classmethod
    def pictures(cls, options: Mapping[str, Any]) -> Pictures | None:
        """Return the pictures that these options ask for."""
        return Pictures(*(options[k] for k in ("size", "margin", "flip", "rotation", "colour")))

    def start(self) -> None:
        """Load the weights that the options name."""
        if self._weights is not None:
            vision.load_weights(self.body, self._weights)

    def forward(
        self, appearance: Tensor, landmark: Tensor, mask: Tensor, timestamp: Tensor | None = None
    ) -> Prediction:
        """Score a padded batch, see TemporalModel.forward; the crops alone are read."""
        frames = self.valid_frames(appearance, mask)  # (N, F, F, 3)
        seen = self.windows(frames)
        x = (seen - self.mean[:, None, None]) / self.sd[:, None, None]  # (W N, 3, S, S)
        frame_score, clip_score = by_clip(over_windows(self.body(x), len(frames)), mask)
        shares = mean_shares(mask)
        return Prediction(clip_score.squeeze(1), frame_score.squeeze(2), won=shares)


@register("alexnet")
class AlexNet(StaticModel):
    """AlexNet on single crops; a clip is the mean of its crops."""

    network = "alexnet"


@register("resnet18")
class ResNet18(StaticModel):
    """ResNet-18 on single crops; a clip is the mean of its crops."""

    network = "resnet18"


@register("resnext50")
class ResNeXt50(StaticModel):
    """ResNeXt-50 (32x4d) on single crops; a clip is the mean of its crops."""

    network = "resnext50"
