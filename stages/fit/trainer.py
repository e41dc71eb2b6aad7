"""Training: batches in, the weights of the best epoch on validation out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from stages.fit.batches import Batch
from stages.fit.checkpoint import Checkpoint, Snapshot, named
from stages.fit.config import TrainConfig
from stages.fit.guard import TrainingError
from stages.fit.learner import EpochRow, Learner
from stages.fit.loader import ClipLoader
from stages.fit.metrics import spearman
from stages.fit.models import Prediction, TemporalModel

Progress = Callable[[EpochRow], None]


@dataclass(frozen=True)
class LabelScale:
    """Mean and standard deviation of the training labels; models predict in these units."""

    mean: float
    sd: float

    @classmethod
    def of(cls, scores: list[float]) -> LabelScale:
        """Take them from the training part's labels; equal labels get a deviation of 1."""
        values = np.asarray(scores, np.float64)
        sd = float(values.std())
        return cls(float(values.mean()), sd if sd > 1e-12 else 1.0)


@dataclass(frozen=True)
class TrainResult:
    """Rows of per-epoch metrics, and which epoch's weights the model now holds (from 1)."""

    epochs: list[EpochRow] = field(repr=False)
    best_epoch: int


Watch = Callable[[Batch, Prediction], None]


def predict(
    model: TemporalModel, loader: ClipLoader, batch_size: int = 16, watch: Watch | None = None
) -> tuple[list[str], Tensor, Tensor]:
    """Score every clip in standardised units: clip ids, (n,) predictions, (n,) labels.

    ``watch`` is shown every batch with all that the model says of it.
    """
    clips: list[str] = []
    p, g = [], []
    device = next(model.parameters()).device
    with parametrize.cached():  # the weights do not change: their norms are taken once
        for batch in loader.batches(batch_size):
            b = batch.to(device)
            prediction = model.predict(b.appearance, b.landmark, b.mask, b.timestamp)
            clips += batch.clips
            if watch is not None:
                watch(batch, prediction)
            p.append(prediction.score.cpu())
            g.append(batch.score)
    return clips, torch.cat(p), torch.cat(g)


class EpochChoice:
    """Which epoch's weights to keep, from the squared errors of the validation clips.

    The last epoch that is not worse than the best one by more than one standard error of the
    difference, clip by clip (the one-standard-error rule of Breiman et al., 1984). Over some twenty
    clips the lowest error falls on any of a hundred epochs by luck, while the later ones had a
    lower learning rate; over a thousand the standard error is small and this is early stopping as
    everyone knows it. On six splits of rendered clips like the demo's (160 clips, 24 of them for
    validation) the lowest error alone chose epochs of held-out SRC .77 on average and .60 at worst,
    this rule .79 and .66. SRC itself does not choose: it takes few values and is blind to scale.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._best: npt.NDArray[np.float64] | None = None

    def offer(self, epoch: int, error: npt.NDArray[np.float64]) -> bool:
        """Whether to keep this epoch, given the (n,) squared errors; never if not all finite."""
        if not np.isfinite(error).all():
            return False
        if self._best is None or error.mean() < self._best.mean():
            self._best = error
        difference = error - self._best
        spread = float(difference.std(ddof=1)) if len(error) > 1 else 0.0
        if float(difference.mean()) > spread / math.sqrt(len(error)):
            return False
        self.epoch = epoch
        return True

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps of it, beside ``epoch``."""
        return {} if self._best is None else {"best_error": torch.from_numpy(self._best)}

    def restore(self, saved: Snapshot) -> None:
        """Go on from a checkpoint."""
        self.epoch = int(saved.facts["chosen"])
        if "best_error" in saved.tensors:
            self._best = saved.tensors["best_error"].numpy()


def train(
    model: TemporalModel,
    train_clips: ClipLoader,
    val_clips: ClipLoader,
    config: TrainConfig,
    seed: int,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainResult:
    """Train in place; the model ends with the averaged weights of the best epoch.

    See EpochChoice for which epoch that is. The test part is not known here.

    Call it within ``reproducible`` for the same weights every time. With a ``checkpoint`` it goes
    on after the last epoch that was saved there, if any, and saves itself after every epoch: on the
    CPU the result is bit for bit that of a training that was never interrupted.

    Parameters
    ----------
    progress : callable, optional
        Gets every epoch's row once it is saved, those that were done before first.

    Raises
    ------
    TrainingError
        A loss or gradient that is not finite; names the clips.
    CheckpointError
        What was saved is damaged, or of a training on other features.
    """
    learner = Learner(model, config)
    choice = EpochChoice()
    best = _copied(learner)
    rows: list[EpochRow] = []
    if checkpoint is not None and (saved := checkpoint.load()) is not None:
        learner.restore(saved)
        choice.restore(saved)
        best = saved.part("best")
        rows = saved.facts["rows"]
    if progress is not None:
        for row in rows:
            progress(row)
    while learner.epoch < config.epochs and learner.epoch - choice.epoch < config.patience:
        row = learner.run_epoch(train_clips, seed)
        _, p, g = predict(learner.average.model, val_clips, config.batch_size)
        error = ((p - g) ** 2).double().numpy()
        row |= {
            "val_mse": float(error.mean()),
            "val_src": spearman(p.double().numpy(), g.double().numpy()),
        }
        rows.append(row)
        if choice.offer(learner.epoch, error):
            best = _copied(learner)
        if checkpoint is not None:
            now = learner.snapshot()
            tensors = now.tensors | named("best", best) | choice.tensors()
            checkpoint.save(Snapshot(tensors, now.facts | {"rows": rows, "chosen": choice.epoch}))
        if progress is not None:
            progress(row)
    learner.close(best)
    if choice.epoch == 0:
        raise TrainingError(
            "the validation error was never finite", "lower lr, or check the scores for absurd ones"
        )
    return TrainResult(rows, choice.epoch)


def refit(
    model: TemporalModel,
    clips: ClipLoader,
    epochs: int,
    config: TrainConfig,
    seed: int,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train in place for a number of epochs that is settled, on all clips given.

    Nothing is left to validate on, nor to choose: the steps and learning rates are those that
    ``train`` took to its best epoch. The model ends with the averaged weights. ``progress`` and
    ``checkpoint`` as for ``train``.
    """
    learner = Learner(model, config)
    rows: list[EpochRow] = []
    if checkpoint is not None and (saved := checkpoint.load()) is not None:
        learner.restore(saved)
        rows = saved.facts["rows"]
    if progress is not None:
        for row in rows:
            progress(row)
    while learner.epoch < epochs:
        rows.append(learner.run_epoch(clips, seed))
        if checkpoint is not None:
            now = learner.snapshot()
            checkpoint.save(Snapshot(now.tensors, now.facts | {"rows": rows}))
        if progress is not None:
            progress(rows[-1])
    learner.close(learner.average.model.state_dict())


def _copied(learner: Learner) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in learner.average.model.state_dict().items()}
