"""Closing the holes that replaced and removed clips leave, safe against a kill at any point.

The live rows are copied into arrays.next.zarr. Then one transaction writes the intent (the next
generation and every clip's new first row), two renames put the copy in the place of the original,
and a second transaction applies the intent. The attribute ``generation`` of the Zarr group tells
``recover`` which of these steps were done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from store import crop_index, durable, layers
from store.arrays import Arrays
from store.errors import StoreFormatError
from store.index import Index
from store.layout import Layout, Paths
from store.meta import Meta
from store.opening import locate
from store.progress import Progress, unheard
from store.records import REPAIR, BadRecord
from store.schema import ClipRecord

Run = tuple[int, int]  # first row, rows


def compact(
    paths: Paths,
    index: Index,
    arrays: Arrays,
    layout: Layout,
    *,
    without: Collection[Any] = (),
    instead: Iterable[ClipRecord] = (),
    spoil: Sequence[Path] = (),
    progress: Progress = unheard,
) -> None:
    """Rewrite the arrays without the rows that no clip owns. The journal stays as it is.

    Parameters
    ----------
    paths, index, arrays, layout
        Of the store, whose lock the caller holds.
    without : collection of str
        Clips, or what stands in the place of an id, that go with all of their tracks, rows and
        journalled rows, in the transaction that switches over: a kill leaves them all or none.
    instead : iterable of ClipRecord
        Records without rows that are put into the index in the same transaction.
    spoil : sequence of Path
        Files below ``arrays.zarr`` that are overwritten before they are deleted.
    progress : callable, optional
        Told of the bytes of the rows that are copied.
    """
    meta = index.meta()
    durable.remove_tree(paths.next_arrays)
    runs, starts, rows = _plan(index, without)
    crop_runs, crop_starts, crop_rows = _plan_crops(index, meta, without)
    upcoming = Arrays.create(
        paths.next_arrays, meta.feature_dtype, layout, meta.generation + 1, meta.crop_size
    )
    # Read strictly: a chunk that is missing must not be copied as one without faces.
    source = Arrays(arrays.path, meta.feature_dtype, crop_size=meta.crop_size)
    _copy(source, upcoming, runs, rows, progress)
    _copy_crops(source, upcoming, crop_runs, crop_rows)
    upcoming.sync()
    with index.transaction():
        for clip in without:
            index.drop_pending(clip)
            index.drop_clip(clip)
        for record in instead:
            index.put_clip(record)
        index.set_moved(starts)
        index.set_meta(next_generation=meta.generation + 1, next_rows=rows)
        if meta.crop_size is not None:
            crop_index.set_moved(index.connection, crop_starts)
            index.set_meta(next_crop_rows=crop_rows)
    finish(paths, index, spoil)


def finish(
    paths: Paths, index: Index, spoil: Sequence[Path] = (), *, spoil_all: bool = False
) -> None:
    """Complete the switch from wherever it was left. Does nothing without an intent.

    Parameters
    ----------
    paths, index
        Of the store.
    spoil : sequence of Path
        Files below the old arrays that are overwritten before they are deleted.
    spoil_all : bool
        Whether all that is deleted is overwritten first.

    Raises
    ------
    StoreFormatError
        Neither the old arrays nor the new ones are whole.
    """
    meta = index.meta()
    place = locate(paths, meta)
    if place is None and meta.next_generation is None:
        return  # damaged; the caller says how, and what might help to mend it stays
    if meta.next_generation is None:
        layers.drop(paths, meta.generation, spoil=spoil_all)
        _clean(paths, spoil_all)
        return
    if place is None:
        raise StoreFormatError(
            f"{paths.root}: arrays.zarr of generation {meta.generation} is missing",
            "Restore it from a copy, or extract again.",
        )
    if not place.moved:
        if not paths.next_arrays.exists():
            _undo(paths, index, place.folder == paths.old_arrays, spoil_all)
            return
        if place.folder == paths.arrays:
            durable.rename(paths.arrays, paths.old_arrays)
        durable.rename(paths.next_arrays, paths.arrays)
    _apply(index, meta)
    for file in spoil:
        durable.overwrite(paths.old_arrays / file)
    layers.drop(paths, index.meta().generation, spoil=spoil_all or bool(spoil))
    _clean(paths, spoil_all)


def _undo(paths: Paths, index: Index, renamed: bool, spoil_all: bool) -> None:
    if renamed:
        durable.rename(paths.old_arrays, paths.arrays)
    with index.transaction():
        index.set_moved(())
        if index.meta().crop_size is not None:
            crop_index.set_moved(index.connection, ())
        index.set_meta(next_generation=None, next_rows=None, next_crop_rows=None)
    _clean(paths, spoil_all)


def _apply(index: Index, meta: Meta) -> None:
    with index.transaction():
        index.apply_moved()
        index.set_meta(
            generation=meta.next_generation,
            rows=meta.next_rows,
            unowned=0,
            next_generation=None,
            next_rows=None,
        )
        if meta.crop_size is not None:
            crop_index.apply_moved(index.connection)
            index.set_meta(crop_rows=meta.next_crop_rows, next_crop_rows=None)


def _clean(paths: Paths, spoil_all: bool) -> None:
    for folder in (paths.old_arrays, paths.next_arrays):
        if spoil_all:
            durable.overwrite_tree(folder)
        durable.remove_tree(folder)


def _plan(
    index: Index, without: Collection[Any]
) -> tuple[list[Run], list[tuple[str, int, int]], int]:
    runs: list[Run] = []
    starts: list[tuple[str, int, int]] = []
    rows = 0
    for record in index.each(by_start=True):
        if record.clip in without:
            continue
        if isinstance(record, BadRecord):
            raise StoreFormatError(record.problem, REPAIR)
        start = record.start or 0
        starts.append((record.clip, record.track, rows))
        rows += record.frames
        add_run(runs, start, record.frames)
    return runs, starts, rows


def _plan_crops(
    index: Index, meta: Meta, without: Collection[Any]
) -> tuple[list[Run], list[tuple[str, int, int]], int]:
    if meta.crop_size is None:
        return [], [], 0
    runs: list[Run] = []
    starts: list[tuple[str, int, int]] = []
    rows = 0
    for found in crop_index.each(index.connection):
        if found.clip not in without:
            if isinstance(found, BadRecord):
                raise StoreFormatError(f"clip {found.clip!r}, {found.problem}", REPAIR)
            starts.append((found.clip, found.track, rows))
            rows += len(found.frames)
            add_run(runs, found.start, len(found.frames))
    return runs, starts, rows


def add_run(runs: list[Run], start: int, count: int) -> None:
    """Add rows to runs of neighbours."""
    if runs and sum(runs[-1]) == start:
        runs[-1] = (runs[-1][0], runs[-1][1] + count)
    else:
        runs.append((start, count))


def _copy(source: Arrays, target: Arrays, runs: list[Run], rows: int, progress: Progress) -> None:
    target.resize(rows)
    done, total = 0, rows * sum(spec.row_bytes for spec in target.specs.values())
    block = target.shard_rows  # whole shards: each is written once
    for name in target.specs:
        for start, pieces in split(runs, block):
            values = np.concatenate([source.read(name, a, b) for a, b in pieces])
            target.write(start, {name: values})
            done += values.nbytes
            progress(done, total)


def _copy_crops(source: Arrays, target: Arrays, runs: list[Run], rows: int) -> None:
    if source.crop_spec is None:
        return
    target.resize_crops(rows)
    for start, pieces in split(runs, target.crop_shard_rows):
        target.write(start, {"crop": np.concatenate([source.read("crop", *p) for p in pieces])})


def split(runs: list[Run], block: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield (first row in the target, [(from, to) in the source]) of ``block`` rows each."""
    start, pieces, held = 0, [], 0
    for first, count in runs:
        while count:
            take = min(count, block - held)
            pieces.append((first, first + take))
            first, count, held = first + take, count - take, held + take
            if held == block:
                yield start, pieces
                start, pieces, held = start + block, [], 0
    if pieces:
        yield start, pieces
