"""Writing a layer: rows in the order of the store's, shard by shard, and its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from store import durable
from store.arrays import WRITE_ALL
from store.care import locked, whole
from store.durable import DurableStore
from store.errors import StoreError
from store.layers import DTYPE, Layer, check_name, drop, layers, rows_sha256
from store.layout import Paths
from store.progress import Progress, unheard
from store.reader import Store
from store.schema import CHUNK_ROWS

F16 = npt.NDArray[np.float16]
CHUNK_BYTES = 1 << 20
SHARD_CHUNKS = 128


class LayerWriter:
    """Appends rows to one layer of a store, made if need be. Made by ``open_layer``.

    Rows come in the order of the store's, all of them, NaN where there is nothing to say. A shard
    is committed when it is full, the last one at the end, also after an error; a kill loses it.
    """

    def __init__(self, paths: Paths, layer: Layer, total: int) -> None:
        self._store = DurableStore(paths.layers)
        with zarr.config.set(WRITE_ALL):
            self._array = zarr.open_array(store=self._store, path=layer.name, mode="r+")
        self.layer, self.total = layer, total
        self._sha256 = list(layer.sha256)
        self._held: list[F16] = []
        self.rows = layer.rows  # committed and held
        over = layer.rows % layer.shard_rows
        if over:  # the last shard goes on; what lies there must be what was committed
            begin = layer.rows - over
            last = np.asarray(self._array[begin : layer.rows])
            if rows_sha256(last) != self._sha256.pop():
                raise StoreError(
                    f"{paths.root}: layer {layer.name!r} is damaged in its last rows",
                    "compute it again with --overwrite",
                )
            self._held.append(last)

    def append(self, rows: npt.NDArray[np.floating]) -> None:
        """Add rows (n, width) after those that are there; what float16 cannot hold is refused."""
        with np.errstate(over="ignore"):
            cast = np.array(rows, np.float16, order="C")
        if np.isinf(cast).any() or cast.shape[1:] != (self.layer.width,):
            raise StoreError(
                f"layer {self.layer.name!r}: expected (n, {self.layer.width}) finite or NaN within "
                f"float16, got {rows.shape}, largest {np.nanmax(np.abs(rows)):.3g}"
            )
        if self.rows + len(cast) > self.total:
            raise StoreError(f"layer {self.layer.name!r}: more rows than the store's {self.total}")
        cast[np.isnan(cast)] = np.nan  # the one quiet NaN
        self._held.append(cast)
        self.rows += len(cast)
        self._flush(self.layer.shard_rows)

    def _flush(self, size: int) -> None:
        """Write what is held in shards, and what is left if it is ``size`` rows or more."""
        shard = self.layer.shard_rows
        while self._held and (count := sum(map(len, self._held))) >= max(size, 1):
            rows = np.concatenate(self._held)
            now, later = rows[:shard], rows[shard:]
            begin = self.rows - count
            self._array.resize((begin + len(now), self.layer.width))
            self._array[begin:] = now
            self._sha256.append(rows_sha256(now))
            self._store.sync()
            attributes: dict[str, Any] = {"rows": begin + len(now), "sha256": self._sha256}
            self._array = self._array.update_attributes(attributes)
            self._store.sync()
            self._held = [later] if len(later) else []

    def keep(self) -> None:
        """Commit what is held, so that the next writer goes on behind it."""
        if self.rows > self.layer.rows:
            self._flush(1)

    def finish(self) -> None:
        """Commit what is held, which must be all."""
        if self.rows != self.total:
            raise StoreError(f"layer {self.layer.name!r}: {self.rows} of {self.total} rows given")
        self.keep()


@contextmanager
def open_layer(
    path: str | PathLike[str],
    name: str,
    width: int,
    provenance: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> Iterator[LayerWriter]:
    """Hold the store's lock and give a writer of one layer, which may have rows already.

    Parameters
    ----------
    path, name, width
        Store, array and its columns.
    provenance : mapping
        What the values depend on, as JSON types; rows of another are not continued.
    overwrite : bool
        Begin anew.

    Raises
    ------
    StoreNotFoundError, StoreFormatError, StoreLockedError, StoreWriteError
        There is no whole store, another process writes it, the disk is full.
    StoreError
        A name that cannot be; a layer of that name was made with something else.
    """
    check_name(name)
    with locked(path) as (paths, index):
        whole(paths, index)
        meta = index.meta()
        known = layers(paths, meta.generation)
        if name in known and overwrite:
            durable.remove_tree(paths.layers / name)
            del known[name]
        if name not in known:
            _create(paths, meta.generation, name, width, provenance)
            known = layers(paths, meta.generation)
        layer = known[name]
        if layer.provenance != dict(provenance) or layer.width != width:
            raise StoreError(
                f"{paths.root}: layer {name!r} was made with {_told(layer.provenance)}, "
                f"this run makes {_told(provenance)}",
                "give it another --name, or replace it with --overwrite",
            )
        writer = LayerWriter(paths, layer, meta.rows)
        try:
            yield writer
        finally:
            writer.keep()


def digest(
    path: str | PathLike[str], name: str, progress: Progress = unheard
) -> Iterator[tuple[str, str]]:
    """Yield (clip id, sha256 in hex) of the rows that one layer has of each clip, sorted by id.

    As `store.digest`, over a line ``NAME float16 NxWIDTH`` and the rows of each of the clip's
    tracks: independent of the order in which clips were written. ``progress`` is told of the rows.
    """
    with Store(path) as opened:
        layer = opened.layers.get(name)
        if layer is None:
            raise StoreError(f"{opened.path}: holds no layer {name!r}; {', '.join(opened.layers)}")
        layer.complete(opened.n_rows)
        tracks: dict[str, Any] = {}
        for record in opened.records_by_start():
            start, stop = record.start or 0, (record.start or 0) + record.frames
            rows = np.asarray(opened.read_rows(name, start, stop))
            head = f"{record.track} {name} {DTYPE} {len(rows)}x{layer.width}\n".encode()
            tracks.setdefault(record.clip, {})[record.track] = head + rows.tobytes()
            progress(stop, opened.n_rows)
    for clip in sorted(tracks):
        parts = b"".join(tracks[clip][track] for track in sorted(tracks[clip]))
        yield clip, hashlib.sha256(parts).hexdigest()


def _create(
    paths: Paths, generation: int, name: str, width: int, provenance: Mapping[str, Any]
) -> None:
    drop(paths, generation)
    store = DurableStore(paths.layers)
    if not (paths.layers / "zarr.json").exists():
        durable.remove_tree(paths.layers)
        zarr.create_group(store=store, attributes={"facepipe_layers": 1, "generation": generation})
    chunk = CHUNK_ROWS
    while chunk > 1 and chunk * width * 2 > CHUNK_BYTES:
        chunk //= 2
    zarr.open_group(store=store, mode="r+").create_array(
        name,
        shape=(0, width),
        dtype=DTYPE,
        chunks=(chunk, width),
        shards=(chunk * SHARD_CHUNKS, width),
        compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec()],
        fill_value=np.nan,
        dimension_names=("frame", "channel"),
        attributes={"rows": 0, "sha256": [], "provenance": dict(provenance)},
    )
    store.sync()


def _told(provenance: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {str(v)[:12]}" for k, v in sorted(provenance.items()))
