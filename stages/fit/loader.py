"""Clips of a store as padded batches, read through Dask in blocks ahead of the model."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from operator import attrgetter
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import torch

from stages.fit.batches import Batch, ClipData, beside, collate, draw, prepare
from stages.fit.landmarks import LandmarkMode
from stages.fit.models import StreamStatistics
from stages.fit.spans import ClipSpan, FeatureStore, SpanTable, Stream, arrays_of, group_blocks
from stages.fit.tasks import Attributes
from store.companion import Companion
from store.heap import keep_one_heap
from store.schema import EMBEDDING_DIM

DEFAULT_BUDGET = 2 * 1024**3
# Larger ones read no more rows a second (docs/loading.md) and mix fewer places of the store.
BLOCK_ROWS = 24_576
EXTRACTED = ("appearance", "embedding")  # as far as a clip has them, in every valid frame
HELD_BLOCKS = 6
BLOCKS_AHEAD = 2


class Budget:
    """Bytes that loaders may keep in memory, all that share this object together."""

    def __init__(self, left: int = DEFAULT_BUDGET) -> None:
        self.left = left
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take ``size`` bytes if there are so many."""
        with self._lock:
            if size > self.left:
                return False
            self.left -= size
            return True

    def give_back(self, size: int) -> None:
        """Return bytes that were taken."""
        with self._lock:
            self.left += size


@dataclass(frozen=True)
class Rows:
    """What was read of a block: arrays of rows from ``low`` on, in the order of the loader's."""

    low: int
    arrays: tuple[npt.NDArray[Any], ...]


class ClipLoader:
    """Padded batches of chosen clips of a store.

    Clips are grouped, in row order, into blocks; a block is one Dask computation, done in a
    thread while the caller works on the blocks before it. Blocks stay in memory while they
    fit ``budget`` and are read again in every epoch beyond it. On top of the budget come the blocks
    at work, at most HELD_BLOCKS + BLOCKS_AHEAD + 2 of them, about 400 MB with float16 features,
    however large the store is. What is given, and in which order, depends on neither budget nor
    timing.

    Parameters
    ----------
    source : FeatureStore
    clips : sequence of ClipSpan
        Which clips, in any order.
    scores : mapping of clip id to float
        Labels; NaN in the batch for clips that have none.
    stream : str
        The store's arrays that the appearance stream reads side by side, with + between:
        appearance, embedding, names of layers. A frame that a layer is not of is not valid.
    landmarks : "clip", "frame" or "none"
        See normalise_landmarks.
    fps : float, optional
        Common frame rate; left out, frames are taken as they are.
    max_frames : int, optional
        Longer clips are cut to this many frames around the middle one of those that are valid.
    budget : Budget, optional
        Bytes that may stay in memory; left out, DEFAULT_BUDGET for this loader.
    block_rows : int
        Rows that a block spans at most, unless one clip has more; fewer where they are wider than
        512 columns.
    change : callable, optional
        Applied to every clip that is read, for example to put its frames in another order; the same
        clip must come out the same every time, in whichever thread.
    attributes : mapping of clip id to words by column, optional
        What else the labels say, for models of several tasks; goes into the batches as it is.
    extra : Companion, optional
        An array beside the store: its columns come behind those of the appearance. Where it has no
        value in a frame with a face, that is the clip's mean of the column, or 0.

    Raises
    ------
    StoreMismatchError
        ``extra`` lies beside another store.
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
        block_rows: int = BLOCK_ROWS,
        change: Callable[[ClipData], ClipData] | None = None,
        attributes: Attributes | None = None,
        extra: Companion | None = None,
    ) -> None:
        by_row = SpanTable.of(clips)
        self.scores = dict(scores or {})
        words = attributes or {}
        self.attributes = (
            {s.clip: words[s.clip] for s in by_row if s.clip in words} if words else {}
        )
        self._names = arrays_of(stream)
        features = [source.dask(name) for name in self._names]
        self.widths = tuple(int(array.shape[1]) for array in features)
        wider = max(sum(self.widths) / EMBEDDING_DIM, 1.0)  # wide layers: as many bytes, fewer rows
        self.blocks = group_blocks(by_row, max(int(block_rows / wider), 1))
        # So few blocks are held all at once, and their clips go by name: extraction writes clips as
        # its workers finish them, and the same features must train the same model in any order.
        self._whole = len(self.blocks) <= HELD_BLOCKS
        self.clips: Sequence[ClipSpan] = (
            sorted(by_row, key=attrgetter("clip")) if self._whole else by_row
        )
        self.extra_width = 0 if extra is None else len(extra.columns)
        beyond = [] if extra is None else [extra.dask()]
        rest = (source.dask(name) for name in ("landmark", "valid", "timestamp"))
        self._arrays = [*features, *beyond, *rest]
        self._landmarks: LandmarkMode = landmarks
        self._fps = fps
        self._max_frames = max_frames
        self._change = change
        self._kept: dict[int, list[ClipData]] = {}
        self._budget = budget or Budget()

    def __len__(self) -> int:
        return len(self.clips)

    def _read(self, block: int) -> list[ClipData] | Rows:
        """Read one block's rows from the store, or take its clips from memory."""
        return self._kept[block] if block in self._kept else self._rows(self.blocks[block])

    def _clips(self, block: int, read: list[ClipData] | Rows) -> list[ClipData]:
        """Turn what was read of a block into clips; they stay while they fit the budget."""
        if isinstance(read, list):
            return read
        clips = self._prepared(self.blocks[block], read)
        if self._budget.take(_size(clips)):
            self._kept[block] = clips
        return clips

    def _rows(self, spans: Sequence[ClipSpan]) -> Rows:
        """Read the rows of one block from the store."""
        low = spans[0].start
        high = max(s.start + s.frames for s in spans)
        # In the loader's own thread: Dask's, which share out a block's pieces, took up to twice the
        # CPU time for the same rows. As pieces: of an array that is one piece Dask would return a
        # copy.
        pieces = [a[low:high].to_delayed().ravel().tolist() for a in self._arrays]
        (read,) = dask.compute(pieces, scheduler="synchronous", optimize_graph=False)
        arrays = tuple(found[0] if len(found) == 1 else np.concatenate(found) for found in read)
        return Rows(low, arrays)

    def _prepared(self, spans: Sequence[ClipSpan], read: Rows) -> list[ClipData]:
        """Cut a block's rows into what models read of its clips."""
        *parts, landmark, valid, timestamp = read.arrays
        features, beyond = parts[: len(self.widths)], parts[len(self.widths) :]
        whole = features[0] if len(features) == 1 else np.concatenate(features, axis=1)
        for name, part in zip(self._names, features, strict=True):
            if name not in EXTRACTED:  # a layer may be of some frames only
                valid = valid & np.isfinite(part[:, 0])
        widths = (*self.widths, self.extra_width) if beyond else self.widths
        clips = []
        for span in spans:
            rows = slice(span.start - read.low, span.start - read.low + span.frames)
            appearance = whole[rows]
            clip = prepare(
                span.clip,
                beside(appearance, beyond[0][rows], valid[rows]) if beyond else appearance,
                landmark[rows],
                valid[rows],
                timestamp[rows],
                landmarks=self._landmarks,
                fps=self._fps,
                max_frames=self._max_frames,
                widths=widths,
            )
            clips.append(clip if self._change is None else self._change(clip))
        return clips

    def release(self) -> None:
        """Forget what is in memory and give its bytes back; reading goes on as before."""
        self._budget.give_back(sum(map(_size, self._kept.values())))
        self._kept.clear()

    def _stream(self, order: Sequence[int]) -> Iterator[list[ClipData]]:
        """Blocks in the order given, the next ones read while the caller works on this one.

        Rows are read in two threads and cut into clips in the caller's, which in training is that
        of the batches.
        """
        keep_one_heap()
        ahead = ThreadPoolExecutor(2, thread_name_prefix="facepipe-loader")
        waiting: deque[tuple[int, Future[list[ClipData] | Rows]]] = deque()
        try:
            for block in order:
                waiting.append((block, ahead.submit(self._read, block)))
                if len(waiting) > BLOCKS_AHEAD:
                    first, read = waiting.popleft()
                    yield self._clips(first, read.result())
            while waiting:
                first, read = waiting.popleft()
                yield self._clips(first, read.result())
        finally:
            ahead.shutdown(cancel_futures=True)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        bucket: int = 4,
    ) -> Iterator[Batch]:
        """Every clip once, in padded batches; the last one may be smaller.

        Shuffled, the blocks come in random order, several are held, and a batch is drawn from all
        clips held (see draw); the same for the same (seed, epoch). Otherwise in that of ``clips``.

        Parameters
        ----------
        batch_size : int
            Clips.
        shuffle : bool
        seed, epoch : int
            The order's; read only if shuffled.
        bucket : int
            Batches' worth of clips from which a batch of like lengths is taken; 1: any lengths.
        """
        chosen = self._shuffled(batch_size, seed, epoch, bucket)
        training = (seed, epoch) if shuffle else None
        made = (
            self._collate(clips, training)
            for clips in (chosen if shuffle else self._in_order(batch_size))
        )
        # Padded while the caller works on the batch before it.
        with closing(made), ThreadPoolExecutor(1, thread_name_prefix="facepipe-batch") as ahead:
            waiting = ahead.submit(next, made, None)
            while (batch := waiting.result()) is not None:
                waiting = ahead.submit(next, made, None)
                yield batch

    def _collate(self, clips: list[ClipData], training: tuple[int, int] | None) -> Batch:
        """Make one batch; ``training`` is the seed and epoch of a shuffled one."""
        return collate(clips, self.scores, self.attributes)

    def _shuffled(
        self, batch_size: int, seed: int, epoch: int, bucket: int
    ) -> Iterator[list[ClipData]]:
        """Clips of one batch after the other.

        After every block one in HELD_BLOCKS of the clips held is given out, so about HELD_BLOCKS of
        them are held once it runs, and the model need not wait for so many at the start.
        """
        rng = np.random.default_rng((seed, epoch))
        if self._whole:
            held = list(self.iter_clips())
            while held:
                yield _taken(held, draw(held, batch_size, bucket, rng))
            return
        order = rng.permutation(len(self.blocks)).tolist()
        held = []
        for count, clips in enumerate(self._stream(order), start=1):
            held += clips
            due = len(held) if count == len(order) else len(held) // HELD_BLOCKS
            # Before the end only whole batches.
            while held and (due >= batch_size or count == len(order)):
                chosen = _taken(held, draw(held, batch_size, bucket, rng))
                due -= len(chosen)
                yield chosen

    def _in_order(self, batch_size: int) -> Iterator[list[ClipData]]:
        clips = self.iter_clips()
        while batch := list(islice(clips, batch_size)):
            yield batch

    def iter_clips(self) -> Iterator[ClipData]:
        """Every clip once, in the order of ``clips``."""
        read = self._stream(range(len(self.blocks)))
        if self._whole:
            yield from sorted(chain.from_iterable(read), key=attrgetter("clip"))
        else:
            yield from chain.from_iterable(read)

    def longest(self) -> int:
        """Frames of the longest clip as it would be batched; reads times only if resampling."""
        if self._fps is not None:
            longest = max(len(c) for c in self.iter_clips())
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
                centre = x64.mean(axis=0) if n else 0.0  # a layer may be of none of the frames
                sums[3 * k + 2] = sums[3 * k + 2] + ((x64 - centre) ** 2).sum(axis=0)
        count = max(count, 1)
        result = []
        for k in range(2):
            mean = sums[3 * k] / count
            sd = np.sqrt(np.maximum(sums[3 * k + 1] / count - mean**2, 0))
            within = np.sqrt(sums[3 * k + 2] / count)
            sd[sd < 1e-6] = 1.0
            within[within < 1e-6] = 1.0
            result += [torch.from_numpy(v.astype(np.float32)) for v in (mean, sd, within)]
        return StreamStatistics(*result)


def _size(clips: Sequence[ClipData]) -> int:
    return sum(clip.nbytes for clip in clips)


def _taken(held: list[ClipData], places: Sequence[int]) -> list[ClipData]:
    """Take the clips at some places out of those held."""
    chosen = [held[place] for place in places]
    for place in sorted(places, reverse=True):  # the last one takes the free place
        held[place] = held[-1]
        held.pop()
    return chosen
