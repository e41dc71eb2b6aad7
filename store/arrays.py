"""The Zarr group of a store: made, opened, grown, written and read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from store import shards
from store.durable import DurableStore
from store.layout import Layout
from store.remote import RemoteFolder
from store.schema import FORMAT_VERSION, ArraySpec, array_specs, crop_spec
from store.strict import open_strict

_T = TypeVar("_T")
AnyArray = npt.NDArray[np.generic]

# Chunks of nothing but NaN are written too: a chunk that is missing is damage, never "no face".
WRITE_ALL = {"array.write_empty_chunks": True}
_FILL: dict[str, bool | int] = {"bool": False, "uint8": 0}


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
    crop_size : int, optional
        Of a store that holds crops: their side in pixels. The array `crop` has a length of its own
        and is not among ``specs``.
    """

    def __init__(
        self,
        path: Path | RemoteFolder,
        feature_dtype: str,
        *,
        writable: bool = False,
        crop_size: int | None = None,
    ) -> None:
        self.path = path
        self.generation = read_generation(path)
        self.specs = {spec.name: spec for spec in array_specs(feature_dtype)}
        self.crop_spec = None if crop_size is None else crop_spec(crop_size)
        self._durable = DurableStore(path) if writable and isinstance(path, Path) else None
        store = self._durable or open_strict(path)
        self._arrays: dict[str, zarr.Array[Any]] = {}
        # By the global setting, since open_array(config=...) is ignored for arrays that exist.
        with zarr.config.set(WRITE_ALL):
            for spec in filter(None, (*self.specs.values(), self.crop_spec)):
                array = zarr.open_array(store=store, path=spec.name, mode="r+" if writable else "r")
                _check(array, spec)
                self._arrays[spec.name] = array

    @classmethod
    def create(
        cls,
        path: Path,
        feature_dtype: str,
        layout: Layout,
        generation: int,
        crop_size: int | None = None,
    ) -> Arrays:
        """Make a group of empty arrays at ``path``, where nothing is yet."""
        store = DurableStore(path)
        group = zarr.create_group(
            store=store,
            attributes={"facepipe_format": FORMAT_VERSION, "generation": generation},
        )
        crops = None if crop_size is None else crop_spec(crop_size)
        for spec in filter(None, (*array_specs(feature_dtype), crops)):
            chunk, shard = layout.chunk_rows, layout.shard_rows
            if spec is crops:
                chunk, shard = 1, layout.crop_shard_rows
            group.create_array(
                spec.name,
                shape=(0, *spec.tail),
                dtype=spec.dtype,
                chunks=(chunk, *spec.tail),
                shards=(shard, *spec.tail),
                # lz4 + bitshuffle won every measured comparison; the checksum turns a damaged
                # chunk into an error before the decompressor sees it.
                compressors=[
                    BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
                    Crc32cCodec(),
                ],
                fill_value=_FILL.get(spec.dtype, np.nan),
                dimension_names=(
                    ("crop", "y", "x", "channel")
                    if spec is crops
                    else ("frame", *("channel" for _ in spec.tail))
                ),
            )
        store.sync()
        return cls(path, feature_dtype, writable=True, crop_size=crop_size)

    @property
    def shard_rows(self) -> int:
        """Rows per shard."""
        return self._shard_rows("embedding")

    @property
    def chunk_rows(self) -> int:
        """Rows per chunk."""
        return int(self._arrays["embedding"].chunks[0])

    @property
    def crop_shard_rows(self) -> int:
        """Crops per shard, in a store that holds crops."""
        return self._shard_rows("crop")

    def _shard_rows(self, name: str) -> int:
        array = self._arrays[name]
        return int((array.shards or array.chunks)[0])

    @property
    def layout(self) -> Layout:
        """The chunking with which the arrays were made."""
        if self.crop_spec is None:
            return Layout(self.chunk_rows, self.shard_rows)
        return Layout(self.chunk_rows, self.shard_rows, crop_shard_rows=self.crop_shard_rows)

    @property
    def crop_rows(self) -> int:
        """Length of the array of crops; 0 where there is none. See ``lengths``."""
        return 0 if self.crop_spec is None else int(self._arrays["crop"].shape[0])

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def lengths(self) -> dict[str, int]:
        """Rows of every per-frame array, when this object was made or last resized."""
        return {name: int(self._arrays[name].shape[0]) for name in self.specs}

    def resize(self, rows: int) -> None:
        """Grow or cut every array to ``rows``."""

        def one(spec: ArraySpec) -> None:
            if self._arrays[spec.name].shape[0] != rows:
                self._arrays[spec.name].resize((rows, *spec.tail))

        _at_once(one, self.specs.values())

    def resize_crops(self, rows: int) -> None:
        """Grow or cut the array of crops, where there is one, to ``rows``."""
        if self.crop_spec is not None and self.crop_rows != rows:
            self._arrays["crop"].resize((rows, *self.crop_spec.tail))

    def beyond(self, rows: int, crop_rows: int) -> list[Path]:
        """Return the files on a disk of shards that begin at these rows, or behind them."""
        return [
            file
            for name in self._arrays
            for top in (Path(str(self.path)) / name / "c").glob("*")
            if int(top.name) * self._shard_rows(name) >= (crop_rows if name == "crop" else rows)
            for file in (top, *top.rglob("*"))
            if file.is_file()
        ]

    def write(self, start: int, data: Mapping[str, AnyArray]) -> None:
        """Write rows ``start`` to ``start + n`` of every array in ``data``, which must fit."""

        def one(name: str) -> None:
            shards.write(self._arrays[name], start, data[name])

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
        return shards.read(array, start, stop)


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


@cache
def _threads() -> ThreadPoolExecutor:
    """Return the threads of this process that write; they stay, not begun for every call."""
    return ThreadPoolExecutor(4, "facepipe-arrays")


def _at_once(do: Callable[[_T], None], items: Iterable[_T]) -> None:
    """Work on all arrays side by side: one compresses while the disk syncs another.

    If one fails, none is begun after it, and none is under way any more when this raises.
    """
    tasks = [_threads().submit(do, item) for item in items]
    try:
        wait(tasks, return_when=FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


def _check(array: zarr.Array[Any], spec: ArraySpec) -> None:
    expected = f"(N,{','.join(map(str, spec.tail))}) {spec.dtype}"
    if tuple(array.shape[1:]) != spec.tail or array.dtype != np.dtype(spec.dtype):
        raise ValueError(f"array {spec.name}: expected {expected}, got {array.shape} {array.dtype}")
