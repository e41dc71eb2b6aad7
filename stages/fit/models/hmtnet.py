"""HMTNet: tasks leave one trunk at rising depth, the easier the earlier; the score leaves last.

Source: Xu, Fan and Xiang, "Hierarchical Multi-Task Network for Race, Gender and Facial
Attractiveness Recognition", ICIP 2019: its slides (aggregator, branches, losses) and, where they
are silent, the repository lucasxlu/HMTNet (layers, weights 1:1:2, five crops). Not taken over: the
rectified logits, the jump in the slide's loss (smooth_huber.py), and choosing the epoch on the test
part. Ours: any columns as tasks, frozen features as a backbone, and the score's loss in deviations
of the label.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, nll_loss

from stages.fit import tasks as labelled
from stages.fit.batches import Batch
from stages.fit.models import vision
from stages.fit.models.base import ModelError, Prediction, choose, register
from stages.fit.models.frames import (
    PICTURE_MEAN,
    PICTURE_SD,
    FrameModel,
    Windows,
    by_clip,
    check_pictures,
    over_windows,
)
from stages.fit.models.layers import at_least, shares
from stages.fit.models.pooling import equal_shares
from stages.fit.models.trunks import Trunk, feature_trunk, vgg_m_trunk, vision_trunk
from stages.fit.pictures import Pictures
from stages.fit.smooth_huber import SCORE_LOSSES, ScoreLoss, score_loss
from store.schema import EMBEDDING_DIM

if TYPE_CHECKING:
    from stages.fit.config import TrainConfig

FEATURES = "features"
BACKBONES = (FEATURES, "vgg-m", "resnet18", "resnext50", "mobilenet")


def over_places(x: Tensor) -> Tensor:
    """Average a map over its places: (N, C, H, W) -> (N, C); (N, C) as it is."""
    return x if x.dim() == 2 else x.mean(dim=(2, 3))


class Branch(nn.Module):
    """Logits of one task from a map: two convolutions of its own, one to the classes, a mean.

    As published for pictures, but for the ReLU on the logits; behind features two linear layers.
    """

    def __init__(self, channels: int, classes: int, pictures: bool, hidden: int) -> None:
        super().__init__()
        if pictures:
            self.layers = nn.Sequential(
                *(nn.Conv2d(channels, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU()),
                *(nn.Conv2d(256, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU()),
                nn.MaxPool2d(3, ceil_mode=True),
                *(nn.Conv2d(128, classes, 1, stride=2), nn.BatchNorm2d(classes)),
            )
        else:
            self.layers = nn.Sequential(
                *(nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.ReLU()),
                nn.Linear(hidden, classes),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) or (N, C) -> (N, classes)."""
        return over_places(self.layers(x))


@register("hmtnet")
class HMTNet(FrameModel):
    """Score and classes of each frame from one trunk, branches leaving it at rising depth.

    Parameters
    ----------
    backbone : str
        ``features``: the store's frozen features (the setting ``stream``). Otherwise a network that
        reads the store's crops: ``vgg-m`` (the published shape), ``resnet18``, ``resnext50``,
        ``mobilenet`` (these of torchvision).
    tasks : list of str or names with commas between, or dict of list of str, optional
        Columns of the labels that name classes, from the easiest to the hardest: the first half of
        them leaves early, the second half in the middle. None: every column of words. A dict gives
        the classes too; the training part's are put in its place.
    aggregate : "average" or "concat"
    score_weight, class_weight : float
        Of the score's loss, and of each task's; 2 and 1 are the published weights.
    score_loss : str
        See smooth_huber.py.
    delta : float
        Its corner, in standard deviations of the label.
    hidden : int
        Channels of the layers behind features.
    input_dropout, dropout : float
        On features, and behind each layer on them.
    size : int
        Side of the pictures, pixels.
    margin, flip, rotation, colour
        See Pictures.
    test_crops : "five" or "centre"
        Windows of a picture that are averaged in testing.
    weights : str, optional
        A safetensors file from which a network of torchvision starts.
    appearance_dim : int
    """

    has_tasks = True

    def __init__(
        self,
        backbone: str = FEATURES,
        tasks: dict[str, list[str]] | list[str] | str | None = None,
        aggregate: str = "average",
        score_weight: float = 2.0,
        class_weight: float = 1.0,
        score_loss: str = "smooth-huber",
        delta: float = 0.6,
        hidden: int = 256,
        input_dropout: float = 0.2,
        dropout: float = 0.5,
        size: int = 224,
        margin: float = 1 / 7,
        flip: bool = True,
        rotation: float = 10.0,
        colour: float = 0.2,
        test_crops: str = "five",
        weights: str | None = None,
        appearance_dim: int = EMBEDDING_DIM,
    ) -> None:
        pictures = choose("backbone", backbone, BACKBONES) != FEATURES
        if pictures:
            check_pictures(size, margin, rotation, colour)
            super().__init__(PICTURE_MEAN, PICTURE_SD)
        else:
            super().__init__([0.0] * appearance_dim, [1.0] * appearance_dim)
        at_least(hidden=(hidden, 1), score_weight=(score_weight, 0), class_weight=(class_weight, 0))
        shares(input_dropout=input_dropout, dropout=dropout)
        if delta <= 0:
            raise ModelError(f"delta must be above 0, not {delta}")
        choose("score_loss", score_loss, SCORE_LOSSES)
        self._score_loss: ScoreLoss = score_loss  # type: ignore[assignment]
        self._delta = delta
        self._weight = (score_weight, class_weight)
        self._classes = dict(tasks) if isinstance(tasks, dict) else {}
        self._weights = weights
        self._network: list[nn.Module] = []  # in a list: its weights are the trunk's
        self.windows = Windows(size, test_crops) if pictures else None
        self.trunk: Trunk
        if backbone == FEATURES:
            self.trunk = feature_trunk(appearance_dim, hidden, input_dropout, dropout, aggregate)
        elif backbone == "vgg-m":
            self.trunk = vgg_m_trunk(size, aggregate)
        else:
            self.trunk, network = vision_trunk(backbone, aggregate)
            self._network = [network]
        if weights is not None and not self._network:
            raise ModelError(f"weights go with a network of torchvision, not with {backbone}")
        early, middle, late = self.trunk.channels
        self.branch = nn.ModuleList()
        self._leaves: list[int] = []
        for k, names in enumerate(self._classes.values()):
            depth = 2 * k // len(self._classes)
            self._leaves.append(depth)
            self.branch.append(
                Branch((early, middle)[depth], len(names), pictures, hidden // 2 or 1)
            )
        self.head = nn.Conv2d(late, 1, 1) if pictures else nn.Linear(late, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    @classmethod
    def pictures(cls, options: Mapping[str, Any]) -> Pictures | None:
        """Return the pictures that a backbone of convolutions reads."""
        if options["backbone"] == FEATURES:
            return None
        return Pictures(*(options[k] for k in ("size", "margin", "flip", "rotation", "colour")))

    @classmethod
    def settle(cls, options: Mapping[str, Any], attributes: labelled.Attributes) -> dict[str, Any]:
        """Put the classes of the training clips in place of the tasks' names."""
        named = options["tasks"]
        if isinstance(named, str):  # gender,race, as the command line has lists
            named = [part.strip() for part in named.split(",") if part.strip()]
        found = labelled.find_tasks(attributes, None if named is None else list(named))
        return {**options, "tasks": found}

    def start(self) -> None:
        """Load the weights that the options name."""
        if self._weights is not None:
            vision.load_weights(self._network[0], self._weights)

    def tasks(self) -> Mapping[str, list[str]]:
        """Return the classes of each task."""
        return self._classes

    def forward(
        self, appearance: Tensor, landmark: Tensor, mask: Tensor, timestamp: Tensor | None = None
    ) -> Prediction:
        """Score a padded batch, see TemporalModel.forward; landmarks and times are not read."""
        frames = self.valid_frames(appearance, mask)  # (N, Da) or (N, F, F, 3)
        if self.windows is None:
            x = (frames - self.mean) / self.sd  # (N, Da)
        else:
            seen = self.windows(frames)
            x = (seen - self.mean[:, None, None]) / self.sd[:, None, None]  # (W N, 3, S, S)
        maps = self.trunk(x)
        score = over_windows(over_places(self.head(maps[2])), len(frames))  # (N, 1)
        frame_score, clip_score = by_clip(score, mask)
        classes = {}
        for task, branch, depth in zip(self._classes, self.branch, self._leaves, strict=True):
            logits = over_windows(branch(maps[depth]), len(frames))  # (N, C)
            classes[task] = log_softmax(by_clip(logits, mask)[1], dim=1)
        return Prediction(
            clip_score.squeeze(1), frame_score.squeeze(2), won=equal_shares(mask), classes=classes
        )

    def loss(self, prediction: Prediction, batch: Batch, config: TrainConfig) -> Tensor:
        """Weighted sum of the score's loss and each task's cross-entropy.

        A clip without a label of a task, or with one that the training part lacks, adds nothing to
        it. The settings ``train.alpha``, ``delta``, ``loss`` and ``plcc`` are not read.
        """
        form, (score, task_weight) = self._score_loss, self._weight
        total = score * score_loss(prediction.score, batch.score, form, self._delta)
        for task, names in self._classes.items():
            code = {name: k for k, name in enumerate(names)}
            rows = [row.get(task, "") for row in batch.attributes]
            truth = torch.tensor([code.get(word, -1) for word in rows], device=total.device)
            known = max(int((truth >= 0).sum()), 1)
            told = nll_loss(prediction.classes[task], truth, ignore_index=-1, reduction="sum")
            total = total + task_weight * told / known
        return total
