"""Taking damaged clips out of a store, so that the next extraction makes them again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import PathLike
from typing import Any

from store import compact as compaction
from store import crops as clip_crops
from store import durable
from store.arrays import Arrays
from store.care import locked, vacuum
from store.clip_id import check_clip_id
from store.errors import ClipIdError, StoreFormatError
from store.index import Index
from store.index_checks import journal_problems, record_problems
from store.layout import Paths
from store.opening import locate
from store.records import BadRecord
from store.scan import scan
from store.schema import ClipRecord, Status

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
    recounted : bool
        Whether the index said a wrong number of rows that no clip owns.
    """

    clips: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    cut_rows: int = 0
    recounted: bool = False

    @property
    def changed(self) -> bool:
        """Whether there was anything to do."""
        return bool(self.clips or self.dropped or self.cut_rows or self.recounted)


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
    bad = _bad_records(index)
    for clip, problem in journal_problems(index):
        bad.setdefault(clip, problem)
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
    instead = []
    for clip, problem in bad.items():
        if not _is_id(clip):
            report.dropped[str(clip)] = problem
            continue
        report.clips[clip] = problem
        instead.append(_failed(clip, problem, session))
    stored = max(*arrays.lengths().values(), index.meta().rows)
    (owned,) = index.one("SELECT COALESCE(SUM(frames), 0) FROM clip WHERE start IS NOT NULL")
    wrong_sum = owned + index.meta().unowned != index.meta().rows
    unlike = len(set(arrays.lengths().values())) > 1
    if bad or wrong_sum or stored != owned or crops != owned_crops or unlike:
        report.recounted = wrong_sum and not bad
        compaction.compact(paths, index, arrays, arrays.layout, without=bad, instead=instead)
        vacuum(index)
    report.cut_rows = max(0, stored - index.meta().rows)


def _open(paths: Paths, index: Index) -> Arrays:
    """Complete a compaction and delete what was half written; return the arrays, read-only."""
    compaction.finish(paths, index)
    durable.remove_partials(paths.root)
    index.drop_early()
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
    for wrong in filter(None, index.sessions().values()):
        raise StoreFormatError(f"{paths.root}: {wrong}", _RESTORE)
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


def _bad_records(index: Index) -> dict[Any, str]:
    """Return what is wrong by clip: by what stands in the place of its id, text or not."""
    sessions = index.sessions().keys()
    bad: dict[Any, str] = {}
    starts: set[int] = set()
    for record in index.each():
        problems = record_problems(record, sessions)
        if isinstance(record, ClipRecord) and record.start is not None:
            if record.start in starts:
                problems.append("another clip begins at its first row")
            starts.add(record.start)
        if problems:
            bad.setdefault(record.clip, problems[0])
    return bad


def _is_id(clip: Any) -> bool:
    try:
        check_clip_id(clip)
    except (ClipIdError, TypeError):
        return False
    return True


def _readable(index: Index, arrays: Arrays, bad: dict[Any, str]) -> Iterator[ClipRecord]:
    """Yield the records to scan; put those whose rows cannot be there among the bad ones."""
    end = min(arrays.lengths().values())
    for record in index.each(by_start=True):
        if isinstance(record, BadRecord) or record.clip in bad:
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
