"""Train a network, train it again, predict: what `fit` does once and `evaluate` in every fold."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from stages.fit import models
from stages.fit.batches import ClipData
from stages.fit.checkpoint import Checkpoint
from stages.fit.config import FitConfig
from stages.fit.frames import FrameSink
from stages.fit.loader import ClipLoader
from stages.fit.reproducible import reproducible
from stages.fit.trainer import (
    LabelScale,
    Progress,
    TrainResult,
    predict,
    refit,
    train,
)


def train_network(
    config: FitConfig,
    train_clips: ClipLoader,
    val_clips: ClipLoader,
    longest: int,
    seed: int,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[models.TemporalModel, dict[str, Any], TrainResult]:
    """Build the network that a configuration asks for and train it, see trainer.train.

    Parameters
    ----------
    config : FitConfig
    train_clips, val_clips : ClipLoader
        With labels in standardised units.
    longest : int
        Frames of the longest clip that will be scored; the ``max_frames`` of the model.
    seed : int
        Of the weights and of the order of the clips.
    progress : callable, optional
    checkpoint : Checkpoint, optional
        Where the training saves itself, and goes on from.

    Returns
    -------
    model, options, result
        ``options`` build the same network again, with other weights.
    """
    with reproducible(seed):
        given = config.model_options
        if "appearance_dim" in models.options(config.model):
            given = {"appearance_dim": sum(train_clips.widths), **given}
        options = models.complete(config.model, given, longest, train_clips.extra_width)
        options = models.get(config.model).settle(options, train_clips.attributes)
        model = _new(config, options, train_clips)
        result = train(model, train_clips, val_clips, config.train, seed, progress, checkpoint)
    return model, options, result


def refit_network(
    config: FitConfig,
    options: dict[str, Any],
    clips: ClipLoader,
    epochs: int,
    seed: int,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> models.TemporalModel:
    """Train a new network of those options on all clips given, see trainer.refit."""
    with reproducible(seed):
        model = _new(config, options, clips)
        refit(model, clips, epochs, config.train, seed, progress, checkpoint)
    return model


def _new(config: FitConfig, options: dict[str, Any], clips: ClipLoader) -> models.TemporalModel:
    """Build a network that is ready to be trained on those clips."""
    model = models.create(config.model, **options)
    model.set_statistics(clips.statistics())
    model.start()
    return model


def predict_scores(
    model: models.TemporalModel,
    loaders: Iterable[ClipLoader],
    label: LabelScale,
    config: FitConfig,
    frames: FrameSink | None = None,
) -> dict[str, float]:
    """Predictions by clip id, in label units; ``frames`` gets those of the frames."""
    watch = None if frames is None else frames.watch(label)
    found: dict[str, float] = {}
    for loader in loaders:
        clips, p, _ = predict(model, loader, config.train.batch_size, watch)
        found |= zip(clips, (p.double() * label.sd + label.mean).tolist(), strict=True)
    return found


def predict_classes(
    model: models.TemporalModel, loader: ClipLoader, config: FitConfig
) -> dict[str, dict[str, str]]:
    """Return the likeliest class by task and clip id; {} for a model of the score alone."""
    tasks = model.tasks()
    found: dict[str, dict[str, str]] = {task: {} for task in tasks}
    for batch in loader.batches(config.train.batch_size) if tasks else ():
        told = model.predict(batch.appearance, batch.landmark, batch.mask, batch.timestamp)
        for task, classes in tasks.items():
            best = told.classes[task].argmax(dim=1).tolist()
            found[task] |= {c: classes[k] for c, k in zip(batch.clips, best, strict=True)}
    return found


def shuffle_frames(seed: int) -> Callable[[ClipData], ClipData]:
    """Return what puts a clip's frames in random order, the same for the same clip and seed.

    Frames keep their two streams and whether they show a face; the clock runs on as it did.
    """

    def shuffle(clip: ClipData) -> ClipData:
        rng = np.random.default_rng((seed, zlib.crc32(clip.clip.encode())))
        order = rng.permutation(len(clip))
        return replace(
            clip,
            appearance=clip.appearance[order],
            landmark=clip.landmark[order],
            valid=clip.valid[order],
        )

    return shuffle
