"""What a model says of every frame: attention, score, and what each frame had in the clip's score.

A table of a clip has a row for every frame of the store, also for those that the model did not read
(without a face, cut off by ``max_frames``, passed over by ``fps``), so that it can be laid beside
the clip's other arrays.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.fit.batches import Batch
from stages.fit.models import Prediction
from stages.fit.spans import ClipSpan, FeatureStore
from stages.fit.trainer import LabelScale, Watch
from store.errors import FacepipeError
from store.exchange import file_name

FloatArray = npt.NDArray[np.float64]
SUFFIX = ".csv"


class FrameWriteError(FacepipeError, OSError):
    """The tables of frames cannot be written."""

    __str__ = Exception.__str__


@dataclass(frozen=True)
class ClipFrames:
    """One clip's frames, n of them, as in the store.

    Attributes
    ----------
    clip : str
    timestamp : (n,) float64 s
    valid : (n,) bool
        Whether the frame shows the face.
    attention : (n,) float64
        See Prediction.attention; NaN where the model has none or did not read the frame.
    score : (n,) float64
        Of the frame, before temporal fusion, in label units; NaN where not read.
    won : (n,) float64
        See Prediction.won; 0 where not read, NaN in models that cannot tell.
    attention_landmark : (n,) float64, optional
        See Prediction.attention_landmark; None where the model has none.
    """

    clip: str
    timestamp: FloatArray
    valid: npt.NDArray[np.bool_]
    attention: FloatArray
    score: FloatArray
    won: FloatArray
    attention_landmark: FloatArray | None = None

    def table(self) -> pd.DataFrame:
        """One row a frame: frame (from 0), timestamp_s, valid (0 or 1), attention, score, won.

        Then attention_landmark, where the model has such.
        """
        columns: dict[str, Any] = {
            "frame": np.arange(len(self.valid)),
            "timestamp_s": self.timestamp,
            "valid": self.valid.astype(np.int64),
            "attention": self.attention,
            "score": self.score,
            "won": self.won,
        }
        if self.attention_landmark is not None:
            columns["attention_landmark"] = self.attention_landmark
        return pd.DataFrame(columns)


class FrameTable(Protocol):
    """What is said of a clip's frames."""

    @property
    def clip(self) -> str:
        """The clip's id."""
        ...

    def table(self) -> pd.DataFrame:
        """One row a frame of the store."""
        ...


class FrameSink:
    """Turns what a model says of batches into one ClipFrames a clip.

    Parameters
    ----------
    source : FeatureStore
    spans : mapping of clip id to ClipSpan
        Of every clip that is predicted, at least.
    take : callable
        Gets every clip's frames.
    """

    def __init__(
        self,
        source: FeatureStore,
        spans: Mapping[str, ClipSpan],
        take: Callable[[ClipFrames], None],
    ) -> None:
        self._spans, self._take = spans, take
        self._timestamp, self._valid = source.dask("timestamp"), source.dask("valid")

    def watch(self, label: LabelScale) -> Watch:
        """Return what ``trainer.predict`` shows its batches to; scores come in label units."""

        def watch(batch: Batch, prediction: Prediction) -> None:
            for row, clip in enumerate(batch.clips):
                self._take(self._clip(clip, row, batch, prediction, label))

        return watch

    def _clip(
        self, clip: str, row: int, batch: Batch, p: Prediction, label: LabelScale
    ) -> ClipFrames:
        span = self._spans[clip]
        rows = slice(span.start, span.start + span.frames)
        timestamp = np.asarray(self._timestamp[rows].compute(), np.float64)
        valid = np.asarray(self._valid[rows].compute(), np.bool_)
        read = batch.mask[row].cpu().numpy()
        # Whatever was cut off or resampled: times increase within a clip.
        seen = np.searchsorted(timestamp, batch.timestamp[row].cpu().numpy()[read])
        times_read = np.bincount(seen, minlength=span.frames)  # resampling may repeat a frame

        def summed(values: Any) -> FloatArray:
            told = values[row].double().cpu().numpy()[read]
            return np.asarray(np.bincount(seen, told, minlength=span.frames), np.float64)

        def mean(values: Any) -> FloatArray:
            if values is None:
                return np.full(span.frames, np.nan)
            return np.where(times_read > 0, summed(values) / np.maximum(times_read, 1), np.nan)

        landmark = p.attention_landmark
        return ClipFrames(
            clip,
            timestamp,
            valid,
            mean(p.attention),
            mean(p.frame_score) * label.sd + label.mean,
            np.full(span.frames, np.nan) if p.won is None else summed(p.won),
            None if landmark is None else mean(landmark),
        )


def csv_writer(folder: Path) -> Callable[[FrameTable], None]:
    """Return what writes one CSV a clip into a folder, as of ``table``.

    A clip's file is named after its id, made safe as in `store.exchange.file_name`; it is there
    whole or not at all.

    Raises
    ------
    FrameWriteError
        From here on if the folder cannot be made, from the writer if a file cannot be written.
    """

    def write(frames: FrameTable) -> None:
        path = folder / file_name(frames.clip, SUFFIX)
        partial = path.with_name(f".{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            frames.table().to_csv(partial, index=False, float_format="%.9g", lineterminator="\n")
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise _cannot(path, error) from None

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot(folder, error) from None
    return write


def _cannot(path: Path, error: OSError) -> FrameWriteError:
    return FrameWriteError(
        f"{path}: cannot be written ({error.strerror})", "change --per-frame, or make room"
    )


def save_frames(path: Path, clips: list[ClipFrames]) -> None:
    """Keep the frames of several clips in one .npz; the file appears whole or not at all."""
    arrays: dict[str, Any] = {
        "clip": np.asarray([c.clip for c in clips], dtype=str),
        "frames": np.asarray([len(c.valid) for c in clips], np.int64),
    }
    for name in _ARRAYS:
        parts = [getattr(c, name) for c in clips]
        if all(part is not None for part in parts):
            arrays[name] = np.concatenate(parts)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(partial, path)


def load_frames(path: Path) -> list[ClipFrames] | None:
    """Return what ``save_frames`` kept; None if there is no such file, or no whole one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        ends = np.cumsum(arrays["frames"])[:-1]
        split = {name: np.split(arrays[name], ends) for name in _ARRAYS if name in arrays}
        return [
            ClipFrames(str(clip), **{name: parts[k] for name, parts in split.items()})
            for k, clip in enumerate(arrays["clip"])
        ]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


_ARRAYS = tuple(field.name for field in fields(ClipFrames) if field.name != "clip")
