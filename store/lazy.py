"""What Dask slices: an array of a store that is read block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from store.schema import ArraySpec

if TYPE_CHECKING:
    from store.reader import Store


NO_CROPS = "Extract with --crops K into a new store."


class LazyArray:
    """What Dask slices: one array of a store, (rows, *tail), read block by block."""

    def __init__(self, store: Store, spec: ArraySpec, rows: int) -> None:
        self._store = store
        self._spec = spec
        self.shape = (rows, *spec.tail)
        self.dtype = np.dtype(spec.dtype)
        self.ndim = len(self.shape)

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        parts = key if isinstance(key, tuple) else (key,)
        start, stop, step = parts[0].indices(self.shape[0])
        rows = self._store.read_rows(self._spec.name, start, max(start, stop))
        part = np.asarray(rows[(slice(None, None, step), *parts[1:])])
        # Of a view Dask would make a copy.
        return rows if (part.shape, part.strides) == (rows.shape, rows.strides) else part
