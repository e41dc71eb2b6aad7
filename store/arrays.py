"""The Zarr group of a store: made, opened, grown, written and read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from store.durable import DurableStore
from store.layout import Layout
from store.remote import RemoteFolder
from store.schema import FORMAT_VERSION, ArraySpec, array_specs
from store.strict import open_strict

_T = TypeVar("_T")
AnyArray = npt.NDArray[np.generic]

# Chunks of nothing but NaN are written too: a chunk that is missing is damage, never "no face".
_WRITE_ALL = {"array.write_empty_chunks": True}
# Hand the chunks of a shard to the codecs together: one by one costs more than their compression.
_BATCHES = {"codec_pipeline.batch_size": 64}


class Arrays:
    """The per-frame arrays of one generation.

    Parameters
    ----------
    path : Path or RemoteFolder
        The group's folder, ``NAME.store/arrays.zarr`` as a rule; for writing a Path.
    feature_dtype : str
        As in the index; says which arrays are expected.
    writable : bool
        Whether ``resize`` and ``write`` are allowed.
    """

    def __init__(
        self, path: Path | RemoteFolder, feature_dtype: str, *, writable: bool = False
    ) -> None:
        self.path = path
        self.generation = read_generation(path)
        self.specs = {spec.name: spec for spec in array_specs(feature_dtype)}
        self._durable = DurableStore(path) if writable and isinstance(path, Path) else None
        store = self._durable or open_strict(path)
        self._arrays: dict[str, zarr.Array[Any]] = {}
        # By the global setting, since open_array(config=...) is ignored for arrays that exist.
        with zarr.config.set(_WRITE_ALL):
            for spec in self.specs.values():
                array = zarr.open_array(store=store, path=spec.name, mode="r+" if writable else "r")
                _check(array, spec)
                self._arrays[spec.name] = array

    @classmethod
    def create(cls, path: Path, feature_dtype: str, layout: Layout, generation: int) -> Arrays:
        """Make a group of empty arrays at ``path``, where nothing is yet."""
        store = DurableStore(path)
        group = zarr.create_group(
            store=store,
            attributes={"facepipe_format": FORMAT_VERSION, "generation": generation},
        )
        for spec in array_specs(feature_dtype):
            group.create_array(
                spec.name,
                shape=(0, *spec.tail),
                dtype=spec.dtype,
                chunks=(layout.chunk_rows, *spec.tail),
                shards=(layout.shard_rows, *spec.tail),
                # lz4 + bitshuffle won every measured comparison; the checksum turns a damaged
                # chunk into an error before the decompressor sees it.
                compressors=[
                    BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
                    Crc32cCodec(),
                ],
                fill_value=False if spec.dtype == "bool" else np.nan,
                dimension_names=("frame", *("channel" for _ in spec.tail)),
            )
        store.sync()
        return cls(path, feature_dtype, writable=True)

    @property
    def shard_rows(self) -> int:
        """Rows per shard."""
        array = next(iter(self._arrays.values()))
        return int((array.shards or array.chunks)[0])

    @property
    def chunk_rows(self) -> int:
        """Rows per chunk."""
        return int(next(iter(self._arrays.values())).chunks[0])

    def lengths(self) -> dict[str, int]:
        """Rows of every array, as they were when this object was made or last resized."""
        return {name: int(array.shape[0]) for name, array in self._arrays.items()}

    def resize(self, rows: int) -> None:
        """Grow or cut every array to ``rows``."""

        def one(spec: ArraySpec) -> None:
            if self._arrays[spec.name].shape[0] != rows:
                self._arrays[spec.name].resize((rows, *spec.tail))

        _at_once(one, self.specs.values())

    def write(self, start: int, data: Mapping[str, AnyArray]) -> None:
        """Write rows ``start`` to ``start + n`` of every array in ``data``, which must fit."""

        def one(name: str) -> None:
            self._arrays[name][start : start + len(data[name])] = data[name]

        with zarr.config.set(_BATCHES):
            _at_once(one, data)

    def sync(self) -> None:
        """Make what was written durable."""
        if self._durable is not None:
            self._durable.sync()

    def read(self, name: str, start: int, stop: int) -> AnyArray:
        """Return rows ``start`` to ``stop`` of one array, (stop - start, *tail).

        Raises
        ------
        IndexError
            The array is shorter than ``stop``.
        Exception
            Whatever Zarr and its codecs raise over damaged bytes.
        """
        array = self._arrays[name]
        if array.shape[0] < stop:
            raise IndexError(f"{name} has {array.shape[0]} rows, row {stop - 1} is asked for")
        values = np.asarray(array[start:stop])
        return values.astype(values.dtype.newbyteorder("="), copy=False)


def read_generation(path: Path | RemoteFolder) -> int:
    """Return how many compactions lie behind the group at ``path``.

    Raises
    ------
    FileNotFoundError
        There is no group.
    ValueError
        There is one, and it is not of a facepipe store.
    """
    text = (path / "zarr.json").read_text("utf-8")
    try:
        return int(json.loads(text)["attributes"]["generation"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: zarr.json has no attribute 'generation'") from error


def _at_once(do: Callable[[_T], None], items: Iterable[_T]) -> None:
    """Work on all arrays side by side: one compresses while the disk syncs another."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(do, items))


def _check(array: zarr.Array[Any], spec: ArraySpec) -> None:
    expected = f"(N,{','.join(map(str, spec.tail))}) {spec.dtype}"
    if tuple(array.shape[1:]) != spec.tail or array.dtype != np.dtype(spec.dtype):
        raise ValueError(f"array {spec.name}: expected {expected}, got {array.shape} {array.dtype}")
