"""What is wrong with the records of an index, one at a time: for `verify` and for `repair`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from store import crop_index, records
from store import crops as clip_crops
from store import rows as clip_rows
from store.clip_id import check_clip_id
from store.errors import ClipIdError
from store.index import Index
from store.records import BadRecord
from store.schema import ClipRecord, array_specs


def record_problems(record: ClipRecord | BadRecord, sessions: Collection[int]) -> list[str]:
    """Return what is wrong with a record as such, a line each.

    Parameters
    ----------
    record : ClipRecord or BadRecord
        From the table `clip`.
    sessions : collection of int
        Ids of those that are in the index.
    """
    if isinstance(record, BadRecord):
        return [record.problem]
    name = f"clip {record.clip!r}, track {record.track}"
    problems = []
    try:
        check_clip_id(record.clip)
    except ClipIdError as error:
        problems.append(str(error))
    wrong = clip_rows.status_violation(record)
    if wrong:
        problems.append(f"{name}: {wrong}")
    if record.status.has_rows != (record.start is not None):
        problems.append(f"{name}: status {record.status} with first row {record.start}")
    if record.session not in sessions:
        problems.append(f"{name}: session {record.session} is not in the index")
    return problems


def journal_problems(index: Index) -> Iterator[tuple[Any, str]]:
    """Yield (clip, what is wrong) of the journalled clips that could not be flushed."""
    specs = array_specs(index.meta().feature_dtype)
    for number, clip, track, text in index.connection.execute(
        "SELECT id, clip, track, record FROM pending ORDER BY id"
    ).fetchall():
        try:
            record = records.from_json(text)
            if (record.clip, record.track) != (clip, track):
                yield clip, f"its record in the journal is one of clip {record.clip!r}"
                continue
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
        wrong = _crop_problem(index, number, record)
        if wrong:
            yield clip, wrong


def _crop_problem(index: Index, number: int, record: ClipRecord) -> str:
    crop_size = index.meta().crop_size
    if crop_size is None:
        return ""
    try:
        frames, sha256 = crop_index.pending(index.connection, number) or ((), "")
        images = clip_crops.unpack(crop_index.pending_data(index.connection, number), crop_size)
    except (ValueError, TypeError) as error:
        return f"its crops in the journal cannot be read: {error}"
    if bool(record.valid_frames) != bool(frames):
        return "its crops are missing in the journal"
    if frames and clip_crops.crops_sha256(frames, images) != sha256:
        return "the hash of its crops in the journal is not the one of its record"
    return ""
