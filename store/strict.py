"""Zarr's stores for reading, in which a chunk that is missing is an error and not fill values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zarr.storage import FsspecStore, LocalStore

from store import remote
from store.remote import RemoteFolder

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


class MissingChunkError(RuntimeError):
    """A shard is not there or too short; Zarr alone would read fill values in its place."""


class StrictStore(LocalStore):
    """Files on a disk."""

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return one object or a part of it."""
        return _checked(key, await super().get(key, prototype, byte_range), byte_range)


class StrictRemoteStore(FsspecStore):
    """Objects in object storage."""

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return one object or a part of it."""
        return _checked(key, await super().get(key, prototype, byte_range), byte_range)


def _checked(key: str, found: Buffer | None, byte_range: ByteRequest | None) -> Buffer | None:
    if "/c/" in f"/{key}":
        if found is None:
            raise MissingChunkError(f"{key} is missing")
        wanted = getattr(byte_range, "end", 0) - getattr(byte_range, "start", 0)
        if len(found) < wanted or not len(found):
            raise MissingChunkError(f"{key} is too short")
    return found


def open_strict(folder: Path | RemoteFolder) -> StrictStore | FsspecStore:
    """Return the store of the Zarr group in a folder, for reading.

    Raises
    ------
    RemoteError
        A package that the address needs is missing.
    """
    if isinstance(folder, Path):
        return StrictStore(folder, read_only=True)
    remote.connect(folder.url)  # for its messages
    return StrictRemoteStore.from_url(folder.url, read_only=True)
