"""What a store's owner does with it between runs: compact it, forget clips, under its lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from store import compact as compaction
from store import crop_index
from store.arrays import Arrays
from store.durable import reporting
from store.errors import ClipNotFoundError
from store.index import Index
from store.layout import Layout, Paths
from store.lock import WriterLock
from store.opening import check_path, open_index
from store.progress import Progress, unheard
from store.reader import Store
from store.recover import open_for_writing
from store.remote import RemoteFolder, is_url, local_path
from store.schema import ClipRecord
from store.writer import Writer


@contextmanager
def locked(path: str | PathLike[str]) -> Iterator[tuple[Paths, Index]]:
    """Hold the writer's lock of a store that is there, with its index open for writing.

    Raises
    ------
    StoreNotFoundError, StoreFormatError, StoreLockedError
        There is no whole store, or another process writes it.
    """
    paths = Paths(local_path(path))
    check_path(paths)
    open_index(paths).close()  # a newer format is refused before anything is touched
    with reporting(paths.root, "opening the store"):
        lock = WriterLock(paths)
        lock.acquire()
    try:
        with reporting(paths.root, "changing the store"):
            index = open_index(paths, writable=True)
            try:
                yield paths, index
            finally:
                index.close()
    finally:
        lock.release()


def whole(paths: Paths, index: Index, *, spoil: bool = False) -> Arrays:
    """Mend what a killed writer left and return the arrays, in which a missing chunk is an error.

    ``spoil``: overwrite what it left before it is deleted.

    Raises
    ------
    StoreFormatError
        Arrays and index do not fit together.
    """
    meta = index.meta()
    mended, _ = open_for_writing(paths, meta.feature_dtype, Layout(), meta.crop_size, spoil=spoil)
    mended.close()
    return Arrays(paths.arrays, meta.feature_dtype, crop_size=meta.crop_size)


def compact(path: str | PathLike[str], progress: Progress = unheard) -> tuple[int, int]:
    """Flush the journal, close the holes in the arrays, and give free space back to the disk.

    Returns
    -------
    (int, int)
        Bytes of all files before and after.

    Raises
    ------
    StoreNotFoundError, StoreFormatError, StoreLockedError
        There is no whole store, or another process writes it.
    StoreError, StoreWriteError
        Rows are damaged; the disk is full. The store is as it was.
    """
    before = size(local_path(path))
    with Store(path) as opened:
        provenance, feature_dtype = opened.provenance, opened.feature_dtype
        crop_size = opened.crop_size
    Writer(path, provenance, feature_dtype, crop_size=crop_size).close(progress)
    with locked(path) as (_, index):
        vacuum(index)
    return before, size(path)


def forget(path: str | PathLike[str], clips: Sequence[str], progress: Progress = unheard) -> int:
    """Erase clips: no file of the store holds their ids or rows any more.

    The arrays are written anew without them, and the shards that held their rows, or rows that no
    clip owns and that may have been theirs, are overwritten before they are deleted, as is all that
    a killed writer left; the index is rebuilt with deleted content zeroed. A kill at any moment
    leaves the clips as they were, or gone for readers; ``compact`` then completes the erasure.
    Copies made elsewhere (backups, snapshots, what an SSD keeps behind its firmware) are out of
    reach.

    Returns
    -------
    int
        Rows erased.

    Raises
    ------
    ClipNotFoundError
        Names the clips that are not there; nothing is changed.
    StoreError, StoreWriteError
        As `compact`.
    """
    wanted = list(dict.fromkeys(clips))
    paths = Paths(local_path(path))
    check_path(paths)
    index = open_index(paths)  # reading: to open it for writing would touch the file
    try:
        _held(paths, index, wanted)
    finally:
        index.close()
    with locked(path) as (paths, index):
        held = _held(paths, index, wanted)
        index.connection.execute("PRAGMA secure_delete=ON")
        arrays = whole(paths, index, spoil=True)
        records = [record for clip in wanted for record in held[clip]]
        doomed = _doomed(paths, arrays, index, records)
        compaction.compact(
            paths,
            index,
            arrays,
            arrays.layout,
            without=set(wanted),
            spoil=doomed,
            progress=progress,
        )
        vacuum(index)
    return sum(record.frames for record in records)


def _held(paths: Paths, index: Index, clips: Sequence[str]) -> dict[str, list[ClipRecord]]:
    found: dict[str, list[ClipRecord]] = {}
    waiting = [record for _, record in index.pending()]
    for clip in clips:
        tracks = [
            int(track)
            for (track,) in index.connection.execute(
                "SELECT track FROM clip WHERE clip = ?", (clip,)
            ).fetchall()
        ]
        records = [r for track in tracks if (r := index.clip(clip, track)) is not None]
        records += [record for record in waiting if record.clip == clip]
        if records:
            found[clip] = records
    missing = [clip for clip in clips if clip not in found]
    if missing:
        raise ClipNotFoundError(
            f"{paths.root}: holds no clip {', '.join(map(repr, missing))}; nothing was changed",
            f"`pipeline store digest {paths.root}` lists the clips.",
        )
    return found


def _doomed(
    paths: Paths, arrays: Arrays, index: Index, records: Sequence[ClipRecord]
) -> list[Path]:
    """Return the shards, by their paths below arrays.zarr, that may hold rows of the records.

    Those that do, and those with rows that no clip owns, since these may be older ones of a clip
    that was replaced, or of a flush that was cut short.
    """
    rows = [(r.start, r.start + r.frames) for r in records if r.start is not None]
    owned = ((r.start or 0, r.frames) for r in index.clips_by_start())
    rows += _gaps(owned, index.meta().rows)
    numbers = _shards(rows, arrays.shard_rows)
    tops = [paths.arrays / name / "c" / str(n) for name in arrays.specs for n in sorted(numbers)]
    if arrays.crop_spec is not None:
        found = (crop_index.find(index.connection, r.clip, r.track) for r in records)
        crops = [(f.start, f.stop) for f in found if f is not None]
        owned = ((f.start, len(f.frames)) for f in crop_index.by_start(index.connection))
        crops += _gaps(owned, index.meta().crop_rows)
        numbers = _shards(crops, arrays.crop_shard_rows)
        tops += [paths.arrays / arrays.crop_spec.name / "c" / str(n) for n in sorted(numbers)]
    files = [file for top in tops for file in (top, *top.rglob("*")) if file.is_file()]
    return [file.relative_to(paths.arrays) for file in files]


def _gaps(owned: Iterator[tuple[int, int]], end: int) -> list[tuple[int, int]]:
    """Return the ranges of rows between those that are owned, and the row behind the last."""
    gaps, at = [], 0
    for start, count in owned:
        if start > at:
            gaps.append((at, start))
        at = max(at, start + count)
    return [*gaps, (at, end + 1)]


def _shards(ranges: Sequence[tuple[int, int]], shard_rows: int) -> set[int]:
    return {
        shard
        for start, stop in ranges
        for shard in range(start // shard_rows, (stop - 1) // shard_rows + 1)
    }


def vacuum(index: Index) -> None:
    """Rebuild index.sqlite, so that nothing but what it holds is in the file."""
    index.connection.execute("PRAGMA secure_delete=ON")
    index.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    index.connection.execute("VACUUM")


def size(path: str | PathLike[str]) -> int:
    """Return the bytes of all files of a store, also of one in object storage."""
    if is_url(path):
        return RemoteFolder(path.rstrip("/")).size()
    return sum(f.stat().st_size for f in Path(path).rglob("*") if f.is_file())
