"""Is everything in a store as FORMAT.md says."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike

from store import crops as clip_crops
from store import layers
from store.arrays import Arrays
from store.errors import StoreFormatError
from store.index import Index
from store.index_checks import journal_problems, record_problems
from store.layout import Paths
from store.lock import writing
from store.meta import Meta
from store.opening import Place, locate, open_index, open_paths
from store.progress import Progress, unheard
from store.remote import RemotePaths
from store.scan import scan
from store.schema import ClipRecord

_TRIES = 3
_RANGE = "typeof(start) = 'integer' AND start >= 0 AND typeof(frames) = 'integer' AND frames > 0"


@dataclass
class VerifyReport:
    """What ``verify`` found.

    Attributes
    ----------
    clips, rows : int
        Distinct clips and committed rows.
    by_status : dict
        Records (one a track) by status.
    problems : list of str
        One line each; empty when the store is sound.
    notes : list of str
        What is worth knowing and no damage: a writer at work, clips in the journal, rows to cut.
    """

    clips: int = 0
    rows: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems


def verify(path: str | PathLike[str], progress: Progress = unheard) -> VerifyReport:
    """Test every invariant of a store, reading all of its rows in constant memory.

    ``progress`` is told of the rows.

    Raises
    ------
    StoreNotFoundError, StoreFormatError
        There is no store at ``path``, its index cannot be opened, or it is of a newer format.
    """
    paths = open_paths(path)
    index = open_index(paths)
    try:
        for _ in range(_TRIES):
            report, generation = _verify(paths, index, progress)
            if index.meta().generation == generation:
                return report
        report.notes.append("the store was compacted while it was read; verify it again")
        return report
    except sqlite3.DatabaseError as error:
        raise StoreFormatError(
            f"{paths.label}/index.sqlite: is damaged: {error}",
            "Restore it from a copy, or extract again.",
        ) from error
    finally:
        index.close()
        paths.release()


def _verify(
    paths: Paths | RemotePaths, index: Index, progress: Progress
) -> tuple[VerifyReport, int]:
    report = VerifyReport()
    (sound,) = index.one("PRAGMA quick_check(1)")
    if sound != "ok":
        report.problems.append(f"index.sqlite: {sound}")
    with index.snapshot():
        meta = index.meta()
        place = locate(paths, meta)
        (report.clips,) = index.one("SELECT COUNT(DISTINCT clip) FROM clip")
        report.by_status = dict(
            index.connection.execute(
                "SELECT CAST(status AS TEXT), COUNT(*) FROM clip GROUP BY 1"
            ).fetchall()
        )
        report.rows = meta.rows if place is None else place.rows
        report.problems += _coverage(index, meta)
        report.notes += _states(paths, index, meta)
        sessions = index.sessions()
        report.problems += filter(None, sessions.values())
    if place is None:
        report.problems.append(
            f"arrays.zarr is missing or not of generation {meta.generation}, as index.sqlite says"
        )
        return report, meta.generation
    for record in index.each():
        report.problems += record_problems(record, sessions.keys())
    report.problems += (f"clip {clip!r}: {text}" for clip, text in journal_problems(index))
    report.problems += _array_problems(paths, index, meta, place, report.notes, progress)
    return report, meta.generation


def _coverage(index: Index, meta: Meta) -> list[str]:
    """Hold the row ranges against each other and against the number of committed rows.

    What is no range at all is told with its record.
    """
    problems = [
        f"clip {clip!r}, track {track}: its rows overlap those of the clip before it"
        for clip, track in index.connection.execute(
            "SELECT clip, track FROM (SELECT clip, track, start, LAG(start + frames) OVER "
            f"(ORDER BY start, frames) AS previous FROM clip WHERE {_RANGE}) WHERE start < previous"
        ).fetchall()
    ]
    problems += [
        f"clip {clip!r}, track {track}: rows {start} to {start + frames} lie outside the "
        f"{meta.rows} committed rows"
        for clip, track, start, frames in index.connection.execute(
            f"SELECT clip, track, start, frames FROM clip WHERE {_RANGE} AND start + frames > ?",
            (meta.rows,),
        ).fetchall()
    ]
    (owned,) = index.one(f"SELECT COALESCE(SUM(frames), 0) FROM clip WHERE {_RANGE}")
    if owned + meta.unowned != meta.rows:
        problems.append(
            f"expected {meta.rows} rows, got {owned} owned by clips and {meta.unowned} left by "
            "replaced or removed ones"
        )
    return problems


def _states(paths: Paths | RemotePaths, index: Index, meta: Meta) -> list[str]:
    notes = []
    if who := writing(paths):
        notes.append(f"being written by {who}")
    (waiting, rows) = index.one("SELECT COUNT(*), COALESCE(SUM(frames), 0) FROM pending")
    if waiting:
        notes.append(f"{waiting} clips ({rows} rows) wait in the journal for the next flush")
    if meta.unowned:
        notes.append(f"{meta.unowned} rows of replaced or removed clips go when a writer closes")
    if meta.next_generation is not None:
        notes.append("a compaction was cut short; the next writer completes it")
    return notes


def _array_problems(
    paths: Paths | RemotePaths,
    index: Index,
    meta: Meta,
    place: Place,
    notes: list[str],
    progress: Progress,
) -> Iterator[str]:
    try:
        arrays = Arrays(place.folder, meta.feature_dtype, crop_size=meta.crop_size)
    except Exception as error:  # Zarr raises what it likes over damaged metadata
        yield f"arrays.zarr: cannot be opened: {' '.join(str(error).split())}"
        return
    long = arrays.crop_rows > place.crop_rows
    for name, length in arrays.lengths().items():
        if length < place.rows:
            yield f"{name}: expected {place.rows} rows, got {length}"
        long = long or length > place.rows
    if long and not writing(paths):
        notes.append("arrays hold rows past the last commit; the next writer cuts them")
    rows = 0
    sound = (r for r in index.each(moved=place.moved, by_start=True) if isinstance(r, ClipRecord))
    for seen in scan(arrays, sound, check=True):
        record = seen.record
        rows += record.frames
        progress(rows, place.rows)
        problems = list(seen.problems)
        if seen.sha256 and seen.valid_frames != record.valid_frames:
            problems.append(f"expected {record.valid_frames} valid frames, got {seen.valid_frames}")
        if seen.sha256 and seen.sha256 != record.rows_sha256:
            problems.append("the hash of its rows is not the one in the index")
        for text in problems:
            yield f"clip {record.clip!r}, track {record.track}: {text}"
    yield from layers.problems(paths, meta.generation, place.rows)
    if arrays.crop_spec is None:
        return
    if arrays.crop_rows < place.crop_rows:
        yield f"crop: expected {place.crop_rows} rows, got {arrays.crop_rows}"
    for clip, track, text in clip_crops.problems(index, arrays, place.crop_rows, moved=place.moved):
        yield f"clip {clip!r}, track {track}: {text}"
