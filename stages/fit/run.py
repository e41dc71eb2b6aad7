"""Fit one model: store and labels in, a run folder with the model and its measured worth out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

import store
from stages.fit import models
from stages.fit.baselines import time_average_ridge
from stages.fit.config import FitConfig, check_options
from stages.fit.contestants import MEANPOOL
from stages.fit.dynamics.features import keep_generator
from stages.fit.fit_parts import Parts, fit_network, fit_pooled
from stages.fit.frames import ClipFrames, FrameSink
from stages.fit.grouping import find_split
from stages.fit.labels import Labels, read_labels, unscaled
from stages.fit.learner import device_of
from stages.fit.loader import Budget, ClipLoader
from stages.fit.logs import check_tensorboard
from stages.fit.metrics import Metrics, measure
from stages.fit.pooled_models import POOLED_MODELS
from stages.fit.protocol import PARTS
from stages.fit.provenance import StorePath, identity_of, provenance_of
from stages.fit.run_files import (
    FEATURES,
    LABELS,
    METRICS,
    PREDICTIONS,
    PROVENANCE,
    SPLIT,
    RunError,
    write_json,
)
from stages.fit.run_folder import (
    Run,
    check_tells_frames,
    load_run,
    make_loader,
    newest_run,
)
from stages.fit.spans import FeatureStore, clip_spans
from stages.fit.targets import Target
from stages.fit.tasks import Accuracy, accuracy_of, attributes_of
from stages.fit.trainer import LabelScale, Progress
from stages.fit.unfinished import at_work, check_new
from store.tables import write_csv

__all__ = ["FitResult", "Run", "RunError", "fit", "load_run", "newest_run"]

BASELINE = "time_average_ridge"


@dataclass(frozen=True)
class FitResult:
    """What a fit came to.

    Attributes
    ----------
    run_dir : Path
    test, val : Metrics
        ``test`` was looked at once. ``val`` is of the network that was trained on the train part
        alone, before the refit; it chose the epoch and is optimistic.
    baseline : Metrics
        Of ridge regression on time-averaged features, on the same test clips.
    best_epoch : int
    epochs : list of per-epoch metrics
        0 and empty where the model is not trained in epochs.
    labels : Labels
    raw : tuple of Metrics, or None
        Where the target is relative to its subset: the test predictions of the model and of the
        baseline against the scores as they are (the errors are between different units).
    tasks : list of Accuracy
        Of each task beside the score, on the test clips; empty for models of the score alone.
    """

    run_dir: Path
    test: Metrics
    val: Metrics
    baseline: Metrics
    best_epoch: int
    epochs: list[dict[str, float]]
    labels: Labels
    raw: tuple[Metrics, Metrics] | None = None
    tasks: list[Accuracy] = field(default_factory=list)


def fit(
    store_path: StorePath,
    labels_path: str | os.PathLike[str],
    run_dir: str | os.PathLike[str],
    config: FitConfig | None = None,
    echo: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    take: Callable[[ClipFrames], None] | None = None,
) -> FitResult:
    """Fit a model on the labelled clips of a store, test it on held-out groups, save a run.

    The same inputs, configuration, machine and number of torch threads give the same run bit for
    bit, but for the date in provenance.json. On the CPU that holds as well for a fit that was
    killed, at whatever moment, and called again: it goes on after the last finished epoch.

    Parameters
    ----------
    store_path : path, or sequence of Path
        A store, or several to be read as one.
    labels_path : path
    run_dir : path
        Must be new, or hold the same fit unfinished, or a run that ``overwrite`` allows to replace.
        It is a run, with ``config.json``, when all is done; until then ``checkpoint/`` is in it.
    config : FitConfig, optional
    echo : callable
        Gets the label file's warnings and notes, and the split, one line each.
    progress : callable, optional
        Gets every epoch's row: epoch, train_loss, grad_norm, lr, val_mse, val_src. Then those of
        the training on train and val together: without the last two, with ``of``, their number.
    take : callable, optional
        Gets what the model says of the frames of every labelled clip, as the predictions that are
        written are made: those of validation clips by the network that had not seen them.

    Raises
    ------
    StoreError, LabelError, PersonsError, SplitError, ModelError, RunError
        See those; nothing is left behind.
    RunWriteError
        The disk gave out; the epochs that were done are kept.
    """
    return fit_from(
        store.open(store_path),
        store_path,
        labels_path,
        run_dir,
        config or FitConfig(),
        echo,
        progress,
        overwrite,
        take,
    )


def fit_from(
    source: FeatureStore,
    store_path: StorePath,
    labels_path: str | os.PathLike[str],
    run_dir: str | os.PathLike[str],
    config: FitConfig,
    echo: Callable[[str], None],
    progress: Progress | None,
    overwrite: bool,
    take: Callable[[ClipFrames], None] | None = None,
) -> FitResult:
    """``fit`` on a store that is open already."""
    target = Path(run_dir)
    check_new(target, overwrite)
    if config.train.tensorboard:
        check_tensorboard()
    device_of(config.train)
    check_options(config)
    if take is not None:
        check_tells_frames(config)
    spans = clip_spans(source)
    labels = read_labels(labels_path, spans)
    for line in [*labels.warnings, *labels.notes, *unscaled(config.normalise, labels)]:
        echo(line)
    share = config.split.val, config.split.test
    held = [spans[clip] for clip in labels.frame["clip"]]
    group, part, told = find_split(config.group, source, held, labels, share, config.seed)
    for line in told:
        echo(line)
    table = labels.frame.assign(group=group, part=part)
    parts = {part: table[table["part"] == part] for part in PARTS}
    counts = ", ".join(f"{len(t)} {p} ({t['group'].nunique()} groups)" for p, t in parts.items())
    echo(f"{len(table)} labelled clips: {counts}")

    seen = table["part"] == "train"  # what chooses the epoch has no say in the target either
    scale = Target(config.normalise, table["score"][seen], table["subset"][seen].tolist())
    table["target"] = scale(table["score"], table["subset"].tolist())
    parts = {part: table[table["part"] == part] for part in PARTS}
    label = LabelScale.of(parts["train"]["target"].tolist())
    budget = Budget(config.budget)

    words = attributes_of(labels.frame) if models.has_tasks(config.model) else None

    def loader_of(t: pd.DataFrame, of: FitConfig = config) -> ClipLoader:
        scores = ((t["target"] - label.mean) / label.sd).tolist()
        labelled = dict(zip(t["clip"], scores, strict=True))
        chosen = [spans[c] for c in t["clip"]]
        return make_loader(source, chosen, labelled, of, budget, attributes=words)

    loaders = {part: loader_of(t) for part, t in parts.items()}
    read = loaders
    if models.pictures(config.model, config.model_options):  # the baseline reads features
        plain = config.model_copy(update={"model": MEANPOOL, "model_options": {}})
        read = {part: loader_of(t, plain) for part, t in parts.items()}
    identity = identity_of(source, config, labels)
    with at_work(target, identity, overwrite, echo) as work:
        rival = time_average_ridge([read["train"], read["val"]], read["test"])
        if read is not loaders:
            for loader in read.values():
                loader.release()
        given = Parts(config, table, loaders, loader_of, label)
        if config.model in POOLED_MODELS:
            fitted = fit_pooled(given)
        else:
            frames = None if take is None else FrameSink(source, spans, take)
            fitted = fit_network(given, work, frames, progress, echo)
        rival_score = dict(zip(rival.clips, rival.prediction * label.sd + label.mean, strict=True))
        table["prediction"] = table["clip"].map(fitted.predictions)
        table[BASELINE] = table["clip"].map(rival_score)
        right = {k: _accuracy(parts["test"], k, by) for k, by in fitted.classes.items()}
        tasks = [task for task in right.values() if task is not None]
        measured = {
            part: _measure(table[table["part"] == part], "prediction", "target", config)
            for part in ("test", "val")
        }
        test = table[table["part"] == "test"]
        baseline = _measure(test, BASELINE, "target", config)
        raw = None
        if config.normalise != "none":
            raw = (
                _measure(test, "prediction", "score", config),
                _measure(test, BASELINE, "score", config),
            )

        write_json(target / PROVENANCE, provenance_of(source, store_path, labels, config))
        write_json(
            target / METRICS,
            {
                "test": measured["test"].to_dict(),
                "validation": measured["val"].to_dict(),
                "baselines": {BASELINE: {**baseline.to_dict(), "alpha": rival.alpha}},
                **raw_metrics(raw),
                **({"tasks": [vars(task) for task in tasks]} if right else {}),
            },
        )
        write_csv(labels.frame, target / LABELS)
        write_csv(table[["clip", "group", "part"]], target / SPLIT)
        columns = ["clip", "subset", "part", "score", "target", "prediction", BASELINE]
        write_csv(table[columns], target / PREDICTIONS)
        if config.features is not None:
            keep_generator(config.features, target / FEATURES)
        # Last, since it is what makes the folder a run.
        fitted.save(target)
    return FitResult(
        target,
        measured["test"],
        measured["val"],
        baseline,
        fitted.result.best_epoch,
        fitted.result.epochs,
        labels,
        raw,
        tasks,
    )


def _accuracy(table: pd.DataFrame, task: str, told: dict[str, str]) -> Accuracy | None:
    classes = [[told[clip] for clip in table["clip"]]]
    return accuracy_of(task, classes, table[task].tolist(), table["group"].tolist())


def raw_metrics(raw: tuple[Metrics, Metrics] | None) -> dict[str, object]:
    """Return as JSON types what is said of the scores as they are, if anything."""
    if raw is None:
        return {}
    # Without errors: a target that is relative to its subset is in other units.
    model, baseline = (
        {k: v for k, v in m.to_dict().items() if k not in ("mae", "rmse")} for m in raw
    )
    return {"raw_score": {"test": model, "baselines": {BASELINE: baseline}}}


def _measure(table: pd.DataFrame, column: str, against: str, config: FitConfig) -> Metrics:
    return measure(
        np.asarray(table[column], np.float64),
        np.asarray(table[against], np.float64),
        table["group"].tolist(),
        samples=config.bootstrap,
        seed=config.seed,
    )
