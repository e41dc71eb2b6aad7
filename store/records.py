"""A ClipRecord as columns of SQLite, and as JSON in the journal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
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
_NULLABLE = {*NULLABLE_INTEGERS, *_REALS, "session"}  # a session comes with the journal
_INTEGER, _REAL = (int,), (int, float)
REPAIR = "`pipeline store verify --repair STORE` marks the clip for re-extraction."


@dataclass(frozen=True)
class BadRecord:
    """A row of the index that is no record; ``clip`` is what stands there, text or not."""

    clip: Any
    problem: str


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
        A value is of another type than FORMAT.md says, or out of range; names clip and column.
    """
    if len(row) != len(COLUMNS):
        raise StoreFormatError(f"index.sqlite: a record of {len(row)} values, not {len(COLUMNS)}")
    values = dict(zip(COLUMNS, row, strict=True))
    wrong = _wrong_type(tuple(map(type, row))) or _out_of_range(values)
    if wrong:
        raise StoreFormatError(
            f"index.sqlite: clip {values['clip']!r}, {wrong}: expected {_expected(wrong)}, "
            f"got {values[wrong]!r}",
            REPAIR,
        )
    try:
        values["status"] = Status(values["status"])
        details = values["details"]
        values["details"] = json.loads(details) if details != "{}" else {}
    except ValueError as error:
        raise StoreFormatError(f"index.sqlite: clip {values['clip']!r}: {error}", REPAIR) from error
    if not isinstance(values["details"], dict):
        raise StoreFormatError(
            f"index.sqlite: clip {values['clip']!r}, details: expected a JSON object, "
            f"got {details}",
            REPAIR,
        )
    return ClipRecord(**values)


def read(row: Sequence[Any]) -> ClipRecord | BadRecord:
    """Return the record as `from_columns`, or what is wrong with it."""
    try:
        return from_columns(row)
    except StoreFormatError as error:
        return BadRecord(row[0], str(error))


@lru_cache
def _wrong_type(kinds: tuple[type, ...]) -> str:
    """Return the first column of which a value is of another type; there are few kinds of rows."""
    for name, kind in zip(COLUMNS, kinds, strict=True):
        if name in _NULLABLE and kind is type(None):
            continue
        if kind not in (
            (int,) if name in _INTEGERS else (int, float) if name in _REALS else (str,)
        ):
            return name
    return ""


def _out_of_range(values: dict[str, Any]) -> str:
    if values["track"] < 0:
        return "track"
    if values["frames"] < 0:
        return "frames"
    if not 0 <= values["valid_frames"] <= values["frames"]:
        return "valid_frames"
    return "start" if (values["start"] or 0) < 0 else ""


def _expected(name: str) -> str:
    if name == "valid_frames":
        return "an integer from 0 to frames"
    if name in ("track", "frames", "start"):
        return "an integer of 0 or more"
    return "an integer" if name in _INTEGERS else "a number" if name in _REALS else "text"


def to_json(record: ClipRecord) -> str:
    """Return the record as a JSON array of its columns."""
    return json.dumps(to_columns(record), ensure_ascii=False)


def from_json(text: str) -> ClipRecord:
    """Return the record that ``to_json`` wrote.

    Raises
    ------
    StoreFormatError
        It is no such record.
    """
    try:
        values = json.loads(text)
    except (TypeError, ValueError) as error:
        raise StoreFormatError(f"index.sqlite: a record in the journal: {error}", REPAIR) from error
    if not isinstance(values, list):
        raise StoreFormatError(f"index.sqlite: a record in the journal: {text!r}", REPAIR)
    return from_columns(values)


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
