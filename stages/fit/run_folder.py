"""The folder of one fitted model: a run once ``config.json`` is there, read without unpickling."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import store
from stages.fit import models
from stages.fit.batches import ClipData, collate, prepare
from stages.fit.config import FitConfig, validate
from stages.fit.frames import ClipFrames, FrameSink
from stages.fit.loader import Budget, ClipLoader
from stages.fit.spans import ClipSpan, FeatureStore, check_arrays, clip_spans
from stages.fit.trainer import LabelScale, predict
from store.durable import write_file
from store.errors import FacepipeError, StoreMismatchError
from store.schema import ClipRows

RUN_FORMAT = 1
WEIGHTS, CONFIG, PROVENANCE, METRICS = (
    "model.safetensors",
    "config.json",
    "provenance.json",
    "metrics.json",
)
LABELS, SPLIT, PREDICTIONS = "labels.csv", "split.csv", "predictions.csv"
CHECKPOINT = "checkpoint"


class RunError(FacepipeError, ValueError):
    """A folder that is no run, or whose files do not fit together."""


class RunWriteError(RunError):
    """The disk is full or refused a write."""

    exit_code = 1


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write one object, readable and with a stable order of keys; whole or not at all."""
    write_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def save_model(
    folder: Path,
    model: models.TemporalModel,
    config: FitConfig,
    options: Mapping[str, Any],
    label: LabelScale,
    best_epoch: int,
    version: str,
) -> None:
    """Write weights, and then the configuration that rebuilds the model around them."""
    tensors = {k: v.detach().contiguous().clone() for k, v in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    write_json(
        folder / CONFIG,
        {
            "format": RUN_FORMAT,
            "facepipe": version,
            "model": {"name": config.model, "options": dict(options)},
            "label": {"mean": label.mean, "sd": label.sd},
            "best_epoch": best_epoch,
            "config": config.model_dump(mode="json"),
        },
    )


@dataclass(frozen=True)
class Run:
    """A fitted model that can score; made by ``load_run``.

    ``config`` is what it was fitted with, ``label`` turns its output into label units,
    ``provenance`` and ``metrics`` are the files of those names, and ``best_epoch`` is the one whose
    weights the validation clips chose.
    """

    folder: Path
    model: models.TemporalModel
    config: FitConfig
    label: LabelScale
    provenance: dict[str, Any]
    metrics: dict[str, Any]
    best_epoch: int

    def check_store(self, provenance: Mapping[str, Any]) -> None:
        """Raise StoreMismatchError unless features came from the pack that this run learnt from.

        Features of two packs have the same shape and nothing else in common: a score from another
        pack's features would look like one and mean nothing.
        """
        mine, theirs = _pack(self.provenance.get("store", {})), _pack(provenance)
        if mine[1] != theirs[1]:
            raise StoreMismatchError(
                f"the run {self.folder} was fitted on features of pack '{mine[0]}' "
                f"({mine[1][:12]}), this store holds features of pack '{theirs[0]}' "
                f"({theirs[1][:12]})",
                f"extract the clips again with --pack {mine[0]}, or fit a run on this store",
            )

    def predict(
        self,
        store_path: str | os.PathLike[str] | Sequence[Path] | list[str],
        take: Callable[[ClipFrames], None] | None = None,
    ) -> pd.DataFrame:
        """Score every clip of a store that shows a face: clip, score, frames, valid_frames.

        In the store's row order; scores in label units. Several stores are read as one. ``take``
        gets what the model says of every clip's frames.

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
        columns = ["clip", "score", "frames", "valid_frames"]
        if not spans:
            return pd.DataFrame(columns=columns)
        loader = make_loader(source, spans, {}, self.config)
        watch = (
            None
            if take is None
            else frame_sink(source, by_clip, self.config, take).watch(self.label)
        )
        clips, prediction, _ = predict(self.model, loader, self.config.train.batch_size, watch)
        score = prediction.double().numpy() * self.label.sd + self.label.mean
        return pd.DataFrame(
            {
                "clip": clips,
                "score": score,
                "frames": [by_clip[c].frames for c in clips],
                "valid_frames": [by_clip[c].valid_frames for c in clips],
            },
            columns=columns,
        )

    def predict_rows(self, rows: ClipRows) -> float:
        """Score one clip from rows as a store holds them, in label units.

        At least one of them valid. The very code that scores clips of a store.
        """
        config = self.config
        features = rows.appearance if config.stream == "appearance" else rows.embedding
        clip = prepare(
            "",
            features,
            rows.landmark,
            rows.valid,
            rows.timestamp,
            landmarks=config.landmarks,
            fps=config.fps,
            max_frames=config.max_frames,
        )
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
) -> ClipLoader:
    """Return the loader that a configuration asks for; ``budget`` is given where several share.

    ``change`` as for ClipLoader.

    Raises
    ------
    MissingFeaturesError
        Clips that were imported lack an array that is read.
    """
    check_arrays(source, spans, (config.stream, "landmark"))
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
    )


def frame_sink(
    source: FeatureStore,
    spans: Mapping[str, ClipSpan],
    config: FitConfig,
    take: Callable[[ClipFrames], None],
) -> FrameSink:
    """Return the FrameSink that goes with ``make_loader``."""
    return FrameSink(source, spans, config.fps, config.max_frames, take)


def _pack(provenance: Mapping[str, Any]) -> tuple[str, str]:
    pack = provenance.get("pack", {})
    return str(pack.get("name", "unknown")), str(pack.get("fingerprint", "unknown"))


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
        raise RunError(f"{folder} is not a run: it {what}", hint)
    meta, provenance, metrics = (_read_json(folder / n) for n in (CONFIG, PROVENANCE, METRICS))
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
    model = models.create(name, **options)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"{folder / WEIGHTS}: not the weights of this {name} ({reason})",
            "the file is missing or damaged: copy the run folder again, or fit again",
        ) from None
    if not all(bool(torch.isfinite(t).all()) for t in model.state_dict().values()):
        raise RunError(f"{folder / WEIGHTS} holds weights that are not finite", "fit again")
    model.eval()
    return Run(folder, model, config, label, provenance, metrics, best_epoch)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})", "fit again") from None
    if not isinstance(value, dict):
        raise RunError(f"{path}: an object expected, found {type(value).__name__}", "fit again")
    return value


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
