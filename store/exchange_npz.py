"""npz: one file a clip, which `numpy.load` reads."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from store.arrays import AnyArray
from store.exchange import (
    ARRAYS,
    Clip,
    ExchangeError,
    Header,
    Source,
    Track,
    clip_of,
    file_name,
    one_or_many,
    record_from_json,
    record_to_json,
)
from store.mismatch import check_provenance, to_json
from store.schema import ClipRecord

SUFFIX = ".npz"
_KEY = re.compile(r"(?:track(\d+)/)?([a-z_]+)")


class NpzSink:
    """Writes a folder of npz files. Other tracks than 0 have ``trackK/`` before the names."""

    def __init__(self, path: Path, header: Header) -> None:
        self._folder = path
        self._header = header
        path.mkdir()

    def put(self, clip: str, tracks: list[tuple[ClipRecord, dict[str, AnyArray]]]) -> None:
        """Write one clip."""
        held: dict[str, Any] = {
            "provenance": to_json(self._header.provenance),
            "feature_dtype": self._header.feature_dtype,
        }
        for record, arrays in tracks:
            before = f"track{record.track}/" if record.track else ""
            held[f"{before}record"] = record_to_json(record)
            held.update({before + name: values for name, values in arrays.items()})
        path = self._folder / file_name(clip, SUFFIX)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **held)

    def close(self) -> None:
        """Nothing is left to do."""


def source(path: Path) -> Source:
    """Open an npz file, or a folder of them, for import.

    Raises
    ------
    ExchangeError
        There are none, or the first one cannot be read.
    """
    file, _ = next(one_or_many(path, SUFFIX))
    held = _load(file)
    told = _text(held.get("provenance"))
    wide = [held[n].dtype for n in ("embedding", "appearance") if n in held]
    dtype = _text(held.get("feature_dtype")) or (
        "float32" if wide and wide[0] != np.float16 else "float16"
    )
    return Source(
        lambda: _clips(path, told),
        lambda: sum(1 for _ in one_or_many(path, SUFFIX)),
        json.loads(told) if told else None,
        dtype,
    )


def _clips(path: Path, told: str | None) -> Iterator[Clip]:
    for file, name in one_or_many(path, SUFFIX):
        held = _load(file)
        theirs = _text(held.get("provenance"))
        if theirs != told:
            check_provenance(file, json.loads(theirs or "{}"), json.loads(told or "{}"))
        tracks: dict[int, dict[str, AnyArray]] = {}
        for key, values in held.items():
            match = _KEY.fullmatch(key)
            if match:
                tracks.setdefault(int(match[1] or 0), {})[match[2]] = values
        found = [t for k, arrays in sorted(tracks.items()) if (t := _track(k, arrays, str(file)))]
        if not found:
            raise ExchangeError(
                f"{file}: expected embedding (n,512) or landmark (n,136), "
                f"got {', '.join(sorted(held)) or 'nothing'}"
            )
        clip = next((t.record.clip for t in found if t.record), None) or clip_of(name, SUFFIX)
        yield Clip(clip, str(file), found)


def _track(number: int, held: dict[str, AnyArray], where: str) -> Track | None:
    arrays = {name: held[name] for name in ARRAYS if name in held}
    text = _text(held.get("record"))
    if text is None and not {"embedding", "landmark"} & arrays.keys():
        return None
    fps = float(held["fps"]) if "fps" in held and np.ndim(held["fps"]) == 0 else None
    return Track(number, arrays, None if text is None else record_from_json(text, where), fps)


def _load(file: Path) -> dict[str, AnyArray]:
    try:
        with np.load(file, allow_pickle=False) as held:  # pickles could run anything
            return {name: held[name] for name in held.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        text = " ".join(str(error).split())
        raise ExchangeError(
            f"{file}: expected an npz file of arrays, got another: {text}"
        ) from error


def _text(value: AnyArray | None) -> str | None:
    return None if value is None else str(value)
