"""Taking damaged clips out of a store, so that the next extraction makes them again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import PathLike

from store import compact as compaction
from store import crop_index, durable, records
from store import crops as clip_crops
from store import rows as clip_rows
from store.arrays import Arrays
from store.care import locked, vacuum
from store.clip_id import check_clip_id
from store.errors import ClipIdError, StoreError, StoreFormatError
from store.index import Index
from store.layout import Paths
from store.opening import locate
from store.scan import scan
from store.schema import ClipRecord, Status, array_specs

_RESTORE = "Restore it from a copy, or extract into a new store."


@dataclass
class RepairReport:
    """What ``repair`` did.

    Attributes
    ----------
    clips : dict
        Clip id -> what was wrong, for each clip that was damaged. It has no rows any more; its
        record is one of status ``failed`` that the next extraction takes for another file, so that
        it extracts the clip again.
    dropped : dict
        As ``clips``, for records whose id no file can have; they are gone from the index.
    cut_rows : int
        Rows that no clip owned: of flushes that were not committed, of replaced and damaged clips.
    """

    clips: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    cut_rows: int = 0

    @property
    def changed(self) -> bool:
        """Whether there was anything to do."""
        return bool(self.clips or self.dropped or self.cut_rows)


def repair(path: str | PathLike[str]) -> RepairReport:
    """Cut uncommitted rows and take out the clips whose rows or record are damaged.

    Nothing is guessed: a clip stays as it is if each of its tracks hashes to what the index says
    and breaks no invariant; otherwise all of its rows go. Changes are committed at once: a kill
    leaves the store as it was, or repaired once the next writer has opened it.

    Raises
    ------
    StoreNotFoundError, StoreLockedError
        There is no store, or another process writes it.
    StoreFormatError
        The index itself is damaged, or the arrays are missing or cannot be opened at all: nothing
        is left to tell good rows from bad ones.
    StoreWriteError
        The disk is full; the store is as it was.
    """
    report = RepairReport()
    with locked(path) as (paths, index):
        try:
            _repair(paths, index, report)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise StoreFormatError(f"{paths.index}: is damaged: {error}", _RESTORE) from error
    return report


def _repair(paths: Paths, index: Index, report: RepairReport) -> None:
    (sound,) = index.one("PRAGMA quick_check(1)")
    if sound != "ok":
        raise StoreFormatError(f"{paths.index}: is damaged: {sound}", _RESTORE)
    arrays = _open(paths, index)
    session = _session(paths, index)
    if session is None:
        return  # nothing was ever appended
    with index.transaction():
        unreadable = _drop_unreadable(index)
    bad = dict(_bad_records(index)) | dict(_bad_pending(index))
    for seen in scan(arrays, _readable(index, arrays, bad), check=True):
        problems = list(seen.problems)
        if seen.sha256 and seen.sha256 != seen.record.rows_sha256:
            problems.append("the hash of its rows is not the one in the index")
        if seen.sha256 and seen.valid_frames != seen.record.valid_frames:
            problems.append(
                f"expected {seen.record.valid_frames} valid frames, got {seen.valid_frames}"
            )
        if problems:
            bad.setdefault(seen.record.clip, problems[0])
    crops, owned_crops = index.meta().crop_rows, 0
    if arrays.crop_spec is not None:
        crops = max(crops, arrays.crop_rows)
        (owned_crops,) = index.one("SELECT COALESCE(SUM(crops), 0) FROM crop")
        for clip, _, problem in clip_crops.problems(index, arrays, arrays.crop_rows):
            bad.setdefault(clip, problem)
    bad |= unreadable
    instead = []
    for clip, problem in bad.items():
        try:
            check_clip_id(clip)
        except ClipIdError:
            report.dropped[clip] = problem
            continue
        report.clips[clip] = problem
        instead.append(_failed(clip, problem, session))
    stored = max(*arrays.lengths().values(), index.meta().rows)
    (owned,) = index.one("SELECT COALESCE(SUM(frames), 0) FROM clip WHERE start IS NOT NULL")
    if bad or stored != owned or crops != owned_crops or len(set(arrays.lengths().values())) > 1:
        compaction.compact(paths, index, arrays, arrays.layout, without=bad, instead=instead)
        vacuum(index)
    report.cut_rows = max(0, stored - index.meta().rows)


def _open(paths: Paths, index: Index) -> Arrays:
    """Complete a compaction and delete what was half written; return the arrays, read-only."""
    compaction.finish(paths, index)
    durable.remove_partials(paths.root)
    meta = index.meta()
    if locate(paths, meta) is None:
        raise StoreFormatError(
            f"{paths.arrays}: expected arrays of generation {meta.generation}, got none", _RESTORE
        )
    try:
        return Arrays(paths.arrays, meta.feature_dtype, crop_size=meta.crop_size)
    except Exception as error:  # Zarr raises what it likes over damaged metadata
        text = " ".join(str(error).split())
        raise StoreFormatError(f"{paths.arrays}: cannot be opened: {text}", _RESTORE) from error


def _session(paths: Paths, index: Index) -> int | None:
    """Return a session for the records that repair puts in; None if nothing was ever written."""
    row = index.connection.execute("SELECT id FROM session ORDER BY id DESC LIMIT 1").fetchone()
    if row is not None:
        return int(row[0])
    if index.count() or index.pending_rows():
        raise StoreFormatError(
            f"{paths.index}: expected a session that says with which pack the clips were "
            "extracted, got none",
            _RESTORE,
        )
    return None


def _drop_unreadable(index: Index) -> dict[str, str]:
    """Delete the records that cannot be read as such; return what is wrong by clip."""
    found: dict[str, str] = {}
    columns = ", ".join(records.COLUMNS)
    for row in index.connection.execute(f"SELECT {columns} FROM clip"):
        try:
            records.from_columns(row)
        except StoreError as error:
            found[str(row[0])] = str(error)
    for clip in found:
        index.drop_clip(clip)
    return found


def _bad_records(index: Index) -> Iterator[tuple[str, str]]:
    sessions = {n for (n,) in index.connection.execute("SELECT id FROM session").fetchall()}
    starts: set[int] = set()
    for record in index.clips():
        try:
            check_clip_id(record.clip)
        except ClipIdError as error:
            yield record.clip, str(error)
        wrong = clip_rows.status_violation(record)
        if wrong:
            yield record.clip, wrong
        elif record.status.has_rows != (record.start is not None) or (record.start or 0) < 0:
            yield record.clip, f"status {record.status} with first row {record.start}"
        elif record.session not in sessions:
            yield record.clip, f"session {record.session} is not in the index"
        elif record.start is not None and record.start in starts:
            yield record.clip, "another clip begins at its first row"
        if record.start is not None:
            starts.add(record.start)


def _bad_pending(index: Index) -> Iterator[tuple[str, str]]:
    """Yield the journalled clips that could not be flushed."""
    specs = array_specs(index.meta().feature_dtype)
    for number, clip, text in index.connection.execute(
        "SELECT id, clip, record FROM pending ORDER BY id"
    ).fetchall():
        try:
            record = records.from_json(text)
            parts = [clip_rows.unpack(n, data, specs) for n, data in index.parts(number)]
            hasher = clip_rows.RowsHasher(record.frames)
            for spec in specs:
                hasher.begin(spec)
                for part in parts:
                    hasher.update(spec, part[spec.name])
        except (ValueError, TypeError, KeyError) as error:
            yield clip, f"its rows in the journal cannot be read: {error}"
            continue
        if hasher.hexdigest() != record.rows_sha256:
            yield clip, "the hash of its rows in the journal is not the one of its record"
    crop_size = index.meta().crop_size
    for number, record in index.pending() if crop_size is not None else ():
        found = crop_index.pending(index.connection, number)
        try:
            images = clip_crops.unpack(
                crop_index.pending_data(index.connection, number), crop_size or 0
            )
        except ValueError as error:
            yield record.clip, f"its crops in the journal cannot be read: {error}"
            continue
        frames, sha256 = found or ((), "")
        if bool(record.valid_frames) != bool(frames):
            yield record.clip, "its crops are missing in the journal"
        elif frames and clip_crops.crops_sha256(frames, images) != sha256:
            yield record.clip, "the hash of its crops in the journal is not the one of its record"


def _readable(index: Index, arrays: Arrays, bad: dict[str, str]) -> Iterator[ClipRecord]:
    """Yield the records to scan; put those whose rows cannot be there among the bad ones."""
    end = min(arrays.lengths().values())
    for record in index.clips_by_start():
        if record.clip in bad:
            continue
        stop = (record.start or 0) + record.frames
        if stop > end:
            bad[record.clip] = f"rows {record.start} to {stop} lie outside the {end} in the arrays"
        else:
            yield record


def _failed(clip: str, problem: str, session: int) -> ClipRecord:
    # Without size and hash of the file, so that extraction takes it for another one and not for a
    # clip that failed before and would fail again.
    return ClipRecord(
        clip,
        Status.FAILED,
        message=f"its rows were damaged and are to be extracted again: {problem}",
        session=session,
        details={"repaired": datetime.now(UTC).isoformat(" ", "seconds")},
    )
