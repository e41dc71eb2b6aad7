"""Several stores written into a new one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np

from store import crop_index, durable, making
from store import crops as clip_crops
from store.arrays import AnyArray, Arrays
from store.compact import Run, add_run, split
from store.durable import reporting
from store.errors import StoreError
from store.index import Index
from store.layout import Layout, Paths
from store.opening import open_index
from store.progress import Progress, unheard
from store.remote import local_path
from store.scan import scan
from store.schema import ClipRecord
from store.select import PAGE
from store.several import Stores

_T = TypeVar("_T")


def merge(
    out: str | PathLike[str],
    stores: Sequence[str | PathLike[str]],
    *,
    layout: Layout | None = None,
    progress: Progress = unheard,
) -> int:
    """Write the clips of several stores into a new one, in constant memory.

    Rows, crops, records and sessions are copied as they are; every clip's rows and crops are read
    back and hashed before the new store takes its name. Until then there is nothing at ``out``.

    Parameters
    ----------
    out : path
        The new store; nothing may be there.
    stores : sequence of paths
        Of one pack, recipe and feature dtype.
    layout : Layout
        Rows per chunk and shard of the new store.
    progress : callable, optional
        Told of the bytes of the rows that are copied, and again as they are read back.

    Returns
    -------
    int
        Records (one a track) that the new store holds.

    Raises
    ------
    StoreNotFoundError, StoreFormatError, StoreMismatchError, ClipExistsError
        As `store.open` for several stores; a clip in two of them is refused, naming both.
    StoreError
        Something lies at ``out``; a clip's rows are damaged; a store holds clips in its journal,
        or was compacted meanwhile.
    StoreWriteError
        The disk is full.
    """
    target, shape = local_path(out), layout or Layout()
    sources = [local_path(path) for path in stores]
    if target.exists() or target.is_symlink():
        raise StoreError(
            f"{target}: is there already; merge makes a new store", "Name another, or delete it."
        )
    with reporting(target, "merging"), Stores(sources) as parts:
        for path in sources:
            _check_journal(path)
        with making.partial_folder(target) as folder:
            made = Paths(folder / target.name)
            made.root.mkdir()
            count = _merge(made, parts, shape, progress)
            durable.sync_folder(made.root)
            if target.exists():
                raise StoreError(f"{target}: was made by somebody else meanwhile")
            durable.rename(made.root, target.absolute())
    return count


def _check_journal(path: Path) -> None:
    index = open_index(Paths(path))
    try:
        waiting, *_ = index.one("SELECT COUNT(*) FROM pending")
    finally:
        index.close()
    if waiting:
        raise StoreError(
            f"{path}: {waiting} finished clips wait in its journal and would be left out",
            f"Wait for its writer to end, or if there is none: `pipeline store compact {path}`.",
        )


def _merge(made: Paths, parts: Stores, layout: Layout, progress: Progress) -> int:
    rows_of = [store.n_rows for store in parts.stores]
    crop_size = parts.crop_size
    arrays = Arrays.create(made.arrays, parts.feature_dtype, layout, 0, crop_size)
    runs, rows = _runs(parts)
    arrays.resize(rows)
    row_bytes = sum(spec.row_bytes for spec in parts.specs)
    done, total = 0, 2 * rows * row_bytes
    for spec in parts.specs:
        for start, pieces in split(runs, layout.shard_rows):  # whole shards: each written once
            values = np.concatenate([_read(parts, rows_of, spec.name, a, b) for a, b in pieces])
            arrays.write(start, {spec.name: values})
            done += values.nbytes
            progress(done, total)
    crops = _copy_crops(arrays, parts)
    arrays.sync()
    index = Index(made.index, writable=True)
    try:
        index.create(parts.feature_dtype, datetime.now(UTC).isoformat(" ", "seconds"), crop_size)
        count = _records(index, parts, rows_of)
        _crop_records(index, parts)
        with index.transaction():
            index.set_meta(rows=rows)
            if crop_size is not None:
                index.set_meta(crop_rows=crops)
        strict = Arrays(made.arrays, parts.feature_dtype, crop_size=crop_size)
        wrong = next(clip_crops.problems(index, strict, crops), None) if crop_size else None
        if wrong is not None:
            raise StoreError(
                f"clip {wrong[0]!r}: {wrong[2]}",
                "`pipeline store verify STORE...` names every damaged clip.",
            )
        for seen in scan(strict, index.clips_by_start(), check=False):
            done += seen.record.frames * row_bytes
            progress(done, total)
            if seen.sha256 != seen.record.rows_sha256:
                raise StoreError(
                    f"clip {seen.record.clip!r}: its rows are not those that the index of its "
                    "store means",
                    "`pipeline store verify STORE...` names every damaged clip.",
                )
    finally:
        index.close()
    return count


def _runs(parts: Stores) -> tuple[list[Run], int]:
    """Return the live rows, numbered through the stores, as (first, count), and how many."""
    runs: list[Run] = []
    rows = 0
    for record in parts.records_by_start():
        start = record.start or 0
        rows += record.frames
        add_run(runs, start, record.frames)
    return runs, rows


def _copy_crops(arrays: Arrays, parts: Stores) -> int:
    """Copy the crops of all stores; return how many there are."""
    runs: list[Run] = []
    count = 0
    for found in parts.crop_records():
        add_run(runs, found.start, len(found.frames))
        count += len(found.frames)
    if arrays.crop_spec is not None:
        rows_of = [store.n_crops for store in parts.stores]
        arrays.resize_crops(count)
        for start, pieces in split(runs, arrays.crop_shard_rows):
            values = [_read(parts, rows_of, "crop", a, b) for a, b in pieces]
            arrays.write(start, {"crop": np.concatenate(values)})
    return count


def _crop_records(index: Index, parts: Stores) -> None:
    start = 0
    for page in _pages(parts.crop_records()):
        with index.transaction():
            for found in page:
                crop_index.put(index.connection, replace(found, start=start))
                start += len(found.frames)


def _read(parts: Stores, rows_of: list[int], name: str, start: int, stop: int) -> AnyArray:
    """Read rows by their numbers through all stores; a piece may reach over several."""
    firsts = [sum(rows_of[:k]) for k in range(len(rows_of) + 1)]
    found = []
    while start < stop:
        k = bisect_right(firsts, start) - 1
        end = min(stop, firsts[k + 1])
        found.append(parts.stores[k].read_rows(name, start - firsts[k], end - firsts[k]))
        start = end
    return np.concatenate(found)


def _records(index: Index, parts: Stores, rows_of: list[int]) -> int:
    """Copy sessions and records in the order of the rows, then those without rows."""
    count = start = 0
    for path, store, rows in zip(parts.paths, parts.stores, rows_of, strict=True):
        source = open_index(Paths(local_path(path)))
        try:
            held = source.connection.execute(
                "SELECT id, started, provenance FROM session ORDER BY id"
            ).fetchall()
        finally:
            source.close()
        with index.transaction():
            sessions = {n: index.add_session(began, text) for n, began, text in held}
        moved = _one_after_the_other(store.records_by_start(), start, rows)
        rowless = (r for r in store.records() if r.start is None)
        for source_of in (moved, rowless):
            for page in _pages(source_of):
                with index.transaction():
                    for record in page:
                        index.put_clip(
                            replace(record, session=sessions.get(record.session or 0, 0))
                        )
                        start += record.frames
                        count += 1
    return count


def _one_after_the_other(
    records: Iterator[ClipRecord], start: int, rows: int
) -> Iterator[ClipRecord]:
    for record in records:
        if (record.start or 0) + record.frames > rows:
            return  # committed since the store was opened
        yield replace(record, start=start)
        start += record.frames


def _pages(records: Iterator[_T]) -> Iterator[list[_T]]:
    page: list[_T] = []
    for record in records:
        page.append(record)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page
