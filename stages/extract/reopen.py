"""The file of a clip that a store holds, opened again as it was when it was extracted."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from stages.extract.video import ClipReader, UnreadableClipError, check_regular
from store.schema import ClipRecord


def reopen(path: Path, record: ClipRecord) -> ClipReader:
    """Open a clip so that its i-th frame is the one that the i-th row of ``record`` tells of.

    Raises
    ------
    UnreadableClipError
        There is no such regular file, or another one than was extracted, by its SHA-256.
    """
    try:
        stat = path.stat()
        check_regular(path)
        same = _sha256(path, stat.st_size, stat.st_mtime_ns) == record.content_sha256
    except OSError as error:
        raise UnreadableClipError(f"cannot be read ({error.strerror})") from None
    if not same:
        raise UnreadableClipError(
            "the file in the videos' folder is not the one that was extracted"
            if record.content_sha256
            else "the store does not say which file was extracted (it was imported)"
        )
    return ClipReader(path, obey=bool(record.rotation or record.details.get("mirrored")))


@lru_cache(1024)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Return a file's digest, read again once it has changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
