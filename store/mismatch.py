"""One pack and one set of extraction settings per store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from store.errors import StoreMismatchError


def check_provenance(path: Path | str, held: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse to mix packs or settings: their features cannot be compared.

    Parameters
    ----------
    path : Path
        The store, for the message.
    held, given : dict
        Provenance of its first session and of the run that wants to write.

    Raises
    ------
    StoreMismatchError
        Names both packs, or each setting with both values.
    """
    ours, theirs = _pack(held), _pack(given)
    if ours.get("fingerprint") != theirs.get("fingerprint"):
        raise StoreMismatchError(
            f"{path}: holds features of pack {_name(ours)}, this run uses pack {_name(theirs)}",
            f"Extract with --pack {ours.get('name')}, or write to another store "
            "(--store OTHER.store).",
        )
    old, new = held.get("recipe") or {}, plain(given).get("recipe") or {}
    keys = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
    if keys:
        was = ", ".join(f"{k}={old.get(k)}" for k in keys)
        now = ", ".join(f"{k}={new.get(k)}" for k in keys)
        raise StoreMismatchError(
            f"{path}: was extracted with {was}; this run asks for {now}",
            "Use the same settings, or write to another store (--store OTHER.store).",
        )


def plain(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return provenance as it reads back from JSON."""
    read: dict[str, Any] = json.loads(to_json(provenance))
    return read


def to_json(provenance: dict[str, Any]) -> str:
    """Return provenance as text; paths and the like as their names."""
    return json.dumps(provenance, sort_keys=True, ensure_ascii=False, default=str)


def _pack(provenance: dict[str, Any]) -> dict[str, Any]:
    found = provenance.get("pack")
    return found if isinstance(found, dict) else {}


def _name(pack: dict[str, Any]) -> str:
    mark = str(pack.get("fingerprint") or "none")[:12]
    return f"{pack.get('name', 'unnamed')!r} ({mark})"
