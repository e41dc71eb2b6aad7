"""What `fit` does between the split and the tables: a model on its parts, and what saves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from stages.fit.config import FitConfig
from stages.fit.fitting import predict_classes, predict_scores, refit_network, train_network
from stages.fit.frames import FrameSink
from stages.fit.learner import EpochRow
from stages.fit.loader import ClipLoader
from stages.fit.logs import EpochLogs
from stages.fit.pooled_base import PooledModel
from stages.fit.pooled_models import create, words
from stages.fit.protocol import Part
from stages.fit.provenance import facepipe_version
from stages.fit.run_files import save_model, save_pooled
from stages.fit.trainer import LabelScale, Progress, TrainResult
from stages.fit.unfinished import Unfinished


@dataclass(frozen=True)
class Parts:
    """The labelled clips of a fit, divided.

    Attributes
    ----------
    config : FitConfig
    table : DataFrame
        A row a clip: clip, group, part, target, and the labels' columns.
    loaders : mapping of part to ClipLoader
    loader_of : callable
        Makes another loader, of rows of the table.
    label : LabelScale
        In which units the loaders have the targets.
    """

    config: FitConfig
    table: pd.DataFrame
    loaders: Mapping[Part, ClipLoader]
    loader_of: Callable[[pd.DataFrame], ClipLoader]
    label: LabelScale


@dataclass(frozen=True)
class FittedModel:
    """A fitted model: predictions by clip in units of the target, and how training went.

    Validation clips are predicted by a model that has not seen them. ``save`` writes the model into
    a folder, ``config.json`` last. ``classes``: what was told of the test clips by task, see
    predict_classes.
    """

    predictions: dict[str, float]
    result: TrainResult
    save: Callable[[Path], None]
    classes: dict[str, dict[str, str]] = field(default_factory=dict)


def fit_network(
    given: Parts,
    work: Unfinished,
    frames: FrameSink | None = None,
    progress: Progress | None = None,
    echo: Callable[[str], None] = lambda _: None,
) -> FittedModel:
    """Train a network; its epochs are kept in ``work`` and gone on with."""
    config, loaders, label = given.config, given.loaders, given.label
    longest = max(loader.longest() for loader in loaders.values())
    with closing(EpochLogs(work.folder, config.train.tensorboard)) as logs:

        def log(row: EpochRow) -> None:
            logs.epoch(row)
            if progress is not None:
                progress(row)

        model, options, result = train_network(
            config,
            loaders["train"],
            loaders["val"],
            longest,
            config.seed,
            log,
            work.checkpoint("train"),
        )
        predictions = predict_scores(model, loaders.values(), label, config, frames)
        if config.train.refit:
            echo(f"training again on train and val together, {result.best_epoch} epochs")
            loaders["train"].release()
            loaders["val"].release()
            both = given.loader_of(given.table[given.table["part"] != "test"])

            def log_again(row: EpochRow) -> None:
                logs.refit(row)
                if progress is not None:
                    progress(row | {"of": result.best_epoch})

            model = refit_network(
                config,
                options,
                both,
                result.best_epoch,
                config.seed,
                log_again,
                work.checkpoint("refit"),
            )
            # The validation part keeps the predictions of the network that had not seen it.
            seen_and_test = [loaders["train"], loaders["test"]]
            predictions |= predict_scores(model, seen_and_test, label, config, frames)

    def save(folder: Path) -> None:
        version, epoch = facepipe_version(), result.best_epoch
        save_model(folder, model, config, options, label, epoch, version)

    classes = predict_classes(model, loaders["test"], config)
    return FittedModel(predictions, result, save, classes)


def fit_pooled(given: Parts) -> FittedModel:
    """Fit a pooled model, which needs no epoch chosen: as `fit_network`, without the epochs."""
    config, loaders = given.config, given.loaders
    by_clip = given.table.set_index("clip")

    def fitted(parts: Sequence[Part]) -> PooledModel:
        model = create(config.model, config.seed, **config.model_options)
        order = by_clip.loc[[span.clip for part in parts for span in loaders[part].clips]]
        # One clip after the other: the budget of the loaders holds for their clips, not for a list.
        clips = chain.from_iterable(loaders[part].iter_clips() for part in parts)
        target, column = order["target"].to_numpy(np.float64), words(model, order)
        return model.fit(clips, target, column, order["group"].tolist())

    def predicted(model: PooledModel, part: Part) -> dict[str, float]:
        names = [span.clip for span in loaders[part].clips]
        found = model.predict(loaders[part].iter_clips()).tolist()
        return dict(zip(names, found, strict=True))

    # The validation part keeps the predictions of the model that had not seen it.
    predictions = predicted(fitted(["train"]), "val")
    model = fitted(["train", "val"])
    both: tuple[Part, ...] = ("train", "test")
    for part in both:
        predictions |= predicted(model, part)

    def save(folder: Path) -> None:
        save_pooled(folder, model, config, facepipe_version())

    return FittedModel(predictions, TrainResult([], 0), save)
