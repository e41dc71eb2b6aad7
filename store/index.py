"""index.sqlite: which rows are whose, and the journal of clips that wait for their flush.

A rollback journal and not WAL, so that a store at rest is one file that opens on read-only media.
Readers fetch in pages and hold no lock between them: a cursor left open would block the writer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from store import crop_index, records
from store.errors import StoreFormatError
from store.index_schema import SCHEMA
from store.meta import RESTORE, Meta, parsed, session_problem
from store.records import BadRecord
from store.schema import FORMAT_VERSION, ClipCrops, ClipRecord
from store.select import Choice, select

BUSY_S = 60.0

_PRAGMAS = (
    "page_size=16384",  # this and the next count before the first table only
    "auto_vacuum=INCREMENTAL",
    "journal_mode=DELETE",
    "synchronous=FULL",
    "cache_size=-8192",
    # A transaction larger than the cache would else spill into the file, and shut readers out from
    # then until its end. So its pages stay in memory: a part of a clip, or the index's own size.
    "cache_spill=OFF",
    # Debian's SQLite zeroes every freed page, which would write the journal to the disk once more.
    # FAST still zeroes where a page is written anyway, as those of the table clip are.
    "secure_delete=FAST",
)


Part = tuple[int, list[memoryview]]  # rows, and their bytes in pieces


class EarlyRows(NamedTuple):
    """Rows in the journal that await their record: under which number, and what is left of them."""

    number: int
    part: int
    last: Part


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
            for statement in SCHEMA.split(";"):
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
        """Return the table ``meta``.

        Raises
        ------
        StoreFormatError
            A key is missing, or its value is no number where it must be one.
        """
        return parsed(self.raw_meta())

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
        """Return the JSON of the first session, None before there is one.

        Raises
        ------
        StoreFormatError
            It is no JSON object.
        """
        row = self.connection.execute(
            "SELECT id, provenance FROM session ORDER BY id LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        wrong = session_problem(*row)
        if wrong:
            raise StoreFormatError(wrong, RESTORE)
        return str(row[1])

    def sessions(self) -> dict[int, str]:
        """Return what is wrong with each session by its id; an empty text for nothing."""
        rows = self.connection.execute("SELECT id, provenance FROM session").fetchall()
        return {number: session_problem(number, text) for number, text in rows}

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

    def each(
        self, *, moved: bool = False, by_start: bool = False
    ) -> Iterator[ClipRecord | BadRecord]:
        """Yield committed records as `clips` or `clips_by_start`, also those that are damaged."""
        yield from map(
            records.read,
            select(self.connection, records.COLUMNS, Choice(), moved=moved, by_start=by_start),
        )

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

    def put_early(self, parts: Iterator[Part]) -> EarlyRows:
        """Journal all of a track's rows but the last part, each part in a transaction of its own.

        So that no transaction is as large as a long clip: it would be held in memory, and readers
        wait while it is written. Rows whose record is not there yet, or never comes, count for
        nothing.
        """
        (number,) = self.one(
            "SELECT MAX((SELECT COALESCE(MAX(id), 0) FROM pending), "
            "(SELECT COALESCE(MAX(pending), 0) FROM pending_rows)) + 1"
        )
        part, last = 0, next(parts)
        for following in parts:
            with self.transaction():
                self._put_part(number, part, last)
            part, last = part + 1, following
        return EarlyRows(number, part, last)

    def _put_part(self, number: int, part: int, data: Part) -> None:
        rows, pieces = data
        size = sum(piece.nbytes for piece in pieces)
        place = self.connection.execute(
            "INSERT INTO pending_rows VALUES (?, ?, ?, ZEROBLOB(?))", (number, part, rows, size)
        ).lastrowid
        # Of bytes given as a parameter the module and SQLite make three copies.
        with self.connection.blobopen("pending_rows", "data", place or 0) as blob:
            for piece in pieces:
                blob.write(piece)

    def put_last(self, clip: str, track: int, rows: EarlyRows) -> None:
        """Journal the last part, in place of what waited under the same clip and track."""
        self.drop_pending(clip, track)
        self._put_part(rows.number, rows.part, rows.last)

    def put_pending(
        self, number: int, record: ClipRecord, crops: tuple[ClipCrops, str] | None = None
    ) -> None:
        """Journal the record of rows that have this id, in one transaction with their last part.

        ``crops``: with their hash, in a store that holds crops.
        """
        self.connection.execute(
            "INSERT INTO pending (id, clip, track, frames, record) VALUES (?, ?, ?, ?, ?)",
            (number, record.clip, int(record.track), int(record.frames), records.to_json(record)),
        )
        if crops is not None:
            crop_index.put_pending(self.connection, number, *crops)

    def drop_early(self) -> None:
        """Delete journalled rows whose record never came: their writer was stopped."""
        stray = "FROM pending_rows WHERE pending NOT IN (SELECT id FROM pending)"
        if self.connection.execute(f"SELECT 1 {stray} LIMIT 1").fetchone():
            with self.transaction():
                self.connection.execute(f"DELETE {stray}")

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
            "UPDATE clip SET start = moved.start FROM moved "
            "WHERE moved.clip = clip.clip AND moved.track = clip.track"
        )
        self.connection.execute("DELETE FROM moved")

    def one(self, query: str) -> tuple[Any, ...]:
        """Return the first row of a query."""
        row: tuple[Any, ...] = self.connection.execute(query).fetchone()
        return row
