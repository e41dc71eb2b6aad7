"""A ClipRecord as columns of SQLite, and as JSON in the journal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from store.errors import StoreError, StoreFormatError
from store.schema import ClipRecord, Status

COLUMNS = tuple(f.name for f in fields(ClipRecord))
_INTEGERS = {
    "track", "frames", "valid_frames", "claimed_frames", "width", "height", "rotation",
    "size_bytes", "mtime_ns", "start", "session",
}  # fmt: skip
NULLABLE_INTEGERS = ("claimed_frames", "width", "height", "start")
_REALS = {"fps", "duration_s"}


def to_columns(record: ClipRecord) -> list[int | float | str | None]:
    """Return the values of ``COLUMNS`` as SQLite takes them; NumPy's scalars become plain ones.

    Raises
    ------
    StoreError
        A field holds what cannot be written; names clip and field.
    """
    return [_plain(record, name) for name in COLUMNS]


def from_columns(row: Sequence[Any]) -> ClipRecord:
    """Return the record whose ``COLUMNS`` are the values of ``row``.

    Raises
    ------
    StoreFormatError
        Its status is unknown or its details are no JSON; names the clip.
    """
    values = dict(zip(COLUMNS, row, strict=True))
    try:
        values["status"] = Status(values["status"])
        values["details"] = json.loads(values["details"]) if values["details"] != "{}" else {}
    except (TypeError, ValueError) as error:
        raise StoreFormatError(f"index.sqlite: clip {values['clip']!r}: {error}") from error
    return ClipRecord(**values)


def to_json(record: ClipRecord) -> str:
    """Return the record as a JSON array of its columns."""
    return json.dumps(to_columns(record), ensure_ascii=False)


def from_json(text: str) -> ClipRecord:
    """Return the record that ``to_json`` wrote."""
    return from_columns(json.loads(text))


def _plain(record: ClipRecord, name: str) -> int | float | str | None:
    value = getattr(record, name)
    try:
        if name == "details":
            return json.dumps(value, sort_keys=True, ensure_ascii=False, default=_number)
        if value is None:
            return None
        if name in _INTEGERS:
            return int(value)
        return float(value) if name in _REALS else str(value)
    except (TypeError, ValueError) as error:
        raise StoreError(f"clip {record.clip!r}, record.{name}: {error}") from error


def _number(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")
