"""Reading a store: lazily, without a lock, and never half a clip."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from store import crop_index, layers, lazy
from store.arrays import AnyArray, Arrays, read_generation
from store.crop_index import CropRecord
from store.errors import (
    ClipNotFoundError,
    CompactedError,
    StoreError,
    StoreFormatError,
)
from store.index import Index
from store.layers import Layer
from store.lazy import LazyArray
from store.listing import Listing
from store.opening import Place, locate, open_index, open_paths
from store.remote import is_url, local_path
from store.schema import ArraySpec, ClipRecord, Status, array_specs, crop_spec
from store.select import Choice, select
from store.telling import readable, told

if TYPE_CHECKING:
    import dask.array

_RETRIES = 6
# Every block costs Dask time before the first one is read: 10 ms for a million clips in these.
SHARDS_A_BLOCK = 8
_T = TypeVar("_T")


class Store(Listing):
    """A store opened for reading; a context manager. Made by ``store.open``.

    Every call sees what is committed when it is made. First rows (``ClipRecord.start``) and Dask
    arrays belong to the generation of the store in which it was opened: when a writer has compacted
    the store since, ``dask`` and its blocks raise StoreError rather than return rows of other
    clips; ``clip`` looks the rows up anew and goes on. Safe to use from threads, and to pickle.

    Of a store in object storage (``s3://bucket/x.store``, as str) the index is copied to a
    temporary file once, so what is seen is what was committed at the opening; the arrays are read
    in place.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path: Path | str = path if is_url(path) else local_path(path)
        self._paths = open_paths(path)
        self._local = threading.local()
        self._arrays: Arrays | None = None
        with self._index.snapshot():
            self._meta = self._index.meta()
        place = self.place()
        self.generation = place.generation

    # -- what is in it -------------------------------------------------------------------------

    @property
    def n_rows(self) -> int:
        """Committed rows: the length N of every array."""
        return self.place().rows

    @property
    def feature_dtype(self) -> str:
        """``float16`` or ``float32``: of embedding and appearance."""
        return self._meta.feature_dtype

    @property
    def specs(self) -> tuple[ArraySpec, ...]:
        """Names, shapes and dtypes of the arrays."""
        return array_specs(self._meta.feature_dtype)

    @property
    def crop_size(self) -> int | None:
        """Side in pixels of the crops; None if the store holds none."""
        return self._meta.crop_size

    @property
    def n_crops(self) -> int:
        """Committed crops: the length M of the array `crop`."""
        return self.place().crop_rows

    @property
    def layers(self) -> dict[str, Layer]:
        """Arrays that were made later (`pipeline features`), by name; they have no ClipRows."""
        return layers.layers(self._paths, self.generation)

    @property
    def created(self) -> str:
        """When the store was made, ISO 8601 in UTC."""
        return self._meta.created

    @property
    def provenance(self) -> dict[str, Any]:
        """What the first session wrote about pack, settings and versions; {} before one did."""
        text = self._index.first_provenance()
        found: dict[str, Any] = {} if text is None else json.loads(text)
        return found

    def __len__(self) -> int:
        with readable(self.path):
            return self._index.count()

    def iter_rows(
        self,
        columns: Sequence[str],
        status: Status | Iterable[Status] | None = None,
        *,
        subset: Iterable[str] | None = None,
        where: str | None = None,
        by_start: bool = False,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield columns of the index as tuples of plain values, ten times as fast as `records`.

        Parameters
        ----------
        columns : sequence of str
            Names of fields of ClipRecord; ``details`` is JSON text.
        status, subset, where
            As for `records`.
        by_start : bool
            Only records that own rows, in the order of these.

        Raises
        ------
        StoreError
            There is no such column; the condition does not work.
        """
        choice = Choice.of(status, subset, where)
        moved = self.place().moved
        with readable(self.path):
            yield from select(
                self._index.connection, columns, choice, moved=moved, by_start=by_start
            )

    def record(self, clip: str, track: int = 0) -> ClipRecord:
        """Return one record.

        Raises
        ------
        ClipNotFoundError
            Names the clip, or the tracks that there are.
        """
        return self._patiently(lambda: self._find(clip, track))[1]

    def shared_clip(self, other: Store) -> str | None:
        """Return the first clip that another store holds as well, None if there is none."""
        return self._patiently(lambda: self._index.shared_clip(other._index.path))

    # -- rows ----------------------------------------------------------------------------------

    def clip(
        self, clip: str, track: int = 0, arrays: Sequence[str] | None = None
    ) -> dict[str, AnyArray]:
        """Return the rows of one track by array name: n = ``record.frames`` rows each.

        Parameters
        ----------
        clip, track
            Which.
        arrays : sequence of str, optional
            Which arrays; all when not given.

        Raises
        ------
        ClipNotFoundError
            There is no such track.
        StoreError
            There is no such array, or the rows cannot be read.
        """
        names = [spec.name for spec in self.specs] if arrays is None else list(arrays)
        self._check_names(names)

        def read() -> dict[str, AnyArray]:
            place, record = self._find(clip, track)
            start, stop = record.start or 0, (record.start or 0) + record.frames
            return self._read(place, names, start, stop)

        with told(self.path, f"the rows of clip {clip!r}"):
            return self._patiently(read)

    def crops(
        self, clip: str, track: int = 0
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """Return the crops of one track: their frames (k,) and the pictures (k, S, S, 3), RGB.

        Raises
        ------
        ClipNotFoundError
            There is no such track.
        StoreError
            The store holds no crops, or they cannot be read.
        """
        size = self.crop_size
        if size is None:
            raise StoreError(f"{self.path}: holds no crops", lazy.NO_CROPS)

        def read() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
            with self._index.snapshot():
                place, _ = self._find(clip, track)
                found = crop_index.find(self._index.connection, clip, track, moved=place.moved)
            if found is None:
                return np.zeros(0, np.int64), np.zeros((0, size, size, 3), np.uint8)
            images = self._read(place, ["crop"], found.start, found.stop)["crop"]
            return np.asarray(found.frames, np.int64), images.astype(np.uint8, copy=False)

        with told(self.path, f"the crops of clip {clip!r}"):
            return self._patiently(read)

    def crop_records(self) -> Iterator[CropRecord]:
        """Yield which rows of the array `crop` belong to which frames, in the order of rows."""
        if self.crop_size is not None:
            moved = self.place().moved
            with readable(self.path):
                yield from crop_index.by_start(self._index.connection, moved=moved)

    def dask(self, name: str) -> dask.array.Array:
        """Return one array whole and lazy: (n_rows, *tail), in blocks of eight shards.

        Also ``crop``, of length ``n_crops``, where the store holds crops.

        Raises
        ------
        StoreError
            There is no such array, or the store was compacted since it was opened; the latter also
            when a block is computed.
        """
        import dask.array
        from dask.base import tokenize

        spec = self._spec(name)
        place = self.place()
        self._check_generation(place.generation)
        arrays = self._patiently(lambda: self._opened(self._place()))
        if name == "crop":
            rows, block = place.crop_rows, arrays.crop_shard_rows
        elif name in arrays.specs:
            rows, block = place.rows, arrays.shard_rows * SHARDS_A_BLOCK
        else:
            rows, block = place.rows, self.layers[name].complete(rows=place.rows).shard_rows
        token = tokenize(self._address(), self.created, place.generation, rows)
        return dask.array.from_array(
            LazyArray(self, spec, rows),
            chunks=(block, *spec.tail),
            name=f"{name}-{token}",
            meta=np.empty((0, *(0 for _ in spec.tail)), spec.dtype),
        )

    def read_rows(self, name: str, start: int, stop: int) -> AnyArray:
        """Return rows of one array by their numbers in the generation that was opened."""

        def read() -> AnyArray:
            place = self._place()
            self._check_generation(place.generation)
            rows = place.crop_rows if name == "crop" else place.rows
            return self._read(place, [name], start, min(stop, rows))[name]

        with told(self.path, f"rows {start} to {stop} of {name}"):
            return self._patiently(read)

    # -- how -----------------------------------------------------------------------------------

    @property
    def _index(self) -> Index:
        """The connection of this thread."""
        found: Index | None = getattr(self._local, "index", None)
        if found is None:
            if not self._paths.index.exists() and is_url(self.path):  # closed meanwhile
                self._paths = open_paths(self.path)
            found = self._local.index = open_index(self._paths)
        return found

    def place(self) -> Place:
        """Return where the committed rows lie right now."""
        return self._patiently(self._place)

    def _place(self) -> Place:
        with self._index.snapshot():
            place = locate(self._paths, self._index.meta())
        if place is None:
            raise StoreFormatError(
                f"{self.path}: arrays.zarr is missing or does not belong to index.sqlite",
                "Restore both from one copy, or extract again.",
            )
        return place

    def _find(self, clip: str, track: int) -> tuple[Place, ClipRecord]:
        with self._index.snapshot():
            place = self._place()
            record = self._index.clip(clip, track, moved=place.moved)
        if record is None:
            raise ClipNotFoundError(f"{self.path}: holds no clip {clip!r}, track {track}")
        return place, record

    def _opened(self, place: Place) -> Arrays:
        arrays = self._arrays
        if (
            arrays is None
            or (arrays.path, arrays.generation) != (place.folder, place.generation)
            or min(arrays.lengths().values()) < place.rows
            or arrays.crop_rows < place.crop_rows
        ):
            arrays = self._arrays = Arrays(
                place.folder, self.feature_dtype, crop_size=self.crop_size
            )
        return arrays

    def _read(self, place: Place, names: list[str], start: int, stop: int) -> dict[str, AnyArray]:
        arrays = self._opened(place)
        found = {
            name: arrays.read(name, start, stop)
            if name in arrays
            else layers.read(self._paths, self.layers[name], start, stop)
            for name in names
        }
        # Had a compaction switched in between, rows of other clips could be among these.
        if read_generation(place.folder) != place.generation:
            raise RuntimeError("the store was compacted during the read")
        return found

    def _patiently(self, read: Callable[[], _T]) -> _T:
        """Try again while a writer may be replacing the very files that are read."""
        for attempt in range(_RETRIES):
            try:
                with readable(self.path):
                    return read()
            except ClipNotFoundError:
                raise
            except Exception as error:
                if attempt == _RETRIES - 1 or isinstance(error, CompactedError):
                    raise
                self._arrays = None
                time.sleep(0.01 * 2**attempt)
        raise AssertionError("unreachable")

    def _check_names(self, names: Sequence[str]) -> None:
        known = [spec.name for spec in self.specs]
        for name in names:
            if name not in known and name not in self.layers:
                raise StoreError(
                    f"{self.path}: holds no array {name!r}; expected one of "
                    f"{', '.join([*known, *self.layers])}",
                    "`pipeline features --layer` adds arrays",
                )

    def _spec(self, name: str) -> ArraySpec:
        if name == "crop" and self.crop_size is not None:
            return crop_spec(self.crop_size)
        self._check_names([name])
        own = next((spec for spec in self.specs if spec.name == name), None)
        return own or self.layers[name].spec

    def _check_generation(self, generation: int) -> None:
        if generation != self.generation:
            raise CompactedError(
                f"{self.path}: was compacted since it was opened (generation {self.generation}, "
                f"now {generation})",
                "Open it again.",
            )

    def _address(self) -> str:
        return str(self.path.absolute() if isinstance(self.path, Path) else self.path)

    def close(self) -> None:
        """Close this thread's connection, delete copies; the next call opens them again."""
        index: Index | None = getattr(self._local, "index", None)
        if index is not None:
            index.close()
            self._local.index = None
        self._paths.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "generation": self.generation}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]
        self.generation = state["generation"]
