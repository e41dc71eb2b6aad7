"""The folder of one fitted model: written whole or not at all, read without unpickling."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import store
from stages.fit import models
from stages.fit.batches import ClipData
from stages.fit.config import FitConfig, validate
from stages.fit.dynamics.features import make_again
from stages.fit.loader import Budget, ClipLoader
from stages.fit.spans import ClipSpan, FeatureStore, check_arrays, clip_spans, third_stream
from stages.fit.trainer import LabelScale, predict
from store.errors import FacepipeError, StoreMismatchError

RUN_FORMAT = 1
FEATURES = "features"
WEIGHTS, CONFIG, PROVENANCE, METRICS = (
    "model.safetensors",
    "config.json",
    "provenance.json",
    "metrics.json",
)


class RunError(FacepipeError, ValueError):
    """A folder that is no run, or whose files do not fit together."""


class RunWriteError(RunError):
    """The disk is full or refused a write; nothing of the run is left there."""

    exit_code = 1


@contextmanager
def new_run_folder(run_dir: Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary sibling to write into; it becomes ``run_dir`` if the block succeeds.

    Raises
    ------
    RunError
        ``run_dir`` exists and is not to be replaced, or is no run, or cannot be made.
    RunWriteError
        The disk gave out.
    """
    check_new(run_dir, overwrite)
    try:
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{run_dir.name}.partial-", dir=run_dir.parent))
    except OSError as error:
        raise RunError(f"{run_dir}: cannot be made ({error.strerror})") from None
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        if run_dir.exists():
            shutil.rmtree(run_dir)
        os.replace(partial, run_dir)
    except FacepipeError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise RunWriteError(
            f"{run_dir}: cannot be written ({reason})", "make room, then run the same command again"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_new(run_dir: Path, overwrite: bool = False) -> None:
    """Raise RunError if a run may not be written to ``run_dir``; costs nothing to ask early."""
    if not run_dir.exists() or (run_dir.is_dir() and not any(run_dir.iterdir())):
        return
    if not overwrite:
        raise RunError(f"{run_dir} exists already", "give another --run, or remove that folder")
    if not (run_dir / CONFIG).is_file():
        raise RunError(f"{run_dir} is not a run and is left alone", "give another --run")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write one object, readable and with a stable order of keys."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def save_model(
    folder: Path,
    model: models.TemporalModel,
    config: FitConfig,
    options: Mapping[str, Any],
    label: LabelScale,
    best_epoch: int,
    version: str,
) -> None:
    """Write weights and the configuration that rebuilds the model around them."""
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

    ``config`` is what it was fitted with, ``label`` turns its output into label units, and
    ``provenance`` and ``metrics`` are the files of those names.
    """

    folder: Path
    model: models.TemporalModel
    config: FitConfig
    label: LabelScale
    provenance: dict[str, Any]
    metrics: dict[str, Any]

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
        self, store_path: str | os.PathLike[str] | Sequence[Path] | list[str]
    ) -> pd.DataFrame:
        """Score every clip of a store that shows a face: clip, score, frames, valid_frames.

        In the store's row order; scores in label units. Several stores are read as one.

        Raises
        ------
        StoreMismatchError
            Features of another pack.
        """
        return self.predict_from(store.open(store_path))

    def predict_from(self, source: FeatureStore) -> pd.DataFrame:
        """``predict`` on a store that is open already."""
        self.check_store(source.provenance)
        spans = list(clip_spans(source).values())
        columns = ["clip", "score", "frames", "valid_frames"]
        if not spans:
            return pd.DataFrame(columns=columns)
        with self._with_features(source) as config:
            loader = make_loader(source, spans, {}, config)
            clips, prediction, _ = predict(self.model, loader, config.train.batch_size)
        score = prediction.double().numpy() * self.label.sd + self.label.mean
        by_clip = {s.clip: s for s in spans}
        return pd.DataFrame(
            {
                "clip": clips,
                "score": score,
                "frames": [by_clip[c].frames for c in clips],
                "valid_frames": [by_clip[c].valid_frames for c in clips],
            },
            columns=columns,
        )

    @contextmanager
    def _with_features(self, source: FeatureStore) -> Iterator[FitConfig]:
        """Give the configuration with a third stream made for this store, where there is one."""
        if self.config.features is None:
            yield self.config
            return
        with tempfile.TemporaryDirectory(prefix="facepipe-features-") as place:
            made = make_again(self.folder / FEATURES, source, Path(place) / "features")
            yield self.config.model_copy(update={"features": str(made.folder)})


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
    StoreMismatchError
        The array of ``config.features`` lies beside another store.
    """
    check_arrays(source, spans, (config.stream, "landmark"))
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
        extra=extra,
    )


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
        raise RunError(
            f"{folder} is not a run: it {what}", "give the folder that `pipeline fit` made"
        )
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
    return Run(folder, model, config, label, provenance, metrics)


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
