"""Clips in memory: cut or resampled to what a model reads, chosen for a batch, and padded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.fit.landmarks import LandmarkMode, normalise_landmarks
from store.errors import FacepipeError

# A clock's ticks that one frame may stand for, on average: at 30 Hz a clip of a frame a second.
# More means seconds that are milliseconds, or one wrong time, and would take as much memory.
MAX_TICKS_A_FRAME = 30
GAP = 1.5  # periods of the clip from the nearest frame beyond which a tick has none


class TimesError(FacepipeError, ValueError):
    """A clip's times cannot be resampled."""


@dataclass(frozen=True)
class ClipData:
    """One clip in memory: n frames.

    ``appearance`` (n, Da) in the store's dtype (float16 halves the memory), with the columns of a
    third stream behind its own where there is one, ``landmark`` (n, 136)
    float32 normalised (float16 would be as coarse as a tracker's jitter), ``valid`` (n,) bool,
    ``timestamp`` (n,) float64 s. Features of frames that are not valid are 0. ``widths``: columns
    of each of the arrays that lie side by side in ``appearance``; () for one. Of models that read
    pictures, ``appearance`` is (n, S, S, 3) uint8, and ``landmark`` and ``timestamp`` are 0.
    """

    clip: str
    appearance: npt.NDArray[Any]
    landmark: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    timestamp: npt.NDArray[np.float64]
    widths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.valid)

    @property
    def nbytes(self) -> int:
        """Bytes of the four arrays."""
        arrays = (self.appearance, self.landmark, self.valid, self.timestamp)
        return sum(array.nbytes for array in arrays)


@dataclass(frozen=True)
class Batch:
    """B clips padded to the longest, T frames.

    Attributes
    ----------
    appearance : (B, T, Da) float32, or (B, T, S, S, 3) uint8
    landmark : (B, T, 136) float32
    mask : (B, T) bool
        False for padding and frames without a face; the features are 0 there.
    timestamp : (B, T) float64 seconds, 0 in the padding
    score : (B,) float32, NaN for a clip without label
    clips : clip ids
    attributes : B mappings from column to word
        What else the labels say of each clip; empty where nothing is read of it.
    """

    appearance: Tensor
    landmark: Tensor
    mask: Tensor
    timestamp: Tensor
    score: Tensor
    clips: tuple[str, ...]
    attributes: tuple[Mapping[str, str], ...] = ()

    def to(self, device: torch.device) -> Batch:
        """Return it on a device; itself where it is there already."""
        if self.score.device == device:
            return self
        return replace(
            self,
            appearance=self.appearance.to(device),
            landmark=self.landmark.to(device),
            mask=self.mask.to(device),
            timestamp=self.timestamp.to(device),
            score=self.score.to(device),
        )


def prepare(
    clip: str,
    appearance: npt.NDArray[np.floating],
    landmark: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    timestamp: npt.NDArray[np.float64],
    *,
    landmarks: LandmarkMode = "clip",
    fps: float | None = None,
    max_frames: int | None = None,
    widths: tuple[int, ...] = (),
) -> ClipData:
    """Turn the rows of a clip, as stored, into what a model reads.

    Parameters
    ----------
    clip : str
        Its id.
    appearance, landmark, valid, timestamp
        (n, Da), (n, 136), (n,) and (n,): the arrays of those names in a store.
    landmarks : "clip", "frame" or "none"
        See normalise_landmarks; over the whole clip, whatever is cut off afterwards.
    fps : float, optional
        Common frame rate, see resample; left out, frames are taken as they are.
    max_frames : int, optional
        Longer clips are cut to this many frames around the middle one of those that are valid.
    widths : tuple of int
        See ClipData.

    Returns
    -------
    ClipData
        With copies, never views: a view would keep the block alive that it was read with. Where a
        frame of the clip is valid, one of these is.

    Raises
    ------
    TimesError
        Names the clip: ``fps`` asks for far more frames than it has.
    """
    index: Any = slice(None)
    kept = np.array(valid)
    if fps is not None:
        ticks = (timestamp[-1] - timestamp[0]) * fps
        if ticks > MAX_TICKS_A_FRAME * len(timestamp):
            raise TimesError(
                f"clip {clip!r}: {len(timestamp)} frames over {timestamp[-1] - timestamp[0]:g} s, "
                f"expected at most {MAX_TICKS_A_FRAME} times as many at fps={fps:g}, "
                f"got {ticks / len(timestamp):.0f} times",
                "Are its times seconds? Leave the clip out of the labels, or fit without fps.",
            )
        index, kept = resample(timestamp, valid, fps)
    if max_frames is not None and len(kept) > max_frames:
        window = middle(kept, max_frames)
        index, kept = window if fps is None else index[window], np.array(kept[window])
    points = normalise_landmarks(landmark, valid, landmarks)
    if len(kept) < len(points) or fps is not None:
        points = np.array(points[index])  # else it is a copy already
        points[~kept] = 0
    features = np.array(appearance[index])
    features[~kept] = 0
    return ClipData(clip, features, points, kept, np.array(timestamp[index]), widths)


def middle(valid: npt.NDArray[np.bool_], frames: int) -> slice:
    """Return the window of ``frames`` of (n,) around the middle of the valid ones, one in it."""
    n = len(valid)
    seen = np.flatnonzero(valid) if valid.any() else np.arange(n)
    low, high = int(seen[(len(seen) - 1) // 2]), int(seen[len(seen) // 2])
    first = (low + high + 1 - frames) // 2
    first = min(max(first, low - frames + 1), low)  # the two may lie far apart
    first = min(max(first, 0), n - frames)
    return slice(first, first + frames)


def beside(
    appearance: npt.NDArray[np.floating],
    extra: npt.NDArray[np.floating],
    valid: npt.NDArray[np.bool_],
) -> npt.NDArray[np.floating]:
    """Put a third stream behind the channels of the appearance: (n, Da), (n, De) -> (n, Da + De).

    What ``extra`` lacks in valid frames becomes the clip's mean of that column, 0 without any.
    """
    known = np.isfinite(extra) & valid[:, None]  # (n, De)
    total = np.where(known, extra, 0).sum(axis=0, dtype=np.float64)
    mean = total / np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, extra, mean).astype(extra.dtype)
    return np.concatenate([appearance, filled], axis=1)


def resample(
    timestamp: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_], fps: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Find the frame nearest to each tick of a clock of ``fps``, from the first frame on.

    Frames repeat where the clip is slower than ``fps``, but not into gaps: a tick is not valid
    that is farther than 1.5 periods of the clip, by its median, from any frame. Where the ticks
    would miss every valid frame, the one nearest to the middle one of these gets it.

    Parameters
    ----------
    timestamp : (n,) float64 s
        Increasing.
    valid : (n,) bool
    fps : float

    Returns
    -------
    index : (m,) of frames
    valid : (m,) bool
    """
    ticks = timestamp[0] + np.arange(int((timestamp[-1] - timestamp[0]) * fps + 1e-6) + 1) / fps
    right = np.clip(np.searchsorted(timestamp, ticks), 1, max(len(timestamp) - 1, 1))
    right = np.minimum(right, len(timestamp) - 1)
    left = np.maximum(right - 1, 0)
    nearer_left = ticks - timestamp[left] <= timestamp[right] - ticks
    index: npt.NDArray[np.intp] = np.where(nearer_left, left, right).astype(np.intp)
    kept = valid[index]
    if len(timestamp) > 1:
        period = np.median(np.diff(timestamp))
        kept &= np.abs(ticks - timestamp[index]) <= GAP * period + 1e-6
    if not kept.any() and valid.any():
        seen = np.flatnonzero(valid)
        frame = seen[(len(seen) - 1) // 2]
        tick = int(np.abs(ticks - timestamp[frame]).argmin())
        index[tick], kept[tick] = frame, True
    return index, kept


def draw(
    clips: Sequence[Sized], batch_size: int, bucket: int, rng: np.random.Generator
) -> list[int]:
    """Choose clips of like length for one batch: little padding, and still chance.

    ``bucket`` batches' worth of clips are drawn at random, sorted by length and cut into batches;
    one of these is chosen at random, the others go back. Long clips and short ones are therefore as
    likely to come early as any. Drawing until none is left gives whole batches and, last, the rest.

    Parameters
    ----------
    clips : sequence of n
        What there is to choose from, at least one; their ``len`` is their frames.
    batch_size, bucket : int
    rng : Generator

    Returns
    -------
    list of int
        Places in ``clips``, min(n, batch_size) of them, in random order.
    """
    size = min(len(clips), bucket * batch_size)
    pool = rng.choice(len(clips), size, replace=False)
    lengths = [len(clips[place]) for place in pool]
    pool = pool[np.argsort(lengths, kind="stable")]
    over = size % batch_size if size > batch_size else 0
    first = batch_size * int(rng.integers(max(size // batch_size, 1)))
    first += int(rng.integers(over + 1))  # the rest is left out at either end
    chosen: list[int] = rng.permutation(pool[first : first + batch_size]).tolist()
    return chosen


def collate(
    clips: Sequence[ClipData],
    scores: Mapping[str, float],
    attributes: Mapping[str, Mapping[str, str]] | None = None,
) -> Batch:
    """Pad clips to one batch, see Batch.

    Here float16 becomes float32, on the way into the batch: one pass over the memory, and Torch's
    cast is vectorised. For 16 clips of 300 frames that took 0.6 ms on one core, NumPy's assignment
    2.6 ms, padding in float16 and casting at the model's door 1.2 ms.
    """
    b, t = len(clips), max(len(c) for c in clips)

    def padded(arrays: Sequence[npt.NDArray[Any]], dtype: torch.dtype) -> Tensor:
        out = torch.empty((b, t, *arrays[0].shape[1:]), dtype=dtype)
        for row, array in zip(out, arrays, strict=True):
            row[: len(array)].copy_(torch.from_numpy(array))
            row[len(array) :].zero_()
        return out

    pictures = clips[0].appearance.dtype == np.uint8
    return Batch(
        padded([c.appearance for c in clips], torch.uint8 if pictures else torch.float32),
        padded([c.landmark for c in clips], torch.float32),
        padded([c.valid for c in clips], torch.bool),
        padded([c.timestamp for c in clips], torch.float64),
        torch.tensor([scores.get(c.clip, np.nan) for c in clips], dtype=torch.float32),
        tuple(c.clip for c in clips),
        tuple((attributes or {}).get(c.clip, {}) for c in clips),
    )
