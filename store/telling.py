"""What cannot be read, said in one line."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.errors import FacepipeError, StoreError, StoreFormatError


@contextmanager
def told(path: Path | str, what: str) -> Iterator[None]:
    """Turn whatever Zarr raises inside the block into a StoreError that names the store."""
    try:
        yield
    except FacepipeError:
        raise
    except Exception as error:
        raise StoreError(
            f"{path}: {what} cannot be read: {error}",
            f"`pipeline store verify {path}` names every damaged clip.",
        ) from error


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turn what SQLite raises inside the block into a StoreFormatError."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise StoreFormatError(
            f"{path}/index.sqlite: cannot be read: {error}",
            f"`pipeline store verify {path}` says more.",
        ) from error
