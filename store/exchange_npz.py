"""npz: one file a clip, which `numpy.load` reads."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from store.arrays import AnyArray
from store.exchange import (
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
from store.exchange_foreign import (
    EXPECTED,
    FEATURES,
    TELLING,
    arrays_in,
    check_fps,
    provenance_from,
)
from store.mismatch import check_provenance, to_json
from store.schema import ClipRecord

_T = TypeVar("_T")
SUFFIX = ".npz"
_KEY = re.compile(r"(?:track(\d+)/)?(.+)", re.DOTALL)
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


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
    told = provenance_from(_text(held.get("provenance")), str(file))
    return Source(
        lambda: _clips(path, told),
        lambda: sum(1 for _ in one_or_many(path, SUFFIX)),
        told,
        _text(held.get("feature_dtype")) or _first_dtype(path),
    )


def _clips(path: Path, told: dict[str, Any] | None) -> Iterator[Clip]:
    for file, name in one_or_many(path, SUFFIX):
        held = _load(file)
        theirs = provenance_from(_text(held.get("provenance")), str(file))
        if theirs != told:
            check_provenance(file, theirs or {}, told or {})
        tracks = _by_track(held)
        found = [t for k, arrays in sorted(tracks.items()) if (t := _track(k, arrays, str(file)))]
        if not found:
            raise ExchangeError(
                f"{file}: expected {EXPECTED}, got {', '.join(sorted(held)) or 'nothing'}"
            )
        clip = next((t.record.clip for t in found if t.record), None) or clip_of(name, SUFFIX)
        yield Clip(clip, str(file), found)


def _by_track(held: Mapping[str, _T]) -> dict[int, dict[str, _T]]:
    """Sort what a file holds by track: number -> name without ``trackK/`` -> what."""
    tracks: dict[int, dict[str, _T]] = {}
    for key, value in held.items():
        if match := _KEY.fullmatch(key):
            tracks.setdefault(int(match[1] or 0), {})[match[2]] = value
    return tracks


def _track(number: int, held: dict[str, AnyArray], where: str) -> Track | None:
    names = arrays_in({name: values.shape for name, values in held.items()}, where)
    text = _text(held.get("record"))
    if text is None and not names.keys() & set(TELLING):
        return None
    fps = check_fps(held["fps"], where) if "fps" in held else None
    record = None if text is None else record_from_json(text, where)
    return Track(number, {name: held[key] for name, key in names.items()}, record, fps)


def _first_dtype(path: Path) -> str:
    """Return the dtype for the first features of the files, which the first files may lack."""
    for file, _ in one_or_many(path, SUFFIX):
        for held in _by_track(_headers(file)).values():
            names = arrays_in({name: shape for name, (shape, _) in held.items()}, str(file))
            for name in FEATURES:
                if name in names:
                    return "float16" if held[names[name]][1] == np.float16 else "float32"
    return "float16"


def _load(file: Path) -> dict[str, AnyArray]:
    with _reported(file), np.load(file, allow_pickle=False) as held:  # pickles could run anything
        return {name: held[name] for name in held.files}


def _headers(file: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shape and dtype of a file's arrays without reading them."""
    found = {}
    with _reported(file), zipfile.ZipFile(file) as held:
        for name in held.namelist():
            with held.open(name) as member:
                read = _HEADERS.get(np.lib.format.read_magic(member))
                if read is not None:  # the others are of tables with names that are not Latin
                    shape, _, dtype = read(member)
                    found[name.removesuffix(".npy")] = shape, dtype
    return found


@contextmanager
def _reported(file: Path) -> Iterator[None]:
    try:
        yield
    except (
        OSError,
        ValueError,
        EOFError,
        AttributeError,
        RuntimeError,  # encrypted, or packed in a way that Python lacks
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        text = " ".join(str(error).split())
        raise ExchangeError(
            f"{file}: expected an npz file of arrays, got another: {text}"
        ) from error


def _text(value: AnyArray | None) -> str | None:
    return None if value is None else str(value)
