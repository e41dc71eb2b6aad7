"""The folder of one fitted model: a run once ``config.json`` is there, read without unpickling."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import store
from stages.fit import models
from stages.fit.batches import ClipData, collate, prepare
from stages.fit.config import FitConfig, validate
from stages.fit.crops import CropLoader
from stages.fit.dynamics.features import make_again
from stages.fit.fitting import predict_classes
from stages.fit.frames import ClipFrames, FrameSink
from stages.fit.loader import Budget, ClipLoader
from stages.fit.pooled_base import PooledModel
from stages.fit.pooled_models import POOLED_MODELS
from stages.fit.run_base import OfStore
from stages.fit.run_files import (
    AU_RESULT,
    CHECKPOINT,
    CONFIG,
    FEATURES,
    MDR_RESULT,
    METRICS,
    PROVENANCE,
    RUN_FORMAT,
    RunError,
    load_model,
    read_json,
)
from stages.fit.spans import (
    ClipSpan,
    FeatureStore,
    arrays_of,
    check_arrays,
    clip_spans,
    third_stream,
)
from stages.fit.tasks import Attributes
from stages.fit.trainer import LabelScale, predict
from store.schema import ClipRows


@dataclass(frozen=True)
class Run(OfStore):
    """A fitted model that can score; made by ``load_run``.

    ``config`` is what it was fitted with, ``label`` turns its output into label units,
    ``provenance`` and ``metrics`` are the files of those names, and ``best_epoch`` is the one whose
    weights the validation clips chose.
    """

    folder: Path
    model: models.TemporalModel | PooledModel
    config: FitConfig
    label: LabelScale
    provenance: dict[str, Any]
    metrics: dict[str, Any]
    best_epoch: int

    @property
    def weights(self) -> int:
        """How many numbers the model has learnt."""
        if isinstance(self.model, PooledModel):
            return sum(array.size for array in self.model.saved()[1].values())
        return sum(p.numel() for p in self.model.parameters())

    @property
    def columns(self) -> tuple[str, ...]:
        """What it tells of a clip: the score, and the tasks beside it."""
        tasks = () if isinstance(self.model, PooledModel) else self.model.tasks()
        return ("score", *tasks)

    @property
    def reads_crops(self) -> bool:
        """Whether the model reads pictures, so that a store must hold crops."""
        return models.pictures(self.config.model, self.config.model_options) is not None

    def predict(
        self,
        store_path: str | os.PathLike[str] | Sequence[Path] | list[str],
        take: Callable[[ClipFrames], None] | None = None,
    ) -> pd.DataFrame:
        """Score every clip of a store that shows a face: clip, score, frames, valid_frames.

        Then the likeliest class of each task beside the score, of a model that has some. In the
        store's row order; scores in label units. Several stores are read as one. ``take`` gets what
        the model says of every clip's frames.

        Raises
        ------
        StoreMismatchError
            Features of another pack.
        """
        return self.predict_from(store.open(store_path), take)

    def predict_from(
        self, source: FeatureStore, take: Callable[[ClipFrames], None] | None = None
    ) -> pd.DataFrame:
        """``predict`` on a store that is open already."""
        self.check_store(source.provenance)
        by_clip = clip_spans(source)
        spans = list(by_clip.values())
        columns = ["clip", "score", "frames", "valid_frames", *self.columns[1:]]
        if not spans:
            return pd.DataFrame(columns=columns)
        self.check_layers(source)
        if take is not None:
            self.check_tells_frames()
        classes: dict[str, dict[str, str]] = {}
        with self.with_features(source) as config:
            loader = make_loader(source, spans, {}, config)
            if isinstance(self.model, PooledModel):
                clips = [span.clip for span in loader.clips]
                score = self.model.predict(loader.iter_clips())
            else:
                sink = None if take is None else FrameSink(source, by_clip, take)
                watch = None if sink is None else sink.watch(self.label)
                clips, prediction, _ = predict(self.model, loader, config.train.batch_size, watch)
                score = prediction.double().numpy() * self.label.sd + self.label.mean
                classes = predict_classes(self.model, loader, config)
        return pd.DataFrame(
            {
                "clip": clips,
                "score": score,
                "frames": [by_clip[c].frames for c in clips],
                "valid_frames": [by_clip[c].valid_frames for c in clips],
                **{task: [by[c] for c in clips] for task, by in classes.items()},
            },
            columns=columns,
        )

    @contextmanager
    def with_features(self, source: FeatureStore) -> Iterator[FitConfig]:
        """Give the configuration with a third stream made for this store, where there is one."""
        if self.config.features is None:
            yield self.config
            return
        with tempfile.TemporaryDirectory(prefix="facepipe-features-") as place:
            made = make_again(self.folder / FEATURES, source, Path(place) / "features")
            yield self.config.model_copy(update={"features": str(made.folder)})

    def check_tells_frames(self) -> None:
        """Raise ModelError if the model says nothing of single frames."""
        check_tells_frames(self.config)

    def check_rows(self) -> list[str]:
        """Return the arrays that ``predict_rows`` reads; RunError if rows do not hold all."""
        names = arrays_of(self.config.stream)
        what = "crops" if self.reads_crops else self.config.features or self.config.stream
        if what != self.config.stream or not {"appearance", "embedding"}.issuperset(names):
            raise RunError(
                f"the run {self.folder} reads {what}, which rows of extraction do not hold",
                "it scores clips whole: use `pipeline score`",
            )
        return names

    def predict_rows(self, rows: ClipRows) -> float:
        """Score one clip from rows as a store holds them, in label units.

        At least one of them valid. The very code that scores clips of a store.

        Raises
        ------
        RunError
            The model reads what such rows do not hold.
        """
        config = self.config
        names = self.check_rows()
        arrays = [getattr(rows, name) for name in names]
        clip = prepare(
            "",
            np.concatenate(arrays, axis=1),
            rows.landmark,
            rows.valid,
            rows.timestamp,
            landmarks=config.landmarks,
            fps=config.fps,
            max_frames=config.max_frames,
            widths=tuple(array.shape[1] for array in arrays),
        )
        if isinstance(self.model, PooledModel):
            return float(self.model.predict([clip])[0])
        batch = collate([clip], {})
        told = self.model.predict(batch.appearance, batch.landmark, batch.mask, batch.timestamp)
        return float(told.score[0].double()) * self.label.sd + self.label.mean


def make_loader(
    source: FeatureStore,
    spans: list[ClipSpan],
    scores: Mapping[str, float],
    config: FitConfig,
    budget: Budget | None = None,
    change: Callable[[ClipData], ClipData] | None = None,
    attributes: Attributes | None = None,
) -> ClipLoader:
    """Return the loader that a configuration asks for; ``budget`` is given where several share.

    ``change`` and ``attributes`` as for ClipLoader. A model that reads pictures gets a CropLoader.

    Raises
    ------
    MissingFeaturesError
        Clips that were imported lack an array that is read, or clips lack crops.
    StoreMismatchError
        The array of ``config.features`` lies beside another store.
    """
    pictures = models.pictures(config.model, config.model_options)
    if pictures is not None:
        return CropLoader(
            source, spans, pictures, scores, budget or Budget(config.budget), attributes
        )
    check_arrays(source, spans, (*arrays_of(config.stream), "landmark"))
    extra = None if config.features is None else third_stream(config.features, source, spans)
    return ClipLoader(
        source,
        spans,
        scores,
        stream=config.stream,
        landmarks=config.landmarks,
        fps=config.fps,
        max_frames=config.max_frames,
        budget=budget or Budget(config.budget),
        change=change,
        attributes=attributes,
        extra=extra,
    )


def tells_frames(config: FitConfig) -> bool:
    """Whether a model says something of every frame: networks that read frames do."""
    pictures = models.pictures(config.model, config.model_options)
    return config.model not in POOLED_MODELS and pictures is None


def check_tells_frames(config: FitConfig) -> None:
    """Raise ModelError if a model says nothing of single frames."""
    if not tells_frames(config):
        raise models.ModelError(
            f"model '{config.model}' says nothing of single frames",
            "leave out --per-frame, or choose a network that reads frames",
        )


def load_run(run_dir: str | os.PathLike[str]) -> Run:
    """Load a run folder; nothing in it is executed or unpickled.

    Raises
    ------
    RunError
        No run there, a newer format, or weights that are damaged or of another model.
    """
    folder = Path(run_dir)
    if not (folder / CONFIG).is_file():
        what = f"has no {CONFIG}" if folder.is_dir() else "does not exist"
        hint = "give the folder that `pipeline fit` made"
        if (folder / CHECKPOINT).is_dir():
            what = "holds a fit that is not finished"
            hint = f"run the same `pipeline fit --run {folder}` again: it goes on"
        if any((folder / name).is_file() for name in (AU_RESULT, MDR_RESULT)):
            what = "learns of frames and has no score of a clip"
            hint = "`pipeline score` applies it; give this command the run of another model"
        raise RunError(f"{folder} is not a run: it {what}", hint)
    meta, provenance, metrics = (read_json(folder / n) for n in (CONFIG, PROVENANCE, METRICS))
    if meta.get("format") != RUN_FORMAT:
        raise RunError(
            f"{folder / CONFIG}: format {RUN_FORMAT} expected, found {meta.get('format')!r}",
            "use the version of facepipe that made it, or fit again",
        )
    try:
        config = validate(meta["config"])
        name, options = str(meta["model"]["name"]), dict(meta["model"]["options"])
        label = LabelScale(float(meta["label"]["mean"]), float(meta["label"]["sd"]))
        best_epoch = int(meta["best_epoch"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder / CONFIG} is incomplete ({error})", "fit again") from None
    model = load_model(folder, name, options, meta)
    return Run(folder, model, config, label, provenance, metrics, best_epoch)


def newest_run(runs_folder: str | os.PathLike[str]) -> Path:
    """Return the run in a folder of runs that was finished last.

    Raises
    ------
    RunError
        There is none.
    """
    folder = Path(runs_folder)
    found = [p for p in folder.glob("*") if (p / CONFIG).is_file() and not p.name.startswith(".")]
    if not found:
        raise RunError(
            f"there is no run in {folder}", "fit one with `pipeline fit`, or name one with --run"
        )
    return max(found, key=lambda p: ((p / CONFIG).stat().st_mtime_ns, p.name))
