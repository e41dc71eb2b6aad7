"""Closing the holes that replaced and removed clips leave, safe against a kill at any point.

The live rows are copied into arrays.next.zarr. Then one transaction writes the intent (the next
generation and every clip's new first row), two renames put the copy in the place of the original,
and a second transaction applies the intent. The attribute ``generation`` of the Zarr group tells
``recover`` which of these steps were done.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from store import durable
from store.arrays import Arrays
from store.errors import StoreFormatError
from store.index import Index, Meta
from store.layout import Layout, Paths
from store.opening import locate

Run = tuple[int, int]  # first row, rows


def compact(paths: Paths, index: Index, arrays: Arrays, layout: Layout) -> None:
    """Rewrite the arrays without the rows that no clip owns. The journal must be empty."""
    meta = index.meta()
    durable.remove_tree(paths.next_arrays)
    runs, starts, rows = _plan(index)
    upcoming = Arrays.create(
        paths.next_arrays, meta.feature_dtype, layout, generation=meta.generation + 1
    )
    _copy(arrays, upcoming, runs, rows)
    with index.transaction():
        index.set_moved(starts)
        index.set_meta(next_generation=meta.generation + 1, next_rows=rows)
    finish(paths, index)


def finish(paths: Paths, index: Index) -> None:
    """Complete the switch from wherever it was left. Does nothing without an intent.

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
        _clean(paths)
        return
    if place is None:
        raise StoreFormatError(
            f"{paths.root}: arrays.zarr of generation {meta.generation} is missing",
            "Restore it from a copy, or extract again.",
        )
    if not place.moved:
        if not paths.next_arrays.exists():
            _undo(paths, index, place.folder == paths.old_arrays)
            return
        if place.folder == paths.arrays:
            durable.rename(paths.arrays, paths.old_arrays)
        durable.rename(paths.next_arrays, paths.arrays)
    _apply(index, meta)
    _clean(paths)


def _undo(paths: Paths, index: Index, renamed: bool) -> None:
    if renamed:
        durable.rename(paths.old_arrays, paths.arrays)
    with index.transaction():
        index.set_moved(())
        index.set_meta(next_generation=None, next_rows=None)
    _clean(paths)


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


def _clean(paths: Paths) -> None:
    durable.remove_tree(paths.old_arrays)
    durable.remove_tree(paths.next_arrays)


def _plan(index: Index) -> tuple[list[Run], list[tuple[str, int, int]], int]:
    runs: list[Run] = []
    starts: list[tuple[str, int, int]] = []
    rows = 0
    for record in index.clips_by_start():
        start = record.start or 0
        starts.append((record.clip, record.track, rows))
        rows += record.frames
        if runs and sum(runs[-1]) == start:
            runs[-1] = (runs[-1][0], runs[-1][1] + record.frames)
        else:
            runs.append((start, record.frames))
    return runs, starts, rows


def _copy(source: Arrays, target: Arrays, runs: list[Run], rows: int) -> None:
    target.resize(rows)
    block = target.shard_rows  # whole shards: each is written once
    for name in target.specs:
        for start, pieces in _blocks(runs, block):
            values = [source.read(name, a, b) for a, b in pieces]
            target.write(start, {name: np.concatenate(values)})
    target.sync()


def _blocks(runs: list[Run], block: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
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
