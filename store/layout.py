"""Where the parts of a store lie, and how its arrays are cut into chunks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from store.schema import CHUNK_ROWS, FLUSH_ROWS, SHARD_ROWS


@dataclass(frozen=True)
class Layout:
    """Rows per chunk, per shard (a whole number of chunks) and per flush of the journal."""

    chunk_rows: int = CHUNK_ROWS
    shard_rows: int = SHARD_ROWS
    flush_rows: int = FLUSH_ROWS


@dataclass(frozen=True)
class Paths:
    """The files and folders of one store."""

    root: Path

    @property
    def arrays(self) -> Path:
        """The Zarr group that readers open."""
        return self.root / "arrays.zarr"

    @property
    def next_arrays(self) -> Path:
        """The group that a compaction, or the creation of a store, is writing."""
        return self.root / "arrays.next.zarr"

    @property
    def old_arrays(self) -> Path:
        """The group that a compaction has replaced and not yet deleted."""
        return self.root / "arrays.old.zarr"

    @property
    def index(self) -> Path:
        """The SQLite database that says which rows are whose."""
        return self.root / "index.sqlite"

    @property
    def lock(self) -> Path:
        """The file that the one writer holds locked."""
        return self.root / "writer.lock"

    @property
    def holder(self) -> Path:
        """Who holds the lock: JSON with host, pid and started."""
        return self.root / "writer.json"
