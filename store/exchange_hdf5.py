"""HDF5: one group a clip, by its id; what a facepipe store holds, or only part of it."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from store.arrays import AnyArray
from store.exchange import (
    ARRAYS,
    Clip,
    ExchangeError,
    Header,
    Source,
    Track,
    missing_package,
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
from store.mismatch import to_json
from store.schema import EMBEDDING_DIM, LANDMARK_DIM, ClipRecord

_TRACK = re.compile(r"track(\d+)")
# Free bytes below which nothing more is written: HDF5 holds back what it then cannot write, and a
# process that ends with such a file open crashes.
_ROOM = 16 << 20


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise missing_package("h5py", "cpu", "HDF5") from error
    return h5py


class Hdf5Sink:
    """Writes one HDF5 file."""

    def __init__(self, path: Path, header: Header) -> None:
        self._folder = path.parent
        self._check_room(0)
        self._file = _h5py().File(path, "w", track_order=False)
        self._file.attrs["facepipe_export"] = 1
        self._file.attrs["provenance"] = to_json(header.provenance)
        self._file.attrs["feature_dtype"] = header.feature_dtype

    def put(self, clip: str, tracks: list[tuple[ClipRecord, dict[str, AnyArray]]]) -> None:
        """Write one clip; OSError while there is still room to close the file."""
        self._check_room(sum(v.nbytes for _, arrays in tracks for v in arrays.values()))
        group = self._file.require_group(group_name(clip))
        group.attrs["clip"] = clip
        for record, arrays in tracks:
            place = group if not record.track else group.create_group(f"track{record.track}")
            _set(place.attrs, record)
            for name, values in arrays.items():
                place.create_dataset(name, data=values)

    def close(self) -> None:
        """Complete the file."""
        self._file.close()

    def _check_room(self, wanted: int) -> None:
        if shutil.disk_usage(self._folder).free < wanted + _ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _set(attrs: Any, record: ClipRecord) -> None:
    """Write the record whole, and its commonest fields for people and other programs."""
    attrs["record"] = record_to_json(record)
    for name in ("status", "fps", "width", "height", "frames"):
        value = getattr(record, name)
        if value is not None:
            attrs[name] = str(value) if name == "status" else value


def group_name(clip: str) -> str:
    """Return the path of a clip's group: its id, with ``%XX`` where it would be taken for ours."""
    parts = [part.replace("%", "%25") for part in clip.split("/")]
    taken = (p in ARRAYS or _TRACK.fullmatch(p) is not None for p in parts)
    return "/".join(
        f"%{ord(p[0]):02X}{p[1:]}" if t else p for p, t in zip(parts, taken, strict=True)
    )


def source(path: Path) -> Source:
    """Open an HDF5 file for import.

    Raises
    ------
    ExchangeError
        It is not one, or holds no clip.
    """
    h5py = _h5py()
    with _opened(h5py, path) as file:
        ours = "facepipe_export" in file.attrs
        told = _text(file.attrs.get("provenance")) if ours else None
        dtype = _text(file.attrs.get("feature_dtype")) if ours else None
        if not ours and next(_groups(h5py, file), None) is None:
            raise ExchangeError(
                f"{path}: expected groups with a dataset {EXPECTED}, "
                f"got {', '.join(list(file)[:3]) or 'an empty file'}"
            )
        if dtype is None:
            dtype = _first_dtype(h5py, file)
    provenance = provenance_from(told, str(path))
    return Source(lambda: _clips(h5py, path, ours), lambda: _count(h5py, path), provenance, dtype)


def _first_dtype(h5py: Any, file: Any) -> str | None:
    """Return the dtype for the first features in the file, which the first clips may lack."""
    for group in _groups(h5py, file):
        for track in (group, *(group[key] for key in _track_names(h5py, group))):
            found = _datasets(h5py, track, f"{file.filename}: group {track.name}")
            for name in FEATURES:
                if name in found:
                    return "float16" if found[name].dtype == np.float16 else "float32"
    return None


def _opened(h5py: Any, path: Path) -> Any:
    if path.is_dir():
        raise ExchangeError(f"{path}: expected an HDF5 file, got a folder")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        text = " ".join(str(error).split())
        raise ExchangeError(f"{path}: expected an HDF5 file, got another: {text}") from error


def _count(h5py: Any, path: Path) -> int:
    with _opened(h5py, path) as file:
        return sum(1 for _ in _groups(h5py, file))


def _clips(h5py: Any, path: Path, ours: bool) -> Iterator[Clip]:
    with _opened(h5py, path) as file:
        fps = _fps(file.attrs, None, str(path))
        for group in _groups(h5py, file):
            name = group.name.strip("/")
            clip = _text(group.attrs.get("clip")) or (unquote(name) if ours else name) or path.stem
            where = f"{path}: group {group.name}"
            tracks = [_track(h5py, group, 0, where, fps)] if _is_track(h5py, group) else []
            for key in _track_names(h5py, group):
                number = int(key.removeprefix("track"))
                tracks.append(_track(h5py, group[key], number, f"{where}/{key}", fps))
            yield Clip(clip, where, tracks)


def _groups(h5py: Any, group: Any) -> Iterator[Any]:
    """Yield the groups that are clips, depth first, in the order of their names."""
    tracks = _track_names(h5py, group)
    if tracks or _is_track(h5py, group):
        yield group
    for key in group:
        # A link to elsewhere in the file, or out of it, could make a clip come twice or never end.
        if group.get(key, getlink=True).__class__ is not h5py.HardLink or key in tracks:
            continue
        below = group[key]
        if isinstance(below, h5py.Group):
            yield from _groups(h5py, below)


def _track_names(h5py: Any, group: Any) -> list[str]:
    """Return the subgroups that are further tracks of a clip, and no clips of such a name."""
    if "clip" not in group.attrs and not _is_track(h5py, group):
        return []
    named = (key for key in group if _TRACK.fullmatch(key))
    return [k for k in named if isinstance(group[k], h5py.Group) and _is_track(h5py, group[k])]


def _is_track(h5py: Any, group: Any) -> bool:
    if "record" in group.attrs:
        return True
    named = any(isinstance(group.get(name), h5py.Dataset) for name in TELLING)
    return named or any(
        len(d.shape or ()) == 2 and d.shape[1] in (EMBEDDING_DIM, LANDMARK_DIM)
        for d in _others(h5py, group).values()
    )


def _others(h5py: Any, group: Any) -> dict[str, Any]:
    """Return the datasets of a group that have none of our names, by name.

    None of the file itself, which may hold tables of its own beside the clips' groups, and none of
    clips that we exported: these have our names.
    """
    if group.name == "/" or "record" in group.attrs:
        return {}
    links = (k for k in group if k not in ARRAYS)
    names = [k for k in links if group.get(k, getlink=True).__class__ is h5py.HardLink]
    return {k: group[k] for k in names if isinstance(group[k], h5py.Dataset)}


def _datasets(h5py: Any, group: Any, where: str) -> dict[str, Any]:
    """Return the datasets of one track by the names that a store has for them."""
    ours = {k: d for k in ARRAYS if isinstance(d := group.get(k), h5py.Dataset)}
    held = {**ours, **_others(h5py, group)}
    found = arrays_in({k: d.shape or () for k, d in held.items()}, where)
    return {name: held[key] for name, key in found.items()}


def _track(h5py: Any, group: Any, track: int, where: str, fps: float | None) -> Track:
    text = _text(group.attrs.get("record"))
    arrays = {}
    for name, dataset in _datasets(h5py, group, where).items():
        try:
            arrays[name] = np.asarray(dataset[()])
        except OSError as error:
            raise ExchangeError(f"{where}: {name}: cannot be read: {error}") from error
    record = None if text is None else record_from_json(text, where)
    return Track(track, arrays, record, _fps(group.attrs, fps, where))


def _fps(attrs: Any, otherwise: float | None, where: str) -> float | None:
    return check_fps(attrs["fps"], where) if "fps" in attrs else otherwise


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode()
    return None if value is None else str(value)
