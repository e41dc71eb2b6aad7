"""Fit one model: store and labels in, a run folder with the model and its measured worth out."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import store
from stages.fit import models
from stages.fit.baselines import time_average_ridge
from stages.fit.config import FitConfig
from stages.fit.fitting import predict_scores, refit_network, train_network
from stages.fit.frames import ClipFrames
from stages.fit.labels import Labels, read_labels
from stages.fit.loader import Budget, ClipLoader
from stages.fit.metrics import Metrics, measure
from stages.fit.protocol import PARTS, split_groups
from stages.fit.run_folder import (
    EPOCHS,
    LABELS,
    METRICS,
    PREDICTIONS,
    PROVENANCE,
    SPLIT,
    Run,
    RunError,
    check_new,
    frame_sink,
    load_run,
    make_loader,
    new_run_folder,
    newest_run,
    save_model,
    write_json,
)
from stages.fit.spans import FeatureStore, clip_spans
from stages.fit.targets import Target
from stages.fit.trainer import LabelScale, Progress, TrainResult
from store.tables import write_csv

__all__ = ["FitResult", "Run", "RunError", "fit", "load_run", "newest_run"]

# One store, or several that are read as one.
StorePath = str | os.PathLike[str] | Sequence[Path] | list[str]
BASELINE = "time_average_ridge"
VERSIONED = ("torch", "numpy", "scipy", "scikit-learn", "dask", "zarr", "safetensors")


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
    labels : Labels
    raw : tuple of Metrics, or None
        Where the target is relative to its subset: the test predictions of the model and of the
        baseline against the scores as they are (the errors are between different units).
    """

    run_dir: Path
    test: Metrics
    val: Metrics
    baseline: Metrics
    best_epoch: int
    epochs: list[dict[str, float]]
    labels: Labels
    raw: tuple[Metrics, Metrics] | None = None


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
    bit, but for the date in provenance.json.

    Parameters
    ----------
    store_path : path, or sequence of Path
        A store, or several to be read as one.
    labels_path : path
    run_dir : path
        Must not exist, unless it is a run and ``overwrite`` is set. Appears when all is done.
    config : FitConfig, optional
    echo : callable
        Gets the label file's warnings and notes, and the split, one line each.
    progress : callable, optional
        Gets every epoch's row: epoch, train_loss, val_mse, val_src, lr.
    take : callable, optional
        Gets what the model says of the frames of every labelled clip, as the predictions that are
        written are made: those of validation clips by the network that had not seen them.

    Raises
    ------
    StoreError, LabelError, SplitError, ModelError, RunError
        See those; nothing is left behind.
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
    models.check_options(config.model, config.model_options)
    spans = clip_spans(source)
    labels = read_labels(labels_path, spans)
    for line in [*labels.warnings, *labels.notes]:
        echo(line)
    table = labels.frame.assign(group=labels.groups)
    table["part"] = split_groups(
        table["score"].to_numpy(),
        labels.groups,
        val=config.split.val,
        test=config.split.test,
        seed=config.seed,
    )
    parts = {part: table[table["part"] == part] for part in PARTS}
    counts = ", ".join(f"{len(t)} {p} ({t['group'].nunique()} groups)" for p, t in parts.items())
    echo(f"{len(table)} labelled clips: {counts}")

    seen = table["part"] == "train"  # what chooses the epoch has no say in the target either
    scale = Target(config.normalise, table["score"][seen], table["subset"][seen].tolist())
    table["target"] = scale(table["score"], table["subset"].tolist())
    parts = {part: table[table["part"] == part] for part in PARTS}
    label = LabelScale.of(parts["train"]["target"].tolist())
    budget = Budget(config.budget)

    def loader_of(t: pd.DataFrame) -> ClipLoader:
        scores = ((t["target"] - label.mean) / label.sd).tolist()
        labelled = dict(zip(t["clip"], scores, strict=True))
        return make_loader(source, [spans[c] for c in t["clip"]], labelled, config, budget)

    loaders = {part: loader_of(t) for part, t in parts.items()}
    with new_run_folder(target, overwrite) as folder:
        longest = max(loader.longest() for loader in loaders.values())
        model, options, result = train_network(
            config, loaders["train"], loaders["val"], longest, config.seed, progress
        )
        frames = None if take is None else frame_sink(source, spans, config, take)
        predictions = predict_scores(model, loaders.values(), label, config, frames)
        rival = time_average_ridge([loaders["train"], loaders["val"]], loaders["test"])
        if config.train.refit:
            echo(f"training again on train and val together, {result.best_epoch} epochs")
            loaders["train"].release()
            loaders["val"].release()
            both = loader_of(table[table["part"] != "test"])
            model = refit_network(config, options, both, result.best_epoch, config.seed)
            # The validation part keeps the predictions of the network that had not seen it.
            seen_and_test = [loaders["train"], loaders["test"]]
            predictions |= predict_scores(model, seen_and_test, label, config, frames)
        rival_score = dict(zip(rival.clips, rival.prediction * label.sd + label.mean, strict=True))
        table["prediction"] = table["clip"].map(predictions)
        table[BASELINE] = table["clip"].map(rival_score)
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

        save_model(folder, model, config, options, label, result.best_epoch, _version())
        write_json(folder / PROVENANCE, _provenance(source, store_path, labels))
        write_json(
            folder / METRICS,
            {
                "test": measured["test"].to_dict(),
                "validation": measured["val"].to_dict(),
                "baselines": {BASELINE: {**baseline.to_dict(), "alpha": rival.alpha}},
                **raw_metrics(raw),
            },
        )
        write_csv(labels.frame.drop(columns="line"), folder / LABELS)
        _tables(folder, table, result)
    return FitResult(
        target,
        measured["test"],
        measured["val"],
        baseline,
        result.best_epoch,
        result.epochs,
        labels,
        raw,
    )


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


def _tables(folder: Path, table: pd.DataFrame, result: TrainResult) -> None:
    write_csv(table[["clip", "group", "part"]], folder / SPLIT)
    columns = ["clip", "subset", "part", "score", "target", "prediction", BASELINE]
    write_csv(table[columns], folder / PREDICTIONS)
    write_csv(pd.DataFrame(result.epochs), folder / EPOCHS)


def _provenance(source: FeatureStore, store_path: StorePath, labels: Labels) -> dict[str, object]:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "store_path": (
            str(store_path)
            if isinstance(store_path, str | os.PathLike)
            else [str(path) for path in store_path]
        ),
        "store": dict(source.provenance),
        "labels": {
            "file": labels.path.name,
            "sha256": labels.sha256,
            "used": len(labels.frame),
            "without_clip": len(labels.warnings),
        },
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of what a result hangs on, and the number of torch threads."""
    return {
        "facepipe": _version(),
        "python": platform.python_version(),
        "torch_threads": str(torch.get_num_threads()),
        **{name: version(name) for name in VERSIONED},
    }


def _version() -> str:
    try:
        return version("facepipe")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
