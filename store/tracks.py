"""Label tracks of others: a number a frame and label, read from CSV files into an array.

OpenFace's output is one file a clip with the columns frame, success, AU01_r, AU02_r, ... BP4D and
DISFA come as one file a clip and action unit, ``AU12/F001_T1_AU12_int.csv`` and
``SN001/SN001_au12.txt``, with lines ``frame,intensity`` and no header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from store.companion import Companion, Opened, check_free, write_companion
from store.foreign_csv import TableError, numbers, read_table
from store.progress import Progress, unheard
from store.schema import Status

KIND = "tracks"
SUFFIXES = (".csv", ".txt")
INTENSITIES = "AU*_r"
_SINGLE = re.compile(r"(?P<clip>.+?)[_-]?au_?0*(?P<unit>\d+)([_-]int)?", re.IGNORECASE)
_ABOUT_FRAME = ("frame", "face_id", "timestamp", "confidence", "success")  # and no labels of it
_LEAST_PART = 4  # letters and digits of a name that may stand within a clip's
Track = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


@dataclass
class Imported:
    """What an import took: the array, of how many clips and frames, and what it left out."""

    companion: Companion
    clips: int
    frames: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Rows:
    clip: str
    start: int
    frames: int


def import_tracks(
    path: Path,
    source: Opened,
    folder: Path,
    *,
    columns: str = INTENSITIES,
    missing: float | None = None,
    progress: Progress = unheard,
) -> Imported:
    """Read label tracks of the clips of a store into an array beside it, (N, D) float32.

    Frames are counted from 1, as OpenFace does; lines of a file without a column ``frame`` are its
    frames in order, and numbers that start at 0 are taken as such. Frames of which nothing is said,
    and those that OpenFace marks as no success, are NaN.

    Parameters
    ----------
    path : Path
        A file, or a folder of them. A file belongs to the clip whose id it bears, with or without
        the clip's extension, with ``_`` for ``/``, or without folders where that is unambiguous;
        else to the only clip whose name has the file's in it (SN001: LeftVideoSN001_comp.avi).
    source : Store or Stores
    folder : Path
        Of the array, see companion.py.
    columns : str
        Pattern of the columns that are labels.
    missing : float, optional
        A number that stands for "not known" (BP4D: 9).
    progress : callable
        Told how many files are read, of how many.

    Raises
    ------
    TableError
        Nothing to read, a file that is none of these, or none that belongs to a clip.
    CompanionError, StoreWriteError
        As write_companion.
    """
    check_free(folder)
    clips = {
        str(clip): _Rows(str(clip), int(start), int(frames))
        for clip, start, frames in source.iter_rows(
            ("clip", "start", "frames"),
            [status for status in Status if status.has_rows],
            where="track = 0",
            by_start=True,
        )
    }
    found: dict[str, dict[str, Track]] = {}
    strangers: list[str] = []
    late = 0
    files = _files(path)
    for done, file in enumerate(files):
        progress(done, len(files))
        stem, tracks = _read(file, path, columns)
        clip = _match(stem, clips)
        if clip is None:
            strangers.append(file.name)
            continue
        for name, (frame, value) in tracks.items():
            if name in found.setdefault(clip, {}):
                raise TableError(f"{file}: {name} of clip {clip!r} was given by another file")
            inside = frame < clips[clip].frames
            late += int((~inside).sum())
            known = value if missing is None else np.where(value == missing, np.nan, value)
            found[clip][name] = frame[inside], known[inside]
    if not found:
        raise TableError(
            f"{path}: none of its {len(strangers)} files bears the name of a clip of the store"
            + (f"; the first is {strangers[0]!r}" if strangers else ""),
            f"a clip of the store is {next(iter(clips), 'none')!r}",
        )
    names = sorted({name for tracks in found.values() for name in tracks})
    notes = [f"{len(strangers)} files belong to no clip, first {strangers[0]}"] if strangers else []
    if late:
        notes.append(f"{late} labels lie behind the last frame of their clip and are left out")
    count = 0

    def pieces() -> Iterator[tuple[int, npt.NDArray[np.floating]]]:
        nonlocal count
        for rows in clips.values():
            if rows.clip not in found:
                continue
            block = np.full((rows.frames, len(names)), np.nan, np.float32)
            for column, name in enumerate(names):
                frame, value = found[rows.clip].get(name, (np.zeros(0, np.int64), np.zeros(0)))
                block[frame, column] = value
            count += int(np.isfinite(block).any(axis=1).sum())
            yield rows.start, block

    made = write_companion(
        folder, source, KIND, names, pieces(), dtype="float32", about={"from": path.name}
    )
    return Imported(made, len(found), count, notes)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
    if not files:
        what = "a folder without any" if path.is_dir() else "nothing of that name"
        raise TableError(f"{path}: expected a CSV file of label tracks or a folder, got {what}")
    return files


def _read(file: Path, root: Path, columns: str) -> tuple[str, dict[str, Track]]:
    """Return the clip's name as the file bears it, and its tracks: frames from 0, and values."""
    relative = file.name if file == root else file.relative_to(root).as_posix()
    stem = relative[: -len(file.suffix)]
    table = read_table(file)
    single = _SINGLE.fullmatch(stem)
    if single and len(table.columns) == 2 and _is_number(table.columns[0]):
        name = f"AU{int(single['unit']):02d}"
        table = read_table(file, ("frame", name))  # again: its first line is no header
        frame = _from_zero(file, numbers(file, table, "frame"))
        return single["clip"], {name: (frame, numbers(file, table, name))}
    names = [n for n in table.columns if fnmatchcase(n, columns) and n not in _ABOUT_FRAME]
    if not names:
        raise TableError(
            f"{file}: expected columns named like {columns}, got {', '.join(table.columns[:8])}",
            "name them with --columns, for example --columns 'AU*'",
        )
    if "face_id" in table.columns:  # the first face that OpenFace followed
        face = numbers(file, table, "face_id")
        table = table[face == np.nanmin(face)]
    if "frame" in table.columns:
        frame = _from_zero(file, numbers(file, table, "frame"))
    else:
        frame = np.arange(len(table))
    lost = np.zeros(len(table), np.bool_)
    if "success" in table.columns:
        lost = numbers(file, table, "success") != 1
    values = {name: np.where(lost, np.nan, numbers(file, table, name)) for name in names}
    return stem, {name: (frame, value) for name, value in values.items()}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _from_zero(file: Path, frame: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    if not len(frame) or not np.isfinite(frame).all() or (frame < 0).any():
        raise TableError(f"{file}: column frame: expected numbers from 0 or 1 on, got others")
    whole = frame.astype(np.int64)
    if (whole != frame).any() or len(np.unique(whole)) < len(whole):
        raise TableError(f"{file}: column frame: expected whole numbers, each once, got others")
    return whole - (0 if whole.min() == 0 else 1)


def _match(name: str, clips: dict[str, _Rows]) -> str | None:
    """Return the clip that a file's name means, or None if there is none or more than one."""
    if name in clips:
        return name

    without = {clip: str(PurePosixPath(clip).with_suffix("")) for clip in clips}
    base = PurePosixPath(name).name  # DISFA has a folder a clip, BP4D one a unit
    bare = base == name  # as OpenFace names its files, wherever the video lay
    part = re.compile(rf"(?<!\d){re.escape(base)}(?!\d)")
    long = len(base) >= _LEAST_PART and any(c.isdigit() for c in base)
    for candidates in (
        [clip for clip in clips if without[clip] == name],
        [clip for clip in clips if _plain(name) in (_plain(clip), _plain(without[clip]))],
        [clip for clip in clips if _plain(base) in (_plain(clip), _plain(without[clip]))],
        [clip for clip in clips if bare and PurePosixPath(without[clip]).name == name],
        [clip for clip in clips if long and part.search(PurePosixPath(without[clip]).name)],
    ):
        if candidates:
            return candidates[0] if len(candidates) == 1 else None
    return None


def _plain(text: str) -> str:
    return text.replace("/", "_").lower()
