"""Stores as files of other programs, and back: what the formats have in common.

A format is a module with a writer and a reader of clips (exchange_hdf5.py and its neighbours);
docs/exchange.md says what the files look like.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from os import PathLike
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from store import durable, making, records
from store.arrays import AnyArray
from store.errors import FacepipeError, StoreError
from store.progress import Progress, unheard
from store.reader import Store
from store.schema import ClipRecord, Status, array_specs
from store.several import Stores

ARRAYS = tuple(spec.name for spec in array_specs())
_TRACK = re.compile(r"track\d+")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST = 200  # bytes of a file's name; file systems take 255


class ExchangeError(StoreError):
    """A file cannot be imported or made; names it, what was expected and what was found."""


@dataclass
class Track:
    """One face track of a clip as a file holds it.

    ``arrays``: some of the arrays of a store, (n, *tail) each; none for a clip without rows.
    ``record``: as it was exported, None from a file made by another program. ``fps``: frames a
    second as the file says, for times that it does not say. ``frame``: (n,) numbers of the rows'
    frames, 0 the clip's first, where a file says that some are missing.
    """

    track: int
    arrays: Mapping[str, AnyArray]
    record: ClipRecord | None = None
    fps: float | None = None
    frame: npt.NDArray[np.float64] | None = None


@dataclass
class Clip:
    """One clip of a file: its id, where it lies (for messages), and its tracks."""

    clip: str
    where: str
    tracks: list[Track]


@dataclass
class Source:
    """What an import reads: clips one by one, how many, and what the files say of their origin."""

    clips: Callable[[], Iterator[Clip]]
    count: Callable[[], int]
    provenance: dict[str, Any] | None = None
    feature_dtype: str | None = None


class Sink(Protocol):
    """Where an export goes, clip by clip."""

    def put(self, clip: str, tracks: list[tuple[ClipRecord, dict[str, AnyArray]]]) -> None:
        """Write one clip; a track without rows has no arrays."""

    def close(self) -> None:
        """Complete the file."""


@dataclass
class Exported:
    """What an export wrote: ``clips`` with ``rows``, and how many it left out, all or in part.

    HDF5 and npz hold clips without rows too, CSV and Parquet cannot; CSV holds no face of which
    there are no landmarks.
    """

    clips: int = 0
    rows: int = 0
    left_out: int = 0


@dataclass
class Header:
    """What a format writes down once: origin and dtype of the features."""

    provenance: dict[str, Any] = field(default_factory=dict)
    feature_dtype: str = "float16"


def export(
    opened: Store | Stores, form: str, out: str | PathLike[str], progress: Progress = unheard
) -> Exported:
    """Write a store, or several opened as one, in the format of another program.

    Parameters
    ----------
    opened : Store or Stores
    form : str
        ``hdf5`` or ``parquet`` (one file), ``npz`` or ``csv`` (a folder with one file a clip).
    out : path
        Where nothing is yet. It takes its name once it is complete.
    progress : callable, optional
        Told of the rows.

    Raises
    ------
    ExchangeError
        Unknown format; something lies at ``out``; a package that the format needs is missing.
    StoreError, StoreWriteError
        Rows cannot be read; the disk is full.
    """
    from store import exchange_formats

    made = exchange_formats.find(form)
    target = Path(out)
    if target.exists() or target.is_symlink():
        raise ExchangeError(
            f"{target}: is there already; an export makes a new file or folder",
            "Name another with --out, or delete it.",
        )
    header = Header(opened.provenance, opened.feature_dtype)
    done = Exported()
    with durable.reporting(target, f"exporting to {form}"), making.partial_folder(target) as folder:
        sink = made.sink(folder / target.name, header)
        for clip, found in groupby(opened.records(), key=lambda record: record.clip):
            held = list(found)
            kept = [r for r in held if made.holds(r)]
            if kept:
                sink.put(clip, [(r, _rows(opened, r)) for r in kept])
                done.clips += 1
                done.rows += sum(record.frames for record in kept)
                progress(done.rows, opened.n_rows)
            done.left_out += len(kept) < len(held)
        sink.close()
        (folder / target.name).rename(target)
    return done


def _rows(opened: Store | Stores, record: ClipRecord) -> dict[str, AnyArray]:
    if not record.status.has_rows:
        return {}
    return opened.clip(record.clip, record.track)


# -- a clip's file ---------------------------------------------------------------------------------


def file_name(clip: str, suffix: str) -> str:
    """Return the file of a clip below the export's folder: its id, made safe, and the suffix.

    What some file system refuses, and ``%``, stand as ``%XX``, as in a web address; a folder that
    would end in the suffix too, so that no file is in its way. Of names over 200 bytes the middle
    is left out, marked by ``%~`` and a hash: these the file itself must name (`unnamed`).
    """
    *folders, name = [_safe(part) for part in clip.split("/")]
    folders = [f"{f[: -len(suffix)]}%2E{suffix[1:]}" if f.endswith(suffix) else f for f in folders]
    return "/".join([*map(_short, folders), _short(name) + suffix])


def clip_of(file: str, suffix: str) -> str:
    """Return the id whose ``file_name`` is ``file``."""
    return unquote(file.removesuffix(suffix), errors="strict")


def unnamed(file: str) -> bool:
    """Whether a file's name was cut short, so that it does not say the id."""
    return "%~" in file


def _safe(part: str) -> str:
    kept = "".join(quote(c, safe="") if c in '%<>:"|?*\\' else c for c in part)
    if kept[-1] in ". ":
        kept = f"{kept[:-1]}%{ord(kept[-1]):02X}"
    if kept[0] == "." or _RESERVED.fullmatch(kept):
        kept = f"%{ord(kept[0]):02X}{kept[1:]}"
    return kept


def _short(part: str) -> str:
    data = part.encode()
    if len(data) <= _LONGEST:
        return part
    start = re.sub(r"%.?$", "", data[:120].decode(errors="ignore"))
    return f"{start}%~{hashlib.sha256(data).hexdigest()[:32]}"


def record_to_json(record: ClipRecord) -> str:
    """Return a record as a JSON object of its fields, without those that a writer fills in."""
    values: dict[str, object] = dict(zip(records.COLUMNS, records.to_columns(record), strict=True))
    for name in ("start", "rows_sha256", "session"):
        del values[name]
    values["details"] = record.details
    return json.dumps(values, ensure_ascii=False)


def record_from_json(text: str, where: str) -> ClipRecord:
    """Return the record that ``record_to_json`` wrote.

    Raises
    ------
    ExchangeError
        It is not such a record.
    """
    try:
        values = json.loads(text)
        return ClipRecord(**{**values, "status": Status(values["status"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ExchangeError(
            f"{where}: record: expected the JSON of a clip's record, got {text[:60]!r} ({error})",
            "Delete the attribute, and the clip is imported as one made by another program.",
        ) from error


def one_or_many(path: Path, suffix: str) -> Iterator[tuple[Path, str]]:
    """Yield (file, name below the folder) of one file, or of a folder's files in sorted order.

    Raises
    ------
    ExchangeError
        There is nothing to import.
    """
    if path.is_file():
        yield path, path.name
        return
    files = sorted(p for p in path.rglob(f"*{suffix}") if p.is_file())
    if not files:
        found = "nothing of that name" if not path.exists() else "a folder without any"
        raise ExchangeError(f"{path}: expected a {suffix} file or a folder of them, got {found}")
    for file in files:
        yield file, file.relative_to(path).as_posix()


def missing_package(package: str, extra: str, form: str) -> FacepipeError:
    """Return the error that says how to install what a format needs."""
    return ExchangeError(
        f"{form} needs the package {package}, which is not installed",
        f"pip install 'facepipe[{extra}]'",
    )
