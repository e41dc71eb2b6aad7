"""Layers: arrays beside those of extraction, made later; row i is the same frame.

They lie in ``layers.zarr``, a group of the same generation as ``arrays.zarr`` (FORMAT.md). A
compaction moves rows, so it drops them all: they can be computed again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from store import durable, shards
from store.arrays import AnyArray, read_generation
from store.errors import StoreError
from store.layout import Paths
from store.remote import RemoteFolder, RemotePaths
from store.schema import ArraySpec, array_specs
from store.strict import open_strict

DTYPE = "float16"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TAKEN = {spec.name for spec in array_specs()} | {"crop"}


@dataclass(frozen=True)
class Layer:
    """One of these arrays: ``rows`` rows of ``width`` float16, and what it was made with."""

    name: str
    width: int
    rows: int
    provenance: dict[str, Any]
    shard_rows: int
    sha256: tuple[str, ...]

    @property
    def spec(self) -> ArraySpec:
        """Name, shape and dtype of the array."""
        return ArraySpec(self.name, (self.width,), DTYPE, True)

    def complete(self, rows: int) -> Layer:
        """Return itself if it has all of the store's rows.

        Raises
        ------
        StoreError
            Clips were added to the store since.
        """
        if self.rows < rows:
            raise StoreError(
                f"layer {self.name!r} has {self.rows} of the store's {rows} rows",
                "`pipeline features` with the same options goes on from there",
            )
        return self


def check_name(name: str) -> str:
    """Return ``name`` if an array may be called so.

    Raises
    ------
    StoreError
        It is taken, or no name for a folder.
    """
    if name in _TAKEN or not _NAME.fullmatch(name):
        raise StoreError(
            f"{name!r} cannot be the name of a layer's array",
            "letters, digits, '.', '_' and '-', 64 at most, and none of " + ", ".join(_TAKEN),
        )
    return name


def layers(paths: Paths | RemotePaths, generation: int) -> dict[str, Layer]:
    """Return the layers of a store by name; none where they are of another generation."""
    folder = paths.layers
    try:
        if read_generation(folder) != generation:
            return {}
    except (OSError, ValueError):
        return {}
    with durable.reporting(_path(paths), "reading layers.zarr"):
        group = zarr.open_group(store=open_strict(folder), mode="r")
        return {name: _layer(name, array) for name, array in sorted(group.arrays())}


def read(paths: Paths | RemotePaths, layer: Layer, start: int, stop: int) -> AnyArray:
    """Return rows ``start`` to ``stop`` of one layer, (stop - start, width) float16.

    Raises
    ------
    IndexError
        The layer is shorter than ``stop``.
    Exception
        Whatever Zarr and its codecs raise over damaged bytes.
    """
    if layer.rows < stop:
        raise IndexError(f"{layer.name} has {layer.rows} rows, row {stop - 1} is asked for")
    array = zarr.open_array(store=open_strict(paths.layers), path=layer.name, mode="r")
    return shards.read(array, start, stop)


def drop(paths: Paths, generation: int, *, spoil: bool = False) -> None:
    """Delete the layers unless they are of ``generation``, overwritten first if ``spoil``."""
    folder = paths.layers
    if not folder.exists():
        return
    try:
        if read_generation(folder) == generation:
            return
    except (OSError, ValueError):
        pass
    if spoil:
        durable.overwrite_tree(folder)
    durable.remove_tree(folder)


def problems(paths: Paths | RemotePaths, generation: int, rows: int) -> Iterator[str]:
    """Hold every shard of every layer against its hash; yield what is wrong, a line each."""
    for layer in layers(paths, generation).values():
        name = f"layer {layer.name!r}"
        if layer.rows > rows:
            yield f"{name}: {layer.rows} rows where the store has {rows}"
        if len(layer.sha256) != -(-layer.rows // layer.shard_rows):
            yield f"{name}: {len(layer.sha256)} hashes for {layer.rows} rows"
        for k, sha256 in enumerate(layer.sha256):
            begin = k * layer.shard_rows
            end = min(begin + layer.shard_rows, layer.rows)
            try:
                found = rows_sha256(read(paths, layer, begin, end))
            except Exception as error:  # codecs raise what they like over damaged bytes
                found = f"cannot be read: {' '.join(str(error).split())}"
            if found != sha256:
                what = found if found.startswith("cannot") else "do not have the hash noted"
                yield f"{name}: rows {begin} to {end} {what}"


def _layer(name: str, array: Any) -> Layer:
    told = array.attrs
    return Layer(
        name,
        int(array.shape[1]),
        int(told["rows"]),
        dict(told["provenance"]),
        int((array.shards or array.chunks)[0]),
        tuple(told["sha256"]),
    )


def rows_sha256(rows: AnyArray) -> str:
    """Return the sha256 of rows as they are stored."""
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()


def _path(paths: Paths | RemotePaths) -> Path:
    folder = paths.layers
    return Path(str(folder)) if isinstance(folder, RemoteFolder) else folder
