"""Where the parts of a store lie, and how its arrays are cut into chunks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from store.schema import CHUNK_ROWS, CROP_FLUSH_ROWS, CROP_SHARD_ROWS, FLUSH_ROWS, SHARD_ROWS

ARRAYS, NEXT_ARRAYS, OLD_ARRAYS = "arrays.zarr", "arrays.next.zarr", "arrays.old.zarr"
LAYERS = "layers.zarr"
INDEX = "index.sqlite"


@dataclass(frozen=True)
class Layout:
    """Rows per chunk, per shard (a whole number of chunks) and per flush of the journal.

    Crops have a chunk each; ``crop_shard_rows`` are in a shard, ``crop_flush_rows`` in a flush.
    """

    chunk_rows: int = CHUNK_ROWS
    shard_rows: int = SHARD_ROWS
    flush_rows: int = FLUSH_ROWS
    crop_shard_rows: int = CROP_SHARD_ROWS
    crop_flush_rows: int = CROP_FLUSH_ROWS


@dataclass(frozen=True)
class Paths:
    """The files and folders of one store."""

    root: Path

    @property
    def label(self) -> str:
        """The store's name in messages."""
        return str(self.root)

    @property
    def arrays(self) -> Path:
        """The Zarr group that readers open."""
        return self.root / ARRAYS

    @property
    def next_arrays(self) -> Path:
        """The group that a compaction, or the creation of a store, is writing."""
        return self.root / NEXT_ARRAYS

    @property
    def old_arrays(self) -> Path:
        """The group that a compaction has replaced and not yet deleted."""
        return self.root / OLD_ARRAYS

    @property
    def layers(self) -> Path:
        """The group of arrays that were made later, see layers.py."""
        return self.root / LAYERS

    @property
    def index(self) -> Path:
        """The SQLite database that says which rows are whose."""
        return self.root / INDEX

    @property
    def lock(self) -> Path:
        """The file that the one writer holds locked."""
        return self.root / "writer.lock"

    @property
    def holder(self) -> Path:
        """Who holds the lock: JSON with host, pid and started."""
        return self.root / "writer.json"

    def release(self) -> None:
        """Do nothing: these are not copies."""
