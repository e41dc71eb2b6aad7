"""Aligned pictures of the faces of a clip: checked, hashed, and held against the index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from store import crop_index
from store.arrays import Arrays
from store.crop_index import CropRecord
from store.errors import StoreError, StoreFormatError
from store.index import Index
from store.records import BadRecord
from store.schema import ClipCrops, ClipRecord, ClipRows

Images = npt.NDArray[np.uint8]


def prepare(record: ClipRecord, rows: ClipRows, crop_size: int | None) -> ClipCrops | None:
    """Return the crops of a track as they are stored, or refuse them; None if there are none.

    Parameters
    ----------
    record : ClipRecord
        For the messages.
    rows : ClipRows
        With ``crops`` of frames that are valid.
    crop_size : int, optional
        Of the store: the side of its crops in pixels; None if it holds none.

    Raises
    ------
    StoreError
        Crops and store, or crops and rows, do not fit together.
    """
    crops, name = rows.crops, f"clip {record.clip!r}, crop"
    if crop_size is None:
        if crops is not None:
            raise StoreError(
                f"{name}: expected none, as in all of this store, got {len(crops.frames)}"
            )
        return None
    valid = np.flatnonzero(np.asarray(rows.valid))
    count = 0 if crops is None else len(crops.frames)
    if bool(len(valid)) != bool(count):
        raise StoreError(
            f"{name}: expected {'at least one' if len(valid) else 'none'} for a track with "
            f"{len(valid)} valid frames, got {count}"
        )
    if crops is None or not count:
        return None
    frames, images = np.asarray(crops.frames), np.asarray(crops.images)
    shape = (count, crop_size, crop_size, 3)
    if images.shape != shape or images.dtype != np.uint8:
        raise StoreError(f"{name}: expected {shape} uint8, got {images.shape} {images.dtype}")
    if not np.issubdtype(frames.dtype, np.integer) or (np.diff(frames) <= 0).any():
        raise StoreError(f"{name}: expected ascending frame numbers, got {frames.tolist()}")
    if not np.isin(frames, valid).all():
        raise StoreError(f"{name}: expected valid frames only, got {frames.tolist()}")
    return ClipCrops(frames.astype(np.int64), np.ascontiguousarray(images))


def crops_sha256(frames: Sequence[int] | npt.NDArray[np.integer], images: Images) -> str:
    """Return the sha256 of the crops of a track (FORMAT.md, section on hashes)."""
    shape = "x".join(map(str, images.shape))
    found = hashlib.sha256(f"crop uint8 {shape}\n".encode())
    found.update(np.asarray(frames, "<i8").tobytes())
    found.update(np.ascontiguousarray(images).data)
    return found.hexdigest()


def unpack(data: bytes, crop_size: int) -> Images:
    """Return the crops (k, S, S, 3) that wait in the journal as bytes."""
    return np.frombuffer(data, np.uint8).reshape(-1, crop_size, crop_size, 3)


def pending(index: Index, crop_size: int, rows: int) -> Iterator[tuple[CropRecord, Images]]:
    """Yield the journalled crops, clip by clip, with the rows that they get behind ``rows``."""
    for number, record in index.pending():
        found = crop_index.pending(index.connection, number)
        if found is not None:
            frames, sha256 = found
            data = crop_index.pending_data(index.connection, number)
            yield (
                CropRecord(record.clip, record.track, rows, frames, sha256),
                unpack(data, crop_size),
            )
            rows += len(frames)


def slabs(found: Iterator[tuple[CropRecord, Images]], size: int) -> Iterator[tuple[int, Images]]:
    """Put crops that follow each other together as (first row, crops), about ``size`` at a time.

    Ends on multiples of ``size`` where it can: the shard before such an end is written once.
    """
    first, held, count = 0, list[Images](), 0
    for record, images in found:
        if not held:
            first = record.start
        held.append(images)
        count += len(images)
        if (first + count) // size > first // size:
            yield first, np.concatenate(held)
            held, count = [], 0
    if held:
        yield first, np.concatenate(held)


def problems(
    index: Index, arrays: Arrays, rows: int, *, moved: bool = False
) -> Iterator[tuple[str, int, str]]:
    """Hold the crops against the index, reading them all; yield (clip, track, what is wrong).

    Parameters
    ----------
    index, arrays
        Of a store that holds crops.
    rows : int
        Its committed crops.
    moved : bool
        Whether the intent of a compaction holds the first rows.
    """
    for clip, track in index.connection.execute(
        "SELECT clip.clip, clip.track FROM clip LEFT JOIN crop ON crop.clip = clip.clip "
        "AND crop.track = clip.track WHERE clip.valid_frames > 0 AND crop.clip IS NULL"
    ).fetchall():
        yield clip, track, "crop: expected crops of its valid frames, got none"
    end = 0
    for found in crop_index.each(index.connection, moved=moved):
        if isinstance(found, BadRecord):
            yield found.clip, 0, found.problem
            continue
        text = _problem(index, arrays, found, rows, end, moved)
        if text:
            yield found.clip, found.track, f"crop: {text}"
        end = max(end, found.stop)


def _problem(
    index: Index, arrays: Arrays, found: CropRecord, rows: int, end: int, moved: bool
) -> str:
    try:
        record = index.clip(found.clip, found.track, moved=moved)
    except StoreFormatError:
        return ""  # told of the record already
    if record is None or record.start is None:
        return "belongs to no clip with rows"
    if found.start < end:
        return "its rows overlap those of the track before it"
    if found.stop > rows:
        return f"rows {found.start} to {found.stop} lie outside the {rows} committed ones"
    try:
        valid = arrays.read("valid", record.start, record.start + record.frames).astype(np.bool_)
    except Exception:
        return ""  # told of the rows already
    if not np.isin(found.frames, np.flatnonzero(valid)).all() or sorted(set(found.frames)) != list(
        found.frames
    ):
        return f"expected ascending valid frames, got {list(found.frames)}"
    try:
        sha256 = read_sha256(arrays, found)
    except Exception as error:  # codecs raise what they like over damaged bytes
        return f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
    return "" if sha256 == found.sha256 else "the hash of its crops is not the one in the index"


def read_sha256(arrays: Arrays, found: CropRecord) -> str:
    """Read the crops of a track and return their hash."""
    images = arrays.read("crop", found.start, found.stop).astype(np.uint8, copy=False)
    return crops_sha256(found.frames, images)
