"""Several stores read as one: what machines extracted in parts, put side by side."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import numpy.typing as npt

from store.arrays import AnyArray
from store.crop_index import CropRecord
from store.digests import digest as digest_one
from store.errors import (
    ClipExistsError,
    ClipNotFoundError,
    StoreError,
    StoreMismatchError,
    StoreNotFoundError,
)
from store.layers import Layer
from store.listing import Listing
from store.mismatch import check_provenance
from store.progress import Progress, unheard
from store.reader import Store
from store.remote import is_url, local_path
from store.schema import ArraySpec, ClipRecord, Status
from store.select import Choice
from store.verification import VerifyReport
from store.verification import verify as verify_one

if TYPE_CHECKING:
    import dask.array

_KEYS = ("clip", "track", "start", "frames")
OnePath = str | PathLike[str]
# Not Sequence[str]: a str is one too.
ManyPaths = list[str] | Sequence[PathLike[str]] | tuple[str, ...] | list[str | Path]


class Stores(Listing):
    """Several stores opened for reading as one; a context manager. Made by ``store.open``.

    Has what `Store` has. Rows are numbered through: those of the first store, then those of the
    second, and so on, so ``dask(name)[start : start + frames]`` are the rows of a record. Rows and
    clips that are committed after the opening are not seen. Safe to pickle.

    Parameters
    ----------
    paths : sequence of paths
        At least one.

    Raises
    ------
    StoreNotFoundError, StoreFormatError
        As `Store` does.
    StoreMismatchError
        Two stores are of different packs, recipes or feature dtypes; names both.
    ClipExistsError
        Two stores hold the same clip; names both.
    """

    def __init__(self, paths: ManyPaths) -> None:
        if not paths:
            raise StoreNotFoundError("no store was given", "Name at least one store.")
        self.paths: list[Path | str] = [
            path if is_url(path) else local_path(path) for path in paths
        ]
        self.stores = [Store(path) for path in self.paths]
        places = [store.place() for store in self.stores]
        self._rows = [place.rows for place in places]
        self._crops = [place.crop_rows for place in places]
        self._first = [sum(self._rows[:k]) for k in range(len(self._rows))]
        self._check_kind()
        self._check_clips()

    # -- what is in it -------------------------------------------------------------------------

    @property
    def n_rows(self) -> int:
        """The length N of every array: the sum over the stores."""
        return sum(self._rows)

    @property
    def feature_dtype(self) -> str:
        """``float16`` or ``float32``: of embedding and appearance."""
        return self.stores[0].feature_dtype

    @property
    def specs(self) -> tuple[ArraySpec, ...]:
        """Names, shapes and dtypes of the arrays."""
        return self.stores[0].specs

    @property
    def crop_size(self) -> int | None:
        """Side in pixels of the crops; None if the stores hold none."""
        return self.stores[0].crop_size

    @property
    def layers(self) -> dict[str, Layer]:
        """Arrays made later that all of the stores have, made alike; as the first has them."""
        first, *others = (store.layers for store in self.stores)
        return {
            name: layer
            for name, layer in first.items()
            if all(name in o and o[name].provenance == layer.provenance for o in others)
        }

    @property
    def n_crops(self) -> int:
        """The length M of the array `crop`: the sum over the stores."""
        return sum(self._crops)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the first session of the first store that has one wrote; {} if none has."""
        return next((p for store in self.stores if (p := store.provenance)), {})

    def __len__(self) -> int:
        return sum(map(self._count, range(len(self.stores))))

    def iter_rows(
        self,
        columns: Sequence[str],
        status: Status | Iterable[Status] | None = None,
        *,
        subset: Iterable[str] | None = None,
        where: str | None = None,
        by_start: bool = False,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield columns of the index as tuples, as `Store.iter_rows` does."""
        # Named once: iterables may be such that the first store would spend.
        choice = Choice.of(status, subset, where)
        wanted = None if choice.statuses is None else [Status(s) for s in choice.statuses]
        parts = []
        for k, store in enumerate(self.stores):
            rows = store.iter_rows(
                [*columns, *_KEYS],
                wanted,
                subset=choice.subset,
                where=where,
                by_start=by_start,
            )
            parts.append(self._shifted(k, columns, rows))
        if by_start:
            for part in parts:
                yield from (row[:-4] for row in part)
            return
        for row in heapq.merge(*parts, key=lambda row: row[-4:-2]):
            yield row[:-4]

    def record(self, clip: str, track: int = 0) -> ClipRecord:
        """Return one record.

        Raises
        ------
        ClipNotFoundError
        """
        k, record = self._find(clip, track)
        return self._shift(k, record)

    # -- rows ----------------------------------------------------------------------------------

    def clip(
        self, clip: str, track: int = 0, arrays: Sequence[str] | None = None
    ) -> dict[str, AnyArray]:
        """Return the rows of one track by array name, as `Store.clip` does."""
        k, _ = self._find(clip, track)
        return self.stores[k].clip(clip, track, arrays)

    def crops(
        self, clip: str, track: int = 0
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """Return frames and pictures of one track's crops, as `Store.crops` does."""
        k, _ = self._find(clip, track)
        return self.stores[k].crops(clip, track)

    def crop_records(self) -> Iterator[CropRecord]:
        """Yield where the crops of each track lie in ``dask("crop")``, in the order of rows."""
        first = 0
        for store, crops in zip(self.stores, self._crops, strict=True):
            for found in store.crop_records():
                if found.stop <= crops:
                    yield replace(found, start=found.start + first)
            first += crops

    def dask(self, name: str) -> dask.array.Array:
        """Return one array of all stores, whole and lazy: (n_rows, *tail); also ``crop``.

        Raises
        ------
        StoreError
            As `Store.dask`.
        """
        import dask.array

        own = name == "crop" or any(spec.name == name for spec in self.specs)
        if not own and any(name in o.layers for o in self.stores) and name not in self.layers:
            raise StoreMismatchError(
                f"{self}: layer {name!r} is not in all of them, or was made in different ways",
                "Run `pipeline features` with the same options on each.",
            )
        rows = self._crops if name == "crop" else self._rows
        parts = [store.dask(name)[:n] for store, n in zip(self.stores, rows, strict=True)]
        filled = [part for part in parts if part.shape[0]] or parts[:1]
        return dask.array.concatenate(filled, axis=0)

    # -- how -----------------------------------------------------------------------------------

    def _shifted(
        self, k: int, columns: Sequence[str], found: Iterable[tuple[Any, ...]]
    ) -> Iterator[tuple[Any, ...]]:
        """Shift the rows of the k-th store; leave out those that are newer than this object."""
        first, end = self._first[k], self._rows[k]
        places = [i for i, name in enumerate(columns) if name == "start"] if first else []
        for row in found:
            start, frames = row[-2:]
            if start is None:
                yield row
            elif start + frames <= end:
                for i in places:
                    row = (*row[:i], start + first, *row[i + 1 :])
                yield row

    def _shift(self, k: int, record: ClipRecord) -> ClipRecord:
        if record.start is None or not self._first[k]:
            return record
        return replace(record, start=record.start + self._first[k])

    def _find(self, clip: str, track: int) -> tuple[int, ClipRecord]:
        for k, store in enumerate(self.stores):
            try:
                record = store.record(clip, track)
            except ClipNotFoundError:
                continue
            if record.start is None or record.start + record.frames <= self._rows[k]:
                return k, record
        raise ClipNotFoundError(f"{self}: hold no clip {clip!r}, track {track}")

    def _check_kind(self) -> None:
        first: Store | None = None
        for store in self.stores:
            if store.feature_dtype != self.feature_dtype:
                raise StoreMismatchError(
                    f"{store.path}: holds features as {store.feature_dtype}, "
                    f"{self.stores[0].path} as {self.feature_dtype}",
                    "Stores are read as one only if they are of one pack, recipe and dtype.",
                )
            if store.crop_size != self.crop_size:
                raise StoreMismatchError(
                    f"{store.path}: holds crops of size {store.crop_size}, "
                    f"{self.stores[0].path} of size {self.crop_size}",
                    "Stores are read as one only if all or none of them hold crops of one size.",
                )
            if not store.provenance:  # a part in which no clip fell
                continue
            if first is None:
                first = store
                continue
            try:
                check_provenance(store.path, store.provenance, first.provenance)
            except StoreMismatchError as error:
                raise StoreMismatchError(
                    f"{store.path} and {first.path} cannot be read as one: "
                    f"{_without_path(str(error), store.path)}",
                    "Extract both with the same pack and settings, or read them one at a time.",
                ) from None

    def _count(self, k: int) -> int:
        """Return how many records of the k-th store are seen."""
        count = len(self.stores[k])
        if self.stores[k].n_rows == self._rows[k]:  # nothing is newer
            return count
        return sum(1 for _ in self._shifted(k, (), self.stores[k].iter_rows(_KEYS)))

    def _check_clips(self) -> None:
        for one, other in combinations(self.stores, 2):
            clip = one.shared_clip(other)
            if clip is not None:
                raise ClipExistsError(
                    f"clip {clip!r} is in two stores: {one.path} and {other.path}",
                    "Give each store once; extract parts of a folder with --part I/N.",
                )

    def close(self) -> None:
        """Close this thread's connections; the next call opens them again."""
        for store in self.stores:
            store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __str__(self) -> str:
        return ", ".join(map(str, self.paths))


def _without_path(message: str, path: Path | str) -> str:
    return message.removeprefix(f"{path}: ").replace("this run", "the other")


@overload
def open(path: OnePath) -> Store: ...
@overload
def open(path: ManyPaths) -> Stores: ...
def open(path: OnePath | ManyPaths) -> Store | Stores:
    """Open a store, or several as one, for reading. Reads no arrays, takes no lock.

    Parameters
    ----------
    path : path or sequence of paths
        On a disk, or in object storage by its address as a str, such as ``s3://bucket/x.store``
        (read through fsspec; for S3 ``pip install 'facepipe[s3]'``).

    Raises
    ------
    StoreNotFoundError
        Nothing lies at a path.
    StoreFormatError
        What lies there is not a whole store, or of a newer format.
    StoreMismatchError, ClipExistsError
        Several stores do not go together, see `Stores`.
    StoreError
        Object storage cannot be reached, or refuses.
    """
    return Store(path) if isinstance(path, str | PathLike) else Stores(path)


def digest(
    path: OnePath | ManyPaths,
    progress: Progress = unheard,
    *,
    arrays: Sequence[str] | None = None,
) -> Iterator[tuple[str, str]]:
    """Yield (clip id, sha256 in hex) of every clip of a store or of several, sorted by id.

    Over the rows of all arrays and the crops, or of those arrays alone that are named.

    Raises
    ------
    StoreError
        As `store.digests.digest`, and as `Stores` for several.
    """
    if isinstance(path, str | PathLike):
        yield from digest_one(path, progress, arrays=arrays)
        return
    with Stores(path) as stores:
        yield from heapq.merge(*(digest_one(one, progress, arrays=arrays) for one in stores.paths))


def verify(path: OnePath | ManyPaths, progress: Progress = unheard) -> VerifyReport:
    """Test every invariant of a store, or of several and whether they can be read as one.

    Of several, problems and notes begin with the store's path. ``progress`` is told of the rows,
    store by store.

    Raises
    ------
    StoreNotFoundError, StoreFormatError
        As `store.verification.verify`.
    """
    if isinstance(path, str | PathLike):
        return verify_one(path, progress)
    total, by_status = VerifyReport(), Counter[str]()
    for one in path:
        report = verify_one(one, progress)
        total.clips += report.clips
        total.rows += report.rows
        by_status.update(report.by_status)
        total.problems += [f"{one}: {line}" for line in report.problems]
        total.notes += [f"{one}: {line}" for line in report.notes]
    total.by_status = dict(by_status)
    if total.ok:  # damaged stores would be blamed for what they cannot say
        try:
            Stores(path).close()
        except StoreError as error:
            total.problems.append(str(error))
    return total
