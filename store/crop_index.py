"""Where the crops of each track lie: the tables of index.sqlite that only stores with crops have.

A record of `clip` or of the journal takes its crops along when it is deleted, by triggers, so that
no statement that removes or replaces clips can forget them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from store.errors import StoreFormatError
from store.records import REPAIR, BadRecord
from store.schema import ClipCrops
from store.select import PAGE

SCHEMA = (
    """CREATE TABLE crop (
        clip TEXT NOT NULL, track INTEGER NOT NULL, start INTEGER NOT NULL,
        crops INTEGER NOT NULL, frames TEXT NOT NULL, crops_sha256 TEXT NOT NULL,
        PRIMARY KEY (clip, track)
    ) WITHOUT ROWID""",
    "CREATE INDEX crop_by_start ON crop (start)",
    """CREATE TABLE pending_crop (
        pending INTEGER PRIMARY KEY, crops INTEGER NOT NULL, frames TEXT NOT NULL,
        crops_sha256 TEXT NOT NULL, data BLOB NOT NULL
    )""",
    """CREATE TABLE moved_crop (
        clip TEXT NOT NULL, track INTEGER NOT NULL, start INTEGER NOT NULL,
        PRIMARY KEY (clip, track)
    ) WITHOUT ROWID""",
    """CREATE TRIGGER crop_of_clip AFTER DELETE ON clip BEGIN
        DELETE FROM crop WHERE clip = OLD.clip AND track = OLD.track;
    END""",
    """CREATE TRIGGER crop_of_pending AFTER DELETE ON pending BEGIN
        DELETE FROM pending_crop WHERE pending = OLD.id;
    END""",
)
_COLUMNS = "clip, track, start, crops, frames, crops_sha256"
_MOVED = (
    "(SELECT old.clip, old.track, moved_crop.start, old.crops, old.frames, old.crops_sha256 "
    "FROM crop AS old JOIN moved_crop ON moved_crop.clip = old.clip "
    "AND moved_crop.track = old.track)"
)


@dataclass(frozen=True)
class CropRecord:
    """The crops of one track: rows ``start`` to ``start + len(frames)`` of the array `crop`.

    ``frames``: numbers of the track's frames that they show, ascending, counted from 0.
    """

    clip: str
    track: int
    start: int
    frames: tuple[int, ...]
    sha256: str

    @property
    def stop(self) -> int:
        """The row after the last one."""
        return self.start + len(self.frames)


def find(
    connection: sqlite3.Connection, clip: str, track: int, *, moved: bool = False
) -> CropRecord | None:
    """Return where the crops of one track lie; None if it has none."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM {_MOVED if moved else 'crop'} WHERE clip = ? AND track = ?",
        (clip, track),
    ).fetchone()
    return None if row is None else _sound(_read(row))


def by_start(connection: sqlite3.Connection, *, moved: bool = False) -> Iterator[CropRecord]:
    """Yield the crops of all tracks in the order of their rows, page by page.

    Raises
    ------
    StoreFormatError
        A row of the table is not as FORMAT.md says.
    """
    yield from map(_sound, each(connection, moved=moved))


def each(
    connection: sqlite3.Connection, *, moved: bool = False
) -> Iterator[CropRecord | BadRecord]:
    """Yield the crops as `by_start`, also rows of the table that are damaged."""
    query = (
        f"SELECT {_COLUMNS} FROM {_MOVED if moved else 'crop'} "
        f"WHERE (start, clip, track) > (?, ?, ?) ORDER BY start, clip, track LIMIT {PAGE}"
    )
    last: tuple[int, str, int] = (-(1 << 62), "", -1)
    while True:
        page = connection.execute(query, last).fetchall()
        yield from map(_read, page)
        if len(page) < PAGE:
            return
        last = (page[-1][2], page[-1][0], page[-1][1])


def put(connection: sqlite3.Connection, record: CropRecord) -> None:
    """Insert the crops of a track that has none."""
    frames = json.dumps(record.frames)
    connection.execute(
        "INSERT INTO crop VALUES (?, ?, ?, ?, ?, ?)",
        (record.clip, record.track, record.start, len(record.frames), frames, record.sha256),
    )


def put_pending(
    connection: sqlite3.Connection, pending: int, crops: ClipCrops, sha256: str
) -> None:
    """Journal the crops of a pending record."""
    frames = json.dumps([int(n) for n in crops.frames])
    connection.execute(
        "INSERT INTO pending_crop VALUES (?, ?, ?, ?, ?)",
        (pending, len(crops.frames), frames, sha256, crops.images.tobytes()),
    )


def pending(connection: sqlite3.Connection, number: int) -> tuple[tuple[int, ...], str] | None:
    """Return (frames, sha256) of the journalled crops of a pending record; None without any."""
    row = connection.execute(
        "SELECT frames, crops_sha256 FROM pending_crop WHERE pending = ?", (number,)
    ).fetchone()
    return None if row is None else (tuple(json.loads(row[0])), row[1])


def pending_data(connection: sqlite3.Connection, number: int) -> bytes:
    """Return the bytes of the journalled crops of a pending record."""
    row = connection.execute(
        "SELECT data FROM pending_crop WHERE pending = ?", (number,)
    ).fetchone()
    return b"" if row is None else bytes(row[0])


def pending_count(connection: sqlite3.Connection) -> int:
    """Return how many crops wait in the journal."""
    return int(connection.execute("SELECT TOTAL(crops) FROM pending_crop").fetchone()[0])


def set_moved(connection: sqlite3.Connection, starts: Iterable[tuple[str, int, int]]) -> None:
    """Write the new first rows of a compaction: (clip, track, start)."""
    connection.execute("DELETE FROM moved_crop")
    connection.executemany("INSERT INTO moved_crop VALUES (?, ?, ?)", starts)


def apply_moved(connection: sqlite3.Connection) -> None:
    """Take the first rows of a compaction over; crops that it left out go."""
    connection.execute(
        "DELETE FROM crop WHERE NOT EXISTS (SELECT 1 FROM moved_crop "
        "WHERE moved_crop.clip = crop.clip AND moved_crop.track = crop.track)"
    )
    connection.execute(
        "UPDATE crop SET start = moved_crop.start FROM moved_crop "
        "WHERE moved_crop.clip = crop.clip AND moved_crop.track = crop.track"
    )
    connection.execute("DELETE FROM moved_crop")


def _sound(found: CropRecord | BadRecord) -> CropRecord:
    if isinstance(found, BadRecord):
        raise StoreFormatError(f"index.sqlite: clip {found.clip!r}, {found.problem}", REPAIR)
    return found


def _read(row: tuple[Any, ...]) -> CropRecord | BadRecord:
    clip, track, start, crops, frames, sha = row
    if not isinstance(clip, str) or not isinstance(track, int) or not isinstance(sha, str):
        return BadRecord(clip, f"crop: a row that holds {row[:3]}")
    try:
        numbers = tuple(json.loads(frames))
    except (TypeError, ValueError):
        numbers = (None,)
    if len(numbers) != crops or not {*map(type, numbers)} <= {int}:
        return BadRecord(clip, f"crop: expected a JSON array of {crops} integers, got {frames!r}")
    if not isinstance(start, int) or start < 0:
        return BadRecord(clip, f"crop: expected a first row of 0 or more, got {start!r}")
    return CropRecord(clip, track, start, numbers, sha)
