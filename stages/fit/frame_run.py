"""The folder of a fit to frames (`mdr`, `au`), applied to the clips of another store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import ValidationError

from stages.fit.au_inputs import AuConfig, frame_vectors, frames_loader, what_to_read
from stages.fit.dynamics.features import clip_loader, load_generator, make_again
from stages.fit.dynamics.training import accuracies
from stages.fit.frames import FrameTable
from stages.fit.models import ModelError
from stages.fit.run_base import OfStore
from stages.fit.run_files import AU_RESULT, FEATURES, MDR_RESULT, PROVENANCE, RunError, read_json
from stages.fit.run_folder import Run, load_run
from stages.fit.spans import FeatureStore, clip_spans
from stages.fit.track_heads import Head, load_heads

FloatArray = npt.NDArray[np.float64]
Take = Callable[[FrameTable], None]


@dataclass(frozen=True)
class TrackFrames:
    """The tracks of one clip: n frames as in the store, values by name, NaN without a face."""

    clip: str
    timestamp: FloatArray
    valid: npt.NDArray[np.bool_]
    values: dict[str, FloatArray]

    def table(self) -> pd.DataFrame:
        """One row a frame: frame (from 0), timestamp_s, valid (0 or 1), the tracks."""
        frame = {"frame": np.arange(len(self.valid)), "timestamp_s": self.timestamp}
        return pd.DataFrame({**frame, "valid": self.valid.astype(np.int64), **self.values})


@dataclass(frozen=True)
class MdrRun(OfStore):
    """MDR that was learnt: tells how well it ranks the frames of clips, which it has not seen.

    A clip's values are its ranking accuracies, one a scale; chance is 0.5.
    """

    folder: Path
    provenance: dict[str, Any]
    columns: tuple[str, ...]
    reads_crops = False

    def check_tells_frames(self) -> None:
        """Raise ModelError: the pairs of frames are ranked, single frames are not."""
        raise ModelError(
            "model 'mdr' says nothing of single frames in a table",
            "leave out --per-frame",
        )

    def predict_from(self, source: FeatureStore, take: Take | None = None) -> pd.DataFrame:
        """Every clip of a store that shows a face: clip, an accuracy a scale."""
        self.check_store(source.provenance)
        self.check_layers(source)
        generator, config, _ = load_generator(self.folder / FEATURES)
        spans = list(clip_spans(source).values())
        if not spans:
            return pd.DataFrame(columns=["clip", *self.columns])
        clips = clip_loader(source, spans, config).iter_clips()
        found = accuracies(generator, clips, config)
        rows = [[clip, *of["mdr"]] for clip, of in found.items()]
        return pd.DataFrame(rows, columns=["clip", *self.columns])


@dataclass(frozen=True)
class AuRun(OfStore):
    """Regressors of label tracks; a clip's values are its means over the frames with a face."""

    folder: Path
    provenance: dict[str, Any]
    columns: tuple[str, ...]
    config: AuConfig
    read: str
    heads: list[Head]
    reads_crops = False

    def check_tells_frames(self) -> None:
        """Tracks are of frames."""

    def predict_from(self, source: FeatureStore, take: Take | None = None) -> pd.DataFrame:
        """Every clip of a store that shows a face: clip, a mean a track.

        ``take`` gets the tracks of every clip.
        """
        self.check_store(source.provenance)
        self.check_layers(source)
        spans = clip_spans(source)
        rows: list[list[object]] = []
        with self._with_features(source) as config:
            what_to_read(source, list(spans.values()), config, lambda _: None)
            loader = frames_loader(source, list(spans.values()), config)
            for clip in loader.iter_clips() if spans else ():
                x = frame_vectors(clip, self.read, loader.extra_width, config.relative)
                told = np.full((len(clip), len(self.columns)), np.nan)
                for head in self.heads:
                    told[np.ix_(clip.valid, head.columns)] = head(x[clip.valid])
                rows.append([clip.clip, *told[clip.valid].mean(axis=0)])
                if take is not None:
                    values = dict(zip(self.columns, told.T, strict=True))
                    take(TrackFrames(clip.clip, clip.timestamp, clip.valid, values))
        return pd.DataFrame(rows, columns=["clip", *self.columns])

    @contextmanager
    def _with_features(self, source: FeatureStore) -> Iterator[AuConfig]:
        config = self.config.model_copy(update={"read": self.read})
        if config.features is None:
            yield config
            return
        with tempfile.TemporaryDirectory(prefix="facepipe-features-") as place:
            made = make_again(self.folder / FEATURES, source, Path(place) / "features")
            yield config.model_copy(update={"features": str(made.folder)})


def load_scorer(run_dir: str | os.PathLike[str]) -> Run | MdrRun | AuRun:
    """Load whatever `pipeline fit` made, to be applied to new clips.

    Raises
    ------
    RunError
        Nothing that can be, see load_run.
    """
    folder = Path(run_dir)
    try:
        if (folder / MDR_RESULT).is_file():
            told = read_json(folder / MDR_RESULT)
            if told["config"]["form"] == "pixel":
                raise RunError(
                    f"{folder} is MDR's pixel form, which ranks later frames of its own clips",
                    "fit the store form (--set form=store), or use its features",
                )
            columns = tuple(f"T{window}" for window in told["config"]["windows"])
            return MdrRun(folder, read_json(folder / PROVENANCE), columns)
        if (folder / AU_RESULT).is_file():
            told = read_json(folder / AU_RESULT)
            config = AuConfig.model_validate(told["config"])
            columns, heads = tuple(told["columns"]), load_heads(folder)
            return AuRun(
                folder, read_json(folder / PROVENANCE), columns, config, told["read"], heads
            )
    except (KeyError, TypeError, ValidationError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"{folder}: cannot be applied to new clips ({reason})", "fit again"
        ) from None
    return load_run(folder)
