"""Is there a store, of which format, and which folder holds the arrays that its index means."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from store.arrays import read_generation
from store.errors import StoreFormatError, StoreNotFoundError
from store.index import Index
from store.layout import Paths
from store.meta import RESTORE, Meta
from store.remote import RemoteError, RemoteFolder, RemotePaths, fetch, is_url, local_path
from store.schema import FEATURE_DTYPES, FORMAT_VERSION


def open_paths(path: str | PathLike[str]) -> Paths | RemotePaths:
    """Return the parts of a store that is there; of one in object storage, with its index copied.

    Raises
    ------
    StoreNotFoundError, StoreFormatError
        As `check_path` and `remote.fetch`.
    """
    if is_url(path):
        return fetch(path)
    paths = Paths(local_path(path))
    check_path(paths)
    return paths


def check_path(paths: Paths) -> None:
    """Refuse what is not there or no store.

    Raises
    ------
    StoreNotFoundError, StoreFormatError
        Nothing lies there; a file or another kind of folder does.
    """
    root = paths.root
    if not root.exists():
        raise StoreNotFoundError(
            f"{root}: there is no such store",
            f"`pipeline extract VIDEOS --store {root}` makes one.",
        )
    if not root.is_dir():
        raise StoreFormatError(
            f"{root}: expected the folder of a feature store, got a file",
            "Give the path of a folder that `pipeline extract` has made.",
        )
    if not paths.index.exists():
        raise StoreFormatError(
            f"{root}: is not a feature store: expected index.sqlite and arrays.zarr in it, "
            f"got {_listing(root)}",
            f"`pipeline extract VIDEOS --store {root}` makes one in a new or empty folder.",
        )


def open_index(paths: Paths | RemotePaths, *, writable: bool = False) -> Index:
    """Open the index of an existing store and check its format.

    Raises
    ------
    StoreFormatError
        The index is damaged, of a newer format, or was never finished.
    """
    index = None
    try:
        index = Index(paths.index, writable=writable)
        check_format(paths, index)
    except sqlite3.OperationalError as error:
        if index is not None:
            index.close()
        raise StoreFormatError(
            f"{paths.label}/index.sqlite: cannot be opened: {error}",
            "If its writer was killed and the disk is read-only, copy the store to a writable one.",
        ) from error
    except sqlite3.DatabaseError as error:
        if index is not None:
            index.close()
        raise StoreFormatError(
            f"{paths.label}/index.sqlite: is damaged: {error}",
            "Restore it from a copy, or extract again.",
        ) from error
    except StoreFormatError:
        if index is not None:
            index.close()
        raise
    return index


def check_format(paths: Paths | RemotePaths, index: Index) -> None:
    """Refuse an index of a newer format, and one that is none."""
    root = paths.label
    if index.is_empty():
        raise StoreFormatError(
            f"{root}: the making of this store was cut short; it holds nothing",
            f"`pipeline extract VIDEOS --store {root}` starts it again.",
        )
    try:
        raw = index.raw_meta()
        version = int(raw["format_version"])
    except (sqlite3.OperationalError, KeyError, ValueError) as error:
        raise StoreFormatError(
            f"{root}: index.sqlite is not the index of a feature store: {error}",
            "Give the path of a folder that `pipeline extract` has made.",
        ) from error
    if version > FORMAT_VERSION:
        raise StoreFormatError(
            f"{root}: written by format {version}; this facepipe reads format {FORMAT_VERSION}",
            "Upgrade facepipe: `pip install --upgrade facepipe`.",
        )
    if version < 1 or raw.get("feature_dtype") not in FEATURE_DTYPES:
        raise StoreFormatError(
            f"{root}: expected format 1 to {FORMAT_VERSION} with features of "
            f"{' or '.join(FEATURE_DTYPES)}, got format {version} with "
            f"{raw.get('feature_dtype')}",
            RESTORE,
        )
    try:
        index.meta()
    except StoreFormatError as error:
        raise StoreFormatError(f"{root}: {error}", error.hint) from error


@dataclass(frozen=True)
class Place:
    """The arrays that an index means: their folder, and whether ``moved`` holds the first rows."""

    folder: Path | RemoteFolder
    generation: int
    moved: bool
    rows: int
    crop_rows: int = 0


def locate(paths: Paths | RemotePaths, meta: Meta) -> Place | None:
    """Find the arrays that belong to ``meta``, also when a compaction was cut short.

    Returns None when they do not fit together: the switch is happening this very moment, or the
    store is damaged.
    """
    found = _generation(paths.arrays)
    if found == meta.generation:
        return Place(paths.arrays, found, False, meta.rows, meta.crop_rows)
    if meta.next_generation is None:
        return None
    if found == meta.next_generation:  # renamed, index not yet told
        return Place(paths.arrays, found, True, meta.next_rows or 0, meta.next_crop_rows or 0)
    if found is None and _generation(paths.old_arrays) == meta.generation:  # between the renames
        return Place(paths.old_arrays, meta.generation, False, meta.rows, meta.crop_rows)
    return None


def _generation(folder: Path | RemoteFolder) -> int | None:
    try:
        return read_generation(folder)
    except RemoteError:
        raise
    except (OSError, ValueError):
        return None


def _listing(root: Path) -> str:
    names = sorted(p.name for p in root.iterdir())
    if not names:
        return "an empty folder"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
