"""index.sqlite: which rows are whose, and the journal of clips that wait for their flush.

A rollback journal and not WAL, so that a store at rest is one file that opens on read-only media.
Readers fetch in pages and hold no lock between them: a cursor left open would block the writer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store import crop_index, records
from store.schema import FORMAT_VERSION, ClipCrops, ClipRecord
from store.select import Choice, select

BUSY_S = 60.0

_PRAGMAS = (
    "page_size=16384",  # this and the next count before the first table only
    "auto_vacuum=INCREMENTAL",
    "journal_mode=DELETE",
    "synchronous=FULL",
    "cache_size=-8192",
    # Debian's SQLite zeroes every freed page, which would write the journal to the disk once more.
    # FAST still zeroes where a page is written anyway, as those of the table clip are.
    "secure_delete=FAST",
)

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE session (
    id INTEGER PRIMARY KEY, started TEXT NOT NULL, provenance TEXT NOT NULL
);
CREATE TABLE clip (
    clip TEXT NOT NULL, status TEXT NOT NULL, track INTEGER NOT NULL, message TEXT NOT NULL,
    frames INTEGER NOT NULL, valid_frames INTEGER NOT NULL, claimed_frames INTEGER,
    fps REAL, duration_s REAL, width INTEGER, height INTEGER, rotation INTEGER NOT NULL,
    decoder TEXT NOT NULL, content_sha256 TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, start INTEGER, rows_sha256 TEXT NOT NULL,
    session INTEGER NOT NULL REFERENCES session (id), details TEXT NOT NULL,
    PRIMARY KEY (clip, track)
) WITHOUT ROWID;
CREATE INDEX clip_by_start ON clip (start) WHERE start IS NOT NULL;
CREATE TABLE pending (
    id INTEGER PRIMARY KEY, clip TEXT NOT NULL, track INTEGER NOT NULL, frames INTEGER NOT NULL,
    record TEXT NOT NULL, UNIQUE (clip, track)
);
CREATE TABLE pending_rows (
    pending INTEGER NOT NULL REFERENCES pending (id), part INTEGER NOT NULL,
    rows INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (pending, part)
);
CREATE TABLE moved (
    clip TEXT NOT NULL, track INTEGER NOT NULL, start INTEGER NOT NULL, PRIMARY KEY (clip, track)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Meta:
    """The table ``meta``.

    ``rows`` are committed; ``unowned`` of them belong to clips that were replaced or removed.
    ``generation`` counts compactions; ``next_generation`` is set while one is being switched to.
    ``crop_size`` is None in a store without crops; ``crop_rows`` are committed.
    """

    format_version: int
    feature_dtype: str
    created: str
    rows: int
    unowned: int
    generation: int
    next_generation: int | None
    next_rows: int | None
    crop_size: int | None = None
    crop_rows: int = 0
    next_crop_rows: int | None = None


class Index:
    """One connection. A writing one may be used by one thread at a time.

    Parameters
    ----------
    path : Path
        ``index.sqlite``; made when it is not there and ``writable``.
    writable : bool
        A reading connection is opened so that SQLite can roll back the journal that a killed
        writer left, and can change nothing else.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        mode = "rwc" if writable else "rw"
        self.path = path.absolute()
        self.connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            if writable:
                for pragma in _PRAGMAS:
                    self.connection.execute(f"PRAGMA {pragma}")
            else:
                self.connection.execute("PRAGMA query_only=ON")
                self.connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
        except BaseException:
            self.connection.close()
            raise

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back."""
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on the disk at the end of the block."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._commit()
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def _commit(self) -> None:
        self.connection.execute("COMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Make the reads inside the block see one state. Keep it short: it holds up the writer."""
        if self.connection.in_transaction:
            yield
            return
        self.connection.execute("BEGIN")
        try:
            yield
        finally:
            self.connection.execute("ROLLBACK")

    def changes(self) -> int:
        """Return a number that differs once another connection has committed."""
        return int(self.connection.execute("PRAGMA data_version").fetchone()[0])

    # -- meta and sessions ---------------------------------------------------------------------

    def create(self, feature_dtype: str, created: str, crop_size: int | None = None) -> None:
        """Make the tables of an empty store, in one transaction."""
        with self.transaction():
            for statement in _SCHEMA.split(";"):
                self.connection.execute(statement)
            if crop_size is not None:
                for statement in crop_index.SCHEMA:
                    self.connection.execute(statement)
                self.set_meta(crop_size=crop_size, crop_rows=0)
            self.set_meta(
                format_version=FORMAT_VERSION,
                feature_dtype=feature_dtype,
                created=created,
                rows=0,
                unowned=0,
                generation=0,
            )

    def is_empty(self) -> bool:
        """Whether the database has no tables: it was never committed to."""
        return not self.connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0]

    def raw_meta(self) -> dict[str, str]:
        """Return the table ``meta`` as text, whatever the format."""
        return dict(self.connection.execute("SELECT key, value FROM meta").fetchall())

    def meta(self) -> Meta:
        """Return the table ``meta``."""
        raw = self.raw_meta()

        def number(key: str) -> int | None:
            return int(raw[key]) if key in raw else None

        return Meta(
            format_version=int(raw["format_version"]),
            feature_dtype=raw["feature_dtype"],
            created=raw["created"],
            rows=int(raw["rows"]),
            unowned=int(raw["unowned"]),
            generation=int(raw["generation"]),
            next_generation=number("next_generation"),
            next_rows=number("next_rows"),
            crop_size=number("crop_size"),
            crop_rows=number("crop_rows") or 0,
            next_crop_rows=number("next_crop_rows"),
        )

    def set_meta(self, **values: object) -> None:
        """Set keys of ``meta``; None deletes one."""
        for key, value in values.items():
            if value is None:
                self.connection.execute("DELETE FROM meta WHERE key = ?", (key,))
            else:
                self.connection.execute(
                    "INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(value))
                )

    def first_provenance(self) -> str | None:
        """Return the JSON of the first session, None before there is one."""
        row = self.connection.execute(
            "SELECT provenance FROM session ORDER BY id LIMIT 1"
        ).fetchone()
        return None if row is None else str(row[0])

    def add_session(self, started: str, provenance: str) -> int:
        """Write down one opening of the store for writing; return its id."""
        cursor = self.connection.execute(
            "INSERT INTO session (started, provenance) VALUES (?, ?)", (started, provenance)
        )
        return int(cursor.lastrowid or 0)

    # -- clips ---------------------------------------------------------------------------------

    def count(self) -> int:
        """Return how many records are committed."""
        return int(self.connection.execute("SELECT COUNT(*) FROM clip").fetchone()[0])

    def clip(self, clip: str, track: int, *, moved: bool = False) -> ClipRecord | None:
        """Return one committed record."""
        only = Choice(subset=(clip,))
        for record in self.clips(only, moved=moved):
            if record.track == track:
                return record
        return None

    def clips(self, choice: Choice | None = None, *, moved: bool = False) -> Iterator[ClipRecord]:
        """Yield committed records ordered by clip and track, page by page."""
        for row in select(self.connection, records.COLUMNS, choice or Choice(), moved=moved):
            yield records.from_columns(row)

    def clips_by_start(self, *, moved: bool = False) -> Iterator[ClipRecord]:
        """Yield the committed records that own rows, in the order of their rows."""
        for row in select(self.connection, records.COLUMNS, Choice(), moved=moved, by_start=True):
            yield records.from_columns(row)

    def shared_clip(self, other: Path) -> str | None:
        """Return the first committed id that the index at ``other`` holds as well.

        By look-ups in SQLite: to go through a million ids in Python takes five times as long.
        """
        self.connection.execute("ATTACH ? AS other", (f"{other.as_uri()}?mode=rw",))
        try:
            found = self.connection.execute(
                "SELECT one.clip FROM main.clip AS one CROSS JOIN other.clip AS two "
                "ON two.clip = one.clip ORDER BY one.clip LIMIT 1"
            ).fetchall()
        finally:
            self.connection.execute("DETACH other")
        return found[0][0] if found else None

    def put_clip(self, record: ClipRecord) -> None:
        """Insert or replace a record; rows of the one before it become unowned."""
        self.drop_clip(record.clip, record.track)
        self.connection.execute(
            f"INSERT INTO clip ({','.join(records.COLUMNS)}) "
            f"VALUES ({','.join('?' * len(records.COLUMNS))})",
            records.to_columns(record),
        )

    def drop_clip(self, clip: str, track: int | None = None) -> int:
        """Delete a clip's records (of one track, or all); return how many there were."""
        where, values = "clip = ?", [clip] if track is None else [clip, track]
        if track is not None:
            where += " AND track = ?"
        count, rows = self.connection.execute(
            f"SELECT COUNT(*), TOTAL(CASE WHEN start IS NOT NULL THEN frames END) "
            f"FROM clip WHERE {where}",
            values,
        ).fetchone()
        self.connection.execute(f"DELETE FROM clip WHERE {where}", values)
        if rows:
            self.connection.execute(
                "UPDATE meta SET value = value + ? WHERE key = 'unowned'", (int(rows),)
            )
        return int(count)

    # -- journal -------------------------------------------------------------------------------

    def pending_rows(self) -> int:
        """Return how many rows wait in the journal."""
        return int(self.connection.execute("SELECT TOTAL(frames) FROM pending").fetchone()[0])

    def pending(self) -> list[tuple[int, ClipRecord]]:
        """Return the journalled records with their ids, in the order of their appending."""
        rows = self.connection.execute("SELECT id, record FROM pending ORDER BY id").fetchall()
        return [(number, records.from_json(text)) for number, text in rows]

    def has_rows(self, clip: str, track: int) -> bool:
        """Whether a track has rows, in the journal or committed."""
        found = self.connection.execute(
            "SELECT EXISTS (SELECT 1 FROM pending WHERE clip = ?1 AND track = ?2) OR "
            "EXISTS (SELECT 1 FROM clip WHERE clip = ?1 AND track = ?2 AND start IS NOT NULL)",
            (clip, track),
        ).fetchone()
        return bool(found[0])

    def put_pending_rows(
        self, clip: str, track: int, parts: Iterable[tuple[int, list[memoryview]]]
    ) -> int:
        """Journal rows, in place of what waited under the same clip and track; return their id."""
        self.drop_pending(clip, track)
        number = int(self.one("SELECT COALESCE(MAX(id), 0) + 1 FROM pending")[0])
        for part, (rows, pieces) in enumerate(parts):
            size = sum(piece.nbytes for piece in pieces)
            place = self.connection.execute(
                "INSERT INTO pending_rows VALUES (?, ?, ?, ZEROBLOB(?))", (number, part, rows, size)
            ).lastrowid
            # Of bytes given as a parameter the module and SQLite make three copies.
            with self.connection.blobopen("pending_rows", "data", place or 0) as blob:
                for piece in pieces:
                    blob.write(piece)
        return number

    def put_pending(
        self, number: int, record: ClipRecord, crops: tuple[ClipCrops, str] | None = None
    ) -> None:
        """Journal the record of rows that have this id.

        ``crops``: with their hash, in a store that holds crops.
        """
        self.connection.execute(
            "INSERT INTO pending VALUES (?, ?, ?, ?, ?)",
            (number, record.clip, int(record.track), int(record.frames), records.to_json(record)),
        )
        if crops is not None:
            crop_index.put_pending(self.connection, number, *crops)

    def drop_pending(self, clip: str, track: int | None = None) -> int:
        """Delete from the journal (one track, or all of a clip); return how many there were."""
        where, values = "clip = ?", [clip] if track is None else [clip, track]
        if track is not None:
            where += " AND track = ?"
        found = self.connection.execute(f"SELECT id FROM pending WHERE {where}", values).fetchall()
        for number in found:
            self.connection.execute("DELETE FROM pending_rows WHERE pending = ?", number)
            self.connection.execute("DELETE FROM pending WHERE id = ?", number)
        return len(found)

    def parts(self, number: int) -> Iterator[tuple[int, bytes]]:
        """Yield the journalled rows of one pending record as (rows, bytes)."""
        part = 0
        while True:
            row: tuple[int, bytes] | None = self.connection.execute(
                "SELECT rows, data FROM pending_rows WHERE pending = ? AND part = ?", (number, part)
            ).fetchone()
            if row is None:
                return
            yield row
            part += 1

    def clear_pending(self) -> None:
        """Empty the journal."""
        self.connection.execute("DELETE FROM pending_rows")
        self.connection.execute("DELETE FROM pending")

    def shrink(self) -> None:
        """Give the journal's pages back to the disk."""
        # executescript steps to the end; execute would free one page only.
        self.connection.executescript("PRAGMA incremental_vacuum")

    # -- compaction ----------------------------------------------------------------------------

    def set_moved(self, starts: Iterable[tuple[str, int, int]]) -> None:
        """Write the intent's new first rows: (clip, track, start)."""
        self.connection.execute("DELETE FROM moved")
        self.connection.executemany("INSERT INTO moved VALUES (?, ?, ?)", starts)

    def apply_moved(self) -> None:
        """Take the intent's first rows over into the clips."""
        self.connection.execute(
            "UPDATE clip SET start = (SELECT moved.start FROM moved "
            "WHERE moved.clip = clip.clip AND moved.track = clip.track) WHERE start IS NOT NULL"
        )
        self.connection.execute("DELETE FROM moved")

    def one(self, query: str) -> tuple[Any, ...]:
        """Return the first row of a query."""
        row: tuple[Any, ...] = self.connection.execute(query).fetchone()
        return row
