"""A folder beside the place of what is being made, and what earlier runs left there."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """Give a new folder next to ``target``, which is made in it and then renamed; delete it after.

    Such folders of runs that were killed are deleted first. They are locked as long as their run
    lives; where the file system has no such locks, they stay.
    """
    parent, prefix = target.absolute().parent, f".{target.name}.partial-"
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{glob.escape(prefix)}*"):
        _delete_if_dead(left)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _delete_if_dead(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir():
        return
    lock = _lock(folder)
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder and return its descriptor; None if it is locked, or cannot be."""
    try:
        import fcntl
    except ImportError:
        return None
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd
    return None
