"""One pass over the stored rows of every clip, in constant memory."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from store import rows as clip_rows
from store.arrays import Arrays
from store.schema import ArraySpec, ClipRecord

BLOCK_ROWS = 16_384


@dataclass
class Seen:
    """What the arrays hold for one record: the hash of its rows, and what is wrong with them."""

    record: ClipRecord
    sha256: str = ""
    valid_frames: int = 0
    problems: list[str] = field(default_factory=list)


class UnreadableError(RuntimeError):
    """Zarr or a codec failed on some rows."""


def scan(
    arrays: Arrays,
    records: Iterable[ClipRecord],
    *,
    check: bool,
    names: Container[str] | None = None,
) -> Iterator[Seen]:
    """Yield one ``Seen`` for each record that owns rows.

    Parameters
    ----------
    arrays : Arrays
        Opened for reading.
    records : iterable of ClipRecord
        Ordered by their first row. Those of no rows are passed over.
    check : bool
        Whether to test the invariants of the rows too, and not only hash them. Rows that cannot be
        read are a problem of their clips either way.
    names : container of str, optional
        The arrays that are read and hashed; all when not given.
    """
    specs = [s for s in arrays.specs.values() if names is None or s.name in names]
    for group in _groups(records):
        try:
            yield from _scan_group(arrays, specs, group, check)
        except UnreadableError:
            for record in group:  # clip by clip, to say which
                try:
                    yield from _scan_group(arrays, specs, [record], check)
                except UnreadableError as error:
                    yield Seen(record, problems=[str(error)])


def _groups(records: Iterable[ClipRecord]) -> Iterator[list[ClipRecord]]:
    """Put neighbours together until they fill a block."""
    group: list[ClipRecord] = []
    count = 0
    for record in records:
        if not record.frames:
            continue
        joined = group and _stop(group[-1]) == record.start
        if group and (not joined or count + record.frames > BLOCK_ROWS):
            yield group
            group, count = [], 0
        group.append(record)
        count += record.frames
    if group:
        yield group


def _scan_group(
    arrays: Arrays, specs: Iterable[ArraySpec], group: list[ClipRecord], check: bool
) -> list[Seen]:
    first, stop = _start(group[0]), _stop(group[-1])
    valid = _read(arrays, "valid", first, stop).astype(np.bool_)
    seen = [Seen(record) for record in group]
    hashers = [clip_rows.RowsHasher(record.frames) for record in group]
    last = [-np.inf for _ in group]  # the timestamp before the block, clip by clip
    for spec in specs:
        for hasher in hashers:
            hasher.begin(spec)
        for a in range(first, stop, BLOCK_ROWS):
            b = min(a + BLOCK_ROWS, stop)
            values = _read(arrays, spec.name, a, b)
            for i, record in enumerate(group):
                lo, hi = max(_start(record), a), min(_stop(record), b)
                if lo >= hi:
                    continue
                part = values[lo - a : hi - a]
                hashers[i].update(spec, part)
                if check:
                    faces = valid[lo - first : hi - first]
                    if spec.name in clip_rows.absent(record):
                        faces = np.zeros_like(faces)
                    seen[i].problems += _problems(spec, part, faces, record, lo, last[i])
                if spec.name == "timestamp":
                    last[i] = float(part[-1])
    for i, record in enumerate(group):
        seen[i].sha256 = hashers[i].hexdigest()
        faces = valid[_start(record) - first : _stop(record) - first]
        seen[i].valid_frames = int(faces.sum())
    return seen


def _problems(
    spec: ArraySpec,
    part: clip_rows.AnyArray,
    faces: np.ndarray[tuple[int], np.dtype[np.bool_]],
    record: ClipRecord,
    row: int,
    after: float,
) -> list[str]:
    found = clip_rows.violations(
        spec,
        part,
        faces,
        size=clip_rows.frame_size(record),
        first=row - _start(record),
        after=after,
    )
    return [f"{spec.name}: {text}" for text in found]


def _read(arrays: Arrays, name: str, start: int, stop: int) -> clip_rows.AnyArray:
    try:
        return arrays.read(name, start, stop)
    except Exception as error:  # codecs raise what they like over damaged bytes
        text = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableError(f"{name}: cannot be read: {text}") from error


def _start(record: ClipRecord) -> int:
    return record.start or 0


def _stop(record: ClipRecord) -> int:
    return _start(record) + record.frames
