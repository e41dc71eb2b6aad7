"""Writing so that a power cut cannot undo what was reported as done.

Every byte outside SQLite goes through here: a file is written beside its final place, synced, and
renamed; folders are synced once a batch is complete. Zarr's own LocalStore renames but never syncs,
so a power cut could leave an empty shard in the place of a committed one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from zarr.storage import LocalStore

from store.errors import FacepipeError, StoreDamagedError, StoreWriteError

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

PARTIAL = ".partial"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_file(path: Path, data: Any) -> None:
    """Write ``data`` to ``path``: whole or not at all, and on the disk on return.

    Bytes-like, or an iterator of parts that are.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.writelines(data if isinstance(data, Iterator) else [data])
            sync_file(file)
        replace(partial, path)
    except Exception:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def sync_file(file: IO[bytes]) -> None:
    """Make what was written to a file durable."""
    file.flush()
    os.fsync(file.fileno())


def replace(partial: Path, path: Path) -> None:
    """Give a file that is complete its name, in the place of what had it."""
    os.replace(partial, path)


def sync_folder(folder: Path) -> None:
    """Make renames and new files in ``folder`` durable. Does nothing where folders have no sync."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename(source: Path, target: Path) -> None:
    """Rename a folder within the store, durably."""
    os.rename(source, target)
    sync_folder(target.parent)


def overwrite(path: Path) -> None:
    """Put zeros in the place of a file's bytes, unless it is part of a hard-linked copy too."""
    if not path.is_file() or path.stat().st_nlink > 1:
        return
    with path.open("r+b") as file:
        left = path.stat().st_size
        while left:
            left -= file.write(bytes(min(left, 1 << 20)))
        sync_file(file)


def overwrite_tree(folder: Path) -> None:
    """Overwrite every file of a folder that may be there."""
    for path in sorted(folder.rglob("*")):
        overwrite(path)


def remove(path: Path) -> None:
    """Delete a file that may be there."""
    path.unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """Delete a folder that may be there."""
    if folder.exists():
        shutil.rmtree(folder)


def remove_partials(folder: Path, spoil: bool = False) -> None:
    """Delete what a writer that was killed left half written; overwrite it first if ``spoil``."""
    for path in sorted(folder.rglob(f"*{PARTIAL}")):
        if spoil:
            overwrite(path)
        remove(path)


class DurableStore(LocalStore):
    """Zarr's store of files, each synced before it takes its name; ``sync()`` ends a batch."""

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._dirty: set[Path] = set()

    async def set(self, key: str, value: Buffer) -> None:
        """Store one object."""
        await asyncio.to_thread(self.set_sync, key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Store one object unless there is one. Sound because a store has one writer."""
        if not (self.root / key).exists():
            await self.set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Store one object."""
        self.put(key, value.as_buffer_like())

    def put(self, key: str, data: Any) -> None:
        """Store one object, of bytes or an iterator of parts of them."""
        self._check_writable()
        path = self.root / key
        folder = path.parent
        while not folder.exists():  # a new folder is an entry of the one above it
            folder = folder.parent
            self._dirty.add(folder)
        write_file(path, data)
        self._dirty.add(path.parent)

    async def delete(self, key: str) -> None:
        """Delete one object: a shard of rows that are cut."""
        self._check_writable()
        path = self.root / key
        await asyncio.to_thread(remove, path)
        self._dirty.add(path.parent)

    def sync(self) -> None:
        """Make every object set since the last call durable under its name, and every deletion."""
        for folder in sorted(self._dirty):
            if folder.is_dir():  # rows are cut of an array that may have no folder of chunks
                sync_folder(folder)
        self._dirty.clear()


@contextmanager
def reporting(path: Path, doing: str) -> Iterator[None]:
    """Turn what the disk, Zarr or SQLite refuse inside the block into one clear line.

    Raises
    ------
    StoreWriteError
        The disk is full or refused the write.
    StoreDamagedError
        What the store holds cannot be read.
    """
    kept = "What was committed before is kept."
    try:
        yield
    except FacepipeError:
        raise
    except (OSError, sqlite3.Error) as error:
        if _is_full(error):
            message = f"{path}: the disk is full ({doing})"
            hint = f"Free some space and run the same command again. {kept}"
        else:
            message = f"{path}: cannot write ({doing}): {_one_line(error)}"
            hint = f"Check that the folder is writable, then run the same command again. {kept}"
        raise StoreWriteError(message, hint) from error
    except (ValueError, RuntimeError, KeyError) as error:
        raise StoreDamagedError(
            f"{path}: the arrays are damaged ({doing}): {_one_line(error)}",
            f"`pipeline store verify --repair {path}` marks the damaged clips for re-extraction; "
            "then run the same command again.",
        ) from error


def _is_full(error: OSError | sqlite3.Error) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    return "full" in str(error)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
