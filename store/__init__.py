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
from store.verify import VerifyReport
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
