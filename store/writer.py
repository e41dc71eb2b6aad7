"""The one writer of a store: journal, flush, commit."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace as with_fields
from datetime import UTC, datetime
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Any, Self

from store import crop_index, mismatch
from store import crops as clip_crops
from store import rows as clip_rows
from store.clip_id import check_clip_id
from store.compact import compact
from store.crop_index import CropRecord
from store.durable import reporting
from store.errors import ClipExistsError, ClipNotFoundError, FacepipeError, StoreError
from store.layout import Layout, Paths
from store.lock import WriterLock
from store.progress import Progress, unheard
from store.recover import check_target, open_for_writing
from store.remote import local_path
from store.schema import FEATURE_DTYPES, ArraySpec, ClipCrops, ClipRecord, ClipRows, array_specs

_PART_ROWS = 2_048  # 5 MB of all arrays: what one transaction puts into the journal


class Writer:
    """Opens or creates a store for writing, as its only writer; a context manager.

    A clip is journalled in ``index.sqlite`` when ``append`` returns and cannot be lost any more,
    and becomes visible to readers with the next flush: where the rows reach a multiple of 16,384,
    and at ``close``. What a killed writer left is mended when the next one opens. Use from one
    thread at a time. Rows that wait for a flush stay in memory too, at most those of one.

    Parameters
    ----------
    path : path
        ``NAME.store``; parents are made.
    provenance : dict
        ``pack`` with ``name`` and ``fingerprint``, ``recipe`` (flat), and what else is worth
        keeping. Written once something is appended.
    feature_dtype : str
        ``float16`` or ``float32``, for embedding and appearance; fixed for the life of the store.
    layout : Layout
        Rows per chunk, shard and flush; chunk and shard count only when the store is made.
    crop_size : int, optional
        Side in pixels of the crops that come with every clip (`ClipRows.crops`); None for a store
        without crops. Fixed for the life of the store.

    Raises
    ------
    StoreLockedError
        Another process writes the store; names its host, pid and start time.
    StoreMismatchError
        The store was made with another pack, recipe, feature dtype or crop size.
    StoreFormatError
        The folder is no store, or of a newer format.
    StoreWriteError
        The disk is full or refused a write.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        provenance: dict[str, Any],
        feature_dtype: str = "float16",
        *,
        layout: Layout | None = None,
        crop_size: int | None = None,
    ) -> None:
        if feature_dtype not in FEATURE_DTYPES:
            raise StoreError(
                f"feature dtype: expected {' or '.join(FEATURE_DTYPES)}, got {feature_dtype!r}"
            )
        self.path = local_path(path)
        self._paths = Paths(self.path)
        self._layout = layout or Layout()
        self._provenance = mismatch.to_json(provenance)
        self._specs = array_specs(feature_dtype)
        self._feature_dtype = feature_dtype
        self._crop_size = crop_size
        self._session: int | None = None
        self._waiting_crops = 0
        self._kept: dict[tuple[str, int], clip_rows.Rows] = {}  # what waits, by clip and track
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="facepipe-writer")
        self._closed = False
        with reporting(self.path, "opening the store"):
            check_target(self._paths)
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = WriterLock(self._paths)
            self._lock.acquire()
            try:
                self._index, self._arrays = open_for_writing(
                    self._paths, feature_dtype, self._layout, crop_size
                )
            except BaseException:
                self._lock.release()
                raise
        try:
            held = self._index.first_provenance()
            if held is not None:
                mismatch.check_provenance(self.path, json.loads(held), provenance)
            self._count_waiting()
            meta = self._index.meta()
            self._committed, self._committed_crops = meta.rows, meta.crop_rows
        except BaseException:
            self._abandon()
            raise

    def append(self, record: ClipRecord, rows: ClipRows | None, replace: bool = False) -> None:
        """Journal one track of a clip. Durable when this returns.

        Parameters
        ----------
        record : ClipRecord
            ``start``, ``rows_sha256`` and ``session`` are filled in here.
        rows : ClipRows or None
            n = ``record.frames`` rows for a status that has rows, None for one that has none. With
            ``crops``, if the store holds any and a frame is valid.
        replace : bool
            Whether a track that is there with rows may be replaced. Readers see the old rows until
            the new ones are flushed. A record without rows is replaced without asking.

        Raises
        ------
        ClipIdError, ClipExistsError
            The id is unusable; the track is there.
        StoreError
            Record and rows disagree, or rows break an invariant; nothing is written.
        StoreWriteError
            The disk is full; what was appended before is kept.
        """
        self._check_open()
        check_clip_id(record.clip)
        if record.track < 0:
            raise StoreError(
                f"clip {record.clip!r}, record.track: expected 0 or more, got {record.track}"
            )
        if record.status.has_rows != (rows is not None):
            raise StoreError(
                f"clip {record.clip!r}: status {record.status} expects "
                f"{'rows' if rows is None else 'no rows'}, got {'none' if rows is None else 'rows'}"
            )
        stored = crops = None
        if rows is None:
            wrong = clip_rows.status_violation(record)
            if wrong:
                raise StoreError(f"clip {record.clip!r}: {wrong}")
        else:
            stored = clip_rows.prepare(record, rows, self._feature_dtype, self._each)
            crops = clip_crops.prepare(record, rows, self._crop_size)
        with reporting(self.path, f"appending {record.clip}"):
            self._journal(record, stored, crops, replace)
        if self._is_full():
            self.flush()

    def _is_full(self) -> bool:
        """Whether the rows, or the crops, reach the next multiple of those of a flush.

        Counted from row 0 and not from the last flush: flushes that drift across the ends of shards
        would rewrite a shard three times and not twice.
        """
        step, crops = self._layout.flush_rows, self._layout.crop_flush_rows
        before = self._committed_crops
        return (self._committed + self._waiting) // step > self._committed // step or (
            (before + self._waiting_crops) // crops > before // crops
        )

    def _count_waiting(self) -> None:
        self._waiting = self._index.pending_rows()
        if self._crop_size is not None:
            self._waiting_crops = crop_index.pending_count(self._index.connection)

    def _journal(
        self,
        record: ClipRecord,
        stored: clip_rows.Rows | None,
        crops: ClipCrops | None,
        replace: bool,
    ) -> None:
        key, session = (record.clip, int(record.track)), self._session
        if not replace and self._index.has_rows(*key):
            raise ClipExistsError(
                f"{self.path}: holds clip {record.clip!r}, track {record.track} already",
                "Extract with --overwrite to replace it.",
            )
        hashed = (
            None if crops is None else (crops, clip_crops.crops_sha256(crops.frames, crops.images))
        )
        self._kept.pop(key, None)
        if stored is not None:
            digest = self._beside.submit(clip_rows.rows_sha256, stored, self._specs)
            size = min(self._layout.flush_rows, _PART_ROWS)
            early = self._index.put_early(clip_rows.pack(stored, self._specs, size))
        with self._index.transaction():
            if session is None:
                session = self._index.add_session(_now(), self._provenance)
            full = partial(with_fields, record, start=None, session=session)
            if stored is None:
                self._index.drop_pending(*key)
                self._index.put_clip(full(rows_sha256=""))
            else:
                self._index.put_last(*key, early)
                self._index.put_pending(early.number, full(rows_sha256=digest.result()), hashed)
        self._session = session
        self._count_waiting()
        if stored is not None and self._waiting <= self._layout.flush_rows:
            self._kept[key] = stored

    def _each(
        self, do: Callable[[ArraySpec], clip_rows.AnyArray], specs: Iterable[ArraySpec]
    ) -> list[clip_rows.AnyArray]:
        """Call ``do`` for all arrays, for the first, a large one, in a thread beside this one."""
        first, *others = specs
        ahead = self._beside.submit(do, first)
        rest = [do(spec) for spec in others]
        return [ahead.result(), *rest]

    def remove(self, clip: str, track: int | None = None) -> None:
        """Remove one track of a clip, or all; its rows go when the store is closed.

        Raises
        ------
        ClipNotFoundError
            There is no such clip.
        """
        self._check_open()
        self._kept.clear()  # the journal has it all
        with reporting(self.path, f"removing {clip}"):
            with self._index.transaction():
                count = self._index.drop_pending(clip, track)
                count += self._index.drop_clip(clip, track)
            self._count_waiting()
        if not count:
            what = f"clip {clip!r}" if track is None else f"clip {clip!r}, track {track}"
            raise ClipNotFoundError(f"{self.path}: holds no {what}")

    def records(self) -> Iterator[ClipRecord]:
        """Yield what is done, committed and journalled alike, ordered by clip and track.

        A journalled record stands for the committed one that it will replace; its ``start`` is
        None.
        """
        self._check_open()
        waiting = {(r.clip, r.track): r for _, r in self._index.pending()}
        committed = (r for r in self._index.clips() if (r.clip, r.track) not in waiting)
        order = sorted(waiting)
        yield from heapq.merge(
            committed, (waiting[key] for key in order), key=lambda r: (r.clip, r.track)
        )

    def flush(self) -> None:
        """Write the journalled clips into the arrays and commit them, so that readers see them.

        Raises
        ------
        StoreWriteError
            The disk is full. The clips stay in the journal; the next flush or the next writer
            writes them.
        """
        self._check_open()
        with reporting(self.path, "writing the arrays"):
            pending = self._index.pending()
            if not pending:
                return
            start = self._committed
            total = start + sum(record.frames for _, record in pending)
            self._arrays.resize(total)
            for first, slab in self._slabs(pending, start):
                self._arrays.write(first, slab)
            total_crops = self._committed_crops + self._waiting_crops
            crops = self._write_crops(total_crops)
            self._arrays.sync()
            with self._index.transaction():
                for _, record in pending:
                    self._index.put_clip(with_fields(record, start=start))
                    start += record.frames
                for placed in crops:
                    crop_index.put(self._index.connection, placed)
                self._index.clear_pending()
                self._index.set_meta(rows=total)
                if self._crop_size is not None:
                    self._index.set_meta(crop_rows=total_crops)
            self._kept.clear()
            self._committed, self._waiting = total, 0
            self._committed_crops, self._waiting_crops = total_crops, 0

    def _write_crops(self, total: int) -> list[CropRecord]:
        """Write the journalled crops behind the committed ones; return where they lie."""
        if self._crop_size is None or not self._waiting_crops:
            return []
        self._arrays.resize_crops(total)
        placed: list[CropRecord] = []

        def noted() -> Iterator[tuple[CropRecord, clip_crops.Images]]:
            size = self._crop_size or 0
            for record, images in clip_crops.pending(self._index, size, self._committed_crops):
                placed.append(record)
                yield record, images

        for first, images in clip_crops.slabs(noted(), self._arrays.crop_shard_rows):
            self._arrays.write(first, {"crop": images})
        return placed

    def _slabs(
        self, pending: list[tuple[int, ClipRecord]], start: int
    ) -> Iterator[tuple[int, clip_rows.Rows]]:
        """Yield the journal as (first row, arrays), one shard at a time, in the same memory.

        What fills a shard is written without reading it first.
        """
        end = start + sum(record.frames for _, record in pending)
        shard = self._arrays.shard_rows
        slab = clip_rows.Slab(min(shard, end - start), self._specs)
        first = at = start
        stop = min(end, start - start % shard + shard)
        for number, record in pending:
            for rows in self._rows_of(number, record):
                n, done = len(rows["valid"]), 0
                while done < n:
                    count = min(n - done, stop - at)
                    slab.put(at - first, rows, done, done + count)
                    at, done = at + count, done + count
                    if at == stop:
                        yield first, slab.rows(at - first)
                        first, stop = at, min(end, at + shard)

    def _rows_of(self, number: int, record: ClipRecord) -> Iterator[clip_rows.Rows]:
        """Yield the rows of a journalled clip: from memory, else from the journal in parts."""
        kept = self._kept.get((record.clip, record.track))
        if kept is not None:
            yield kept
            return
        for n, data in self._index.parts(number):
            yield clip_rows.unpack(n, data, self._specs)

    def close(self, progress: Progress = unheard) -> None:
        """Flush, close the holes that replaced clips left, and give the lock back.

        ``progress`` is told of the bytes that are copied for that.

        Raises
        ------
        StoreWriteError
            The disk is full. The store opens all the same, and what was journalled stays so.
        """
        if self._closed:
            return
        try:
            self.flush()
            with reporting(self.path, "closing the store"):
                if self._index.meta().unowned:
                    layout = self._arrays.layout
                    compact(self._paths, self._index, self._arrays, layout, progress=progress)
                self._index.shrink()
        finally:
            self._abandon()

    def _abandon(self) -> None:
        """Let go of the store as it is; the journal keeps what was appended."""
        self._closed = True
        self._beside.shutdown()
        self._kept.clear()
        self._index.close()
        self._lock.release()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"{self.path}: this writer is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        with suppress(FacepipeError):  # what went wrong first matters more
            self.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(" ", "seconds")
