"""The feature store: dense per-frame Zarr arrays and an index of clips (FORMAT.md).

One process writes, any number read, and every clip is either whole or not there.

Examples
--------
>>> with store.Writer("features.store", provenance) as writer:   # opens or creates, takes the lock
...     writer.append(record, rows)                              # cannot be lost once this returns
>>> s = store.open("features.store")                             # reads no arrays
>>> s.clip("a.mp4", arrays=["embedding", "landmark"])            # the rows of one clip
>>> s.dask("embedding")                                          # (N, 512), lazily
>>> s.crops("a.mp4")                                             # frames, pictures (k, S, S, 3)
>>> store.verify("features.store").ok
>>> store.open(["a.store", "s3://bucket/b.store"])               # several as one
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from store.clip_id import check_clip_id
    from store.errors import (
        ClipExistsError,
        ClipIdError,
        ClipNotFoundError,
        FacepipeError,
        StoreError,
        StoreFormatError,
        StoreLockedError,
        StoreMismatchError,
        StoreNotFoundError,
        StoreWriteError,
    )
    from store.reader import Store
    from store.schema import ArraySpec, ClipCrops, ClipRecord, ClipRows, Status, array_specs
    from store.several import Stores, digest, open, verify
    from store.verification import VerifyReport
    from store.writer import Writer

__all__ = [
    "ArraySpec",
    "ClipCrops",
    "ClipExistsError",
    "ClipIdError",
    "ClipNotFoundError",
    "ClipRecord",
    "ClipRows",
    "FacepipeError",
    "Status",
    "Store",
    "StoreError",
    "StoreFormatError",
    "StoreLockedError",
    "StoreMismatchError",
    "StoreNotFoundError",
    "StoreWriteError",
    "Stores",
    "VerifyReport",
    "Writer",
    "array_specs",
    "check_clip_id",
    "digest",
    "open",
    "verify",
]

# Zarr takes a third of a second to import: it is, once something that needs it is asked for. The
# command line takes only the errors from here. None of the names above may be a module's name.
_PLACES = ("errors", "clip_id", "schema", "several", "writer")

if not TYPE_CHECKING:  # else every name would seem to be there

    def __getattr__(name: str) -> object:
        if name in __all__:
            for place in _PLACES:
                module = import_module(f"store.{place}")
                if hasattr(module, name):
                    globals()[name] = getattr(module, name)
                    return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
