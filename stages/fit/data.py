"""Clips of a store as padded batches, read lazily through Dask in blocks of about one shard."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import dask
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.fit.landmarks import LandmarkMode, normalise_landmarks
from stages.fit.models import StreamStatistics
from store.schema import LANDMARK_DIM, SHARD_ROWS, Status

Stream = Literal["appearance", "embedding"]
DEFAULT_BUDGET = 2 * 1024**3


class FeatureStore(Protocol):
    """What stage two needs of a store, as ``store.open`` returns it."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Pack, recipe and versions of the extraction."""
        ...

    def iter_rows(
        self,
        columns: Sequence[str],
        status: Status | Iterable[Status] | None = None,
        *,
        subset: Iterable[str] | None = None,
        where: str | None = None,
        by_start: bool = False,
    ) -> Iterator[tuple[Any, ...]]:
        """Columns of the index, cheaply."""
        ...

    def dask(self, name: str) -> Any:
        """Return one per-frame array, lazily."""
        ...


class ClipSpan(NamedTuple):
    """Where the rows of one clip lie: ``frames`` rows from row ``start``."""

    clip: str
    start: int
    frames: int
    valid_frames: int


def clip_spans(source: FeatureStore) -> dict[str, ClipSpan]:
    """Clips that can be scored (main track, at least one frame with a face), in row order."""
    rows = source.iter_rows(
        ClipSpan._fields,
        [status for status in Status if status.has_rows],
        where="track = 0 AND valid_frames > 0",
        by_start=True,
    )
    collecting = gc.isenabled()
    gc.disable()  # it would look through a growing million of tuples again and again
    try:
        return {row[0]: ClipSpan(*row) for row in rows}
    finally:
        if collecting:
            gc.enable()


@dataclass(frozen=True)
class ClipData:
    """One clip in memory: n frames.

    ``appearance`` (n, Da) in the store's dtype (float16 halves the memory), ``landmark`` (n, 136)
    float32 normalised (float16 would be as coarse as a tracker's jitter), ``valid`` (n,) bool,
    ``timestamp`` (n,) float64 s. Features of frames that are not valid are 0.
    """

    clip: str
    appearance: npt.NDArray[np.floating]
    landmark: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    timestamp: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Batch:
    """B clips padded to the longest, T frames.

    Attributes
    ----------
    appearance : (B, T, Da) float32
    landmark : (B, T, 136) float32
    mask : (B, T) bool
        False for padding and frames without a face; the features are 0 there.
    timestamp : (B, T) float64 seconds, 0 in the padding
    score : (B,) float32, NaN for a clip without label
    clips : clip ids
    """

    appearance: Tensor
    landmark: Tensor
    mask: Tensor
    timestamp: Tensor
    score: Tensor
    clips: tuple[str, ...]


def collate(clips: Sequence[ClipData], scores: Mapping[str, float]) -> Batch:
    """Pad clips to one batch, see Batch."""
    b, t = len(clips), max(len(c.valid) for c in clips)
    appearance = np.zeros((b, t, clips[0].appearance.shape[1]), np.float32)
    landmark = np.zeros((b, t, LANDMARK_DIM), np.float32)
    mask = np.zeros((b, t), np.bool_)
    timestamp = np.zeros((b, t), np.float64)
    for row, c in enumerate(clips):
        n = len(c.valid)
        appearance[row, :n], landmark[row, :n] = c.appearance, c.landmark
        mask[row, :n], timestamp[row, :n] = c.valid, c.timestamp
    score = np.array([scores.get(c.clip, np.nan) for c in clips], np.float32)
    return Batch(
        torch.from_numpy(appearance),
        torch.from_numpy(landmark),
        torch.from_numpy(mask),
        torch.from_numpy(timestamp),
        torch.from_numpy(score),
        tuple(c.clip for c in clips),
    )


def resample_indices(timestamp: npt.NDArray[np.float64], fps: float) -> npt.NDArray[np.intp]:
    """Index of the frame nearest to each tick of a clock of ``fps``, from the first frame on.

    (n,) seconds, increasing -> (m,) indices; frames repeat where the clip is slower than ``fps``.
    """
    ticks = timestamp[0] + np.arange(int((timestamp[-1] - timestamp[0]) * fps + 1e-6) + 1) / fps
    right = np.clip(np.searchsorted(timestamp, ticks), 1, max(len(timestamp) - 1, 1))
    right = np.minimum(right, len(timestamp) - 1)
    left = np.maximum(right - 1, 0)
    nearer_left = ticks - timestamp[left] <= timestamp[right] - ticks
    index: npt.NDArray[np.intp] = np.where(nearer_left, left, right).astype(np.intp)
    return index


class Budget:
    """Bytes that loaders may keep in memory, all that share this object together."""

    def __init__(self, left: int = DEFAULT_BUDGET) -> None:
        self.left = left

    def take(self, size: int) -> bool:
        """Take ``size`` bytes if there are so many."""
        if size > self.left:
            return False
        self.left -= size
        return True


class ClipLoader:
    """Padded batches of chosen clips of a store.

    Clips are grouped, in row order, into blocks that span about one shard; a block is one Dask
    computation. Blocks stay in memory while they fit ``budget`` and are read again in every epoch
    beyond it, the next one while the current one is used.

    Parameters
    ----------
    source : FeatureStore
    clips : sequence of ClipSpan
        Which clips, in any order.
    scores : mapping of clip id to float
        Labels; NaN in the batch for clips that have none.
    stream : "appearance" or "embedding"
        The store's array that the appearance stream reads.
    landmarks : "clip", "frame" or "none"
        See normalise_landmarks.
    fps : float, optional
        Common frame rate; left out, frames are taken as they are.
    max_frames : int, optional
        Longer clips are cut to this many frames around their middle.
    budget : Budget, optional
        Bytes that may stay in memory; left out, DEFAULT_BUDGET for this loader.
    """

    def __init__(
        self,
        source: FeatureStore,
        clips: Sequence[ClipSpan],
        scores: Mapping[str, float] | None = None,
        *,
        stream: Stream = "appearance",
        landmarks: LandmarkMode = "clip",
        fps: float | None = None,
        max_frames: int | None = None,
        budget: Budget | None = None,
        block_rows: int = SHARD_ROWS,
    ) -> None:
        self.clips = sorted(clips, key=lambda c: c.start)
        self.scores = dict(scores or {})
        self.blocks = _blocks(self.clips, block_rows)
        self._arrays = [source.dask(n) for n in (stream, "landmark", "valid", "timestamp")]
        self._landmarks: LandmarkMode = landmarks
        self._fps = fps
        self._max_frames = max_frames
        self._cache: dict[int, list[ClipData]] = {}
        self._budget = budget or Budget()
        self._taken = 0

    def __len__(self) -> int:
        return len(self.clips)

    def _prepare(self, span: ClipSpan, rows: list[npt.NDArray[Any]]) -> ClipData:
        appearance, landmark, valid, timestamp = rows
        index = np.arange(span.frames)
        if self._fps is not None:
            index = resample_indices(timestamp, self._fps)
        if self._max_frames is not None and len(index) > self._max_frames:
            first = (len(index) - self._max_frames) // 2
            index = index[first : first + self._max_frames]
        appearance = np.where(valid[:, None], appearance, 0)[index]
        landmark = normalise_landmarks(landmark, valid, self._landmarks)[index]
        return ClipData(span.clip, appearance, landmark, valid[index], timestamp[index])

    def _read(self, block: int) -> list[ClipData]:
        """Read one block, or take it from memory."""
        if block in self._cache:
            return self._cache[block]
        spans = self.blocks[block]
        low = spans[0].start
        high = max(s.start + s.frames for s in spans)
        arrays = dask.compute(*(a[low:high] for a in self._arrays), scheduler="threads")
        clips = [
            self._prepare(s, [a[s.start - low : s.start - low + s.frames] for a in arrays])
            for s in spans
        ]
        size = sum(
            a.nbytes for c in clips for a in (c.appearance, c.landmark, c.valid, c.timestamp)
        )
        if self._budget.take(size):
            self._taken += size
            self._cache[block] = clips
        return clips

    def release(self) -> None:
        """Forget what is in memory and give its bytes back; reading goes on as before."""
        self._cache.clear()
        self._budget.left += self._taken
        self._taken = 0

    def _stream(self, order: Sequence[int]) -> Iterator[tuple[int, list[ClipData]]]:
        """Blocks in the order given, the next one read while the caller works on this one."""
        with ThreadPoolExecutor(max_workers=1) as ahead:
            waiting: Future[list[ClipData]] | None = None
            for place, block in enumerate(order):
                clips = waiting.result() if waiting is not None else self._read(block)
                following = order[place + 1 : place + 2]
                waiting = ahead.submit(self._read, following[0]) if following else None
                yield block, clips

    def batches(
        self, batch_size: int, *, shuffle: bool = False, seed: int = 0, epoch: int = 0
    ) -> Iterator[Batch]:
        """Every clip once, in padded batches; the last one may be smaller.

        Shuffled: blocks first, then clips within a block, the same for the same (seed, epoch).
        Otherwise in row order.
        """
        rng = np.random.default_rng((seed, epoch))
        order = np.arange(len(self.blocks))
        if shuffle:
            rng.shuffle(order)
        held: list[ClipData] = []
        for _, clips in self._stream(order.tolist()):
            places = rng.permutation(len(clips)) if shuffle else np.arange(len(clips))
            for place in places:
                held.append(clips[place])
                if len(held) == batch_size:
                    yield collate(held, self.scores)
                    held = []
        if held:
            yield collate(held, self.scores)

    def iter_clips(self) -> Iterator[ClipData]:
        """Every clip once, in row order."""
        for _, clips in self._stream(range(len(self.blocks))):
            yield from clips

    def longest(self) -> int:
        """Frames of the longest clip as it would be batched; reads times only if resampling."""
        if self._fps is not None:
            longest = max(len(c.valid) for c in self.iter_clips())
        else:
            longest = max(c.frames for c in self.clips)
        return longest if self._max_frames is None else min(longest, self._max_frames)

    def statistics(self) -> StreamStatistics:
        """Mean and deviations of every channel over the valid frames of all clips."""
        count = 0
        sums: list[Any] = [0.0] * 6
        for clip in self.iter_clips():
            n = int(clip.valid.sum())
            count += n
            for k, x in enumerate((clip.appearance, clip.landmark)):
                x64 = x[clip.valid].astype(np.float64)
                sums[3 * k] = sums[3 * k] + x64.sum(axis=0)
                sums[3 * k + 1] = sums[3 * k + 1] + (x64**2).sum(axis=0)
                sums[3 * k + 2] = sums[3 * k + 2] + ((x64 - x64.mean(axis=0)) ** 2).sum(axis=0)
        result = []
        for k in range(2):
            mean = sums[3 * k] / count
            sd = np.sqrt(np.maximum(sums[3 * k + 1] / count - mean**2, 0))
            within = np.sqrt(sums[3 * k + 2] / count)
            sd[sd < 1e-6] = 1.0
            within[within < 1e-6] = 1.0
            result += [torch.from_numpy(v.astype(np.float32)) for v in (mean, sd, within)]
        return StreamStatistics(*result)


def _blocks(clips: Sequence[ClipSpan], rows: int) -> list[list[ClipSpan]]:
    """Group clips, sorted by row, so that a block spans at most ``rows`` rows or is one clip."""
    blocks: list[list[ClipSpan]] = []
    for clip in clips:
        if blocks and clip.start + clip.frames - blocks[-1][0].start <= rows:
            blocks[-1].append(clip)
        else:
            blocks.append([clip])
    return blocks
