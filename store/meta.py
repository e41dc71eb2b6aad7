"""The tables `meta` and `session` of index.sqlite, as they are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from store.errors import StoreFormatError

RESTORE = "Restore index.sqlite from a copy, or extract again."


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


def session_problem(number: Any, provenance: Any) -> str:
    """Say what is wrong with a row of the table ``session``; empty if nothing."""
    try:
        sound = isinstance(json.loads(provenance), dict)
    except (TypeError, ValueError):
        sound = False
    if sound:
        return ""
    return f"index.sqlite: session {number}, provenance: expected a JSON object, got {provenance!r}"


def parsed(raw: dict[str, str]) -> Meta:
    """Return what the table says.

    Raises
    ------
    StoreFormatError
        A key is missing, or its value is no number where it must be one.
    """

    def number(key: str, least: int | None = 0) -> int | None:
        try:
            value = int(raw[key]) if key in raw else None
        except (TypeError, ValueError):
            value = None
        if key in raw and (value is None or (least is not None and value < least)):
            raise StoreFormatError(
                f"index.sqlite: meta.{key}: expected a whole number"
                f"{'' if least is None else f' of {least} or more'}, got {raw[key]!r}",
                RESTORE,
            )
        return value

    def needed(key: str, least: int | None = 0) -> int:
        value = number(key, least)
        if value is None:
            raise StoreFormatError(f"index.sqlite: meta.{key} is missing", RESTORE)
        return value

    crop_size, upcoming = number("crop_size", 1), number("next_generation")
    return Meta(
        format_version=needed("format_version"),
        feature_dtype=raw["feature_dtype"],
        created=raw.get("created", ""),
        rows=needed("rows"),
        unowned=needed("unowned", None),  # a sum that repair makes anew
        generation=needed("generation"),
        next_generation=upcoming,
        next_rows=number("next_rows") if upcoming is None else needed("next_rows"),
        crop_size=crop_size,
        crop_rows=0 if crop_size is None else needed("crop_rows"),
        next_crop_rows=(
            number("next_crop_rows")
            if upcoming is None or crop_size is None
            else needed("next_crop_rows")
        ),
    )
