"""The label file: one score a clip, every fault reported by its line."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from stages.fit.targets import Normalise
from store.errors import FacepipeError
from store.tables import guard, unguard

REQUIRED = ("clip", "score")
OPTIONAL = ("subset", "person")
SHOWN = 10  # faults spelt out in one message; the rest are counted


class LabelError(FacepipeError, ValueError):
    """The label file cannot be used as it is. ``problems`` holds every fault found."""

    def __init__(self, message: str, hint: str = "", problems: Iterable[str] = ()) -> None:
        super().__init__(message, hint)
        self.problems = list(problems)


@dataclass(frozen=True)
class Labels:
    """Labels of clips that the store holds.

    Attributes
    ----------
    path : Path
    sha256 : str
        Of the file's bytes.
    frame : DataFrame
        ``clip`` (the store's id), ``score`` (float64), ``subset`` and ``person`` (str, empty where
        the file has none), and the file's other columns as str, in file order.
    warnings : list of str
        Labels that no clip of the store answers to, by line.
    notes : list of str
        Counts that are no fault, such as clips without label.
    """

    path: Path
    sha256: str
    frame: pd.DataFrame
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def groups(self) -> list[str]:
        """What to keep together: the person, or the clip itself where that is not filled in."""
        return [
            f"person {person}" if person else f"clip {clip}"
            for person, clip in zip(self.frame["person"], self.frame["clip"], strict=True)
        ]


def read_labels(path: str | os.PathLike[str], known_clips: Iterable[str]) -> Labels:
    """Read a CSV file with the columns clip, score and optionally subset, person and others.

    A byte order mark, CRLF, capitals and blanks in the header are tolerated. A clip may be named
    without its extension where that is unambiguous. Lines are counted as an editor counts them.
    An apostrophe that keeps a cell from being a formula (store.tables) is taken away.

    Parameters
    ----------
    path : path of the file
    known_clips : clip ids that the store can give features for

    Raises
    ------
    LabelError
        File missing, empty or not text, a column missing, a duplicate, a score that is not a
        finite number, or no label at all that fits the store. All faults are collected first.
    """
    file = Path(path)
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise LabelError(
            f"{file}: there is no such label file", "a CSV with the columns clip,score is needed"
        ) from None
    except OSError as error:
        raise LabelError(f"{file}: cannot be read ({error.strerror})") from None
    rows, columns = _rows(file, raw)
    known = list(known_clips)
    frame, problems, warnings = _check(rows, columns, known)
    if problems:
        raise _collected(file, problems)
    if frame.empty:
        raise LabelError(
            f"{file}: none of its {len(rows)} labels names a clip of the store"
            + (f"; the first is '{rows[0][1]['clip']}'" if rows else ""),
            "clip ids are paths below the extracted folder"
            + (f", for example '{known[0]}'" if known else "; the store holds no clip with a face"),
            warnings,
        )
    notes = []
    unlabelled = len(set(known) - set(frame["clip"]))
    if unlabelled:
        notes.append(f"{unlabelled} of {len(known)} clips of the store have no label")
    if warnings:
        notes.append(f"{len(warnings)} of {len(rows)} labels name no clip with a face in the store")
    if len(frame) > 1 and frame["score"].nunique() == 1:
        notes.append(
            f"all {len(frame)} scores are {frame['score'].iloc[0]:g}: there is nothing to rank"
        )
    return Labels(file, hashlib.sha256(raw).hexdigest(), frame, warnings, notes)


def unscaled(normalise: Normalise, labels: Labels) -> list[str]:
    """Say so where scores are to be put on their subset's scale and no subset is named."""
    if normalise == "none" or labels.frame["subset"].any():
        return []
    return [
        f"normalise={normalise}: {labels.path} names no subset, so that all clips are put on one "
        "scale; a column subset would say which belong together"
    ]


def _rows(file: Path, raw: bytes) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """Split the file into (line, values by column); blank lines are passed over."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise LabelError(
            f"{file}: line {line} is not UTF-8 text", "save the file as CSV, UTF-8"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=False)
    columns: list[str] = []
    rows: list[tuple[int, dict[str, str]]] = []
    problems: list[str] = []
    previous = 0
    try:
        for cells in reader:
            line, previous = previous + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = [_column(cell) for cell in cells]
                continue
            if len(cells) != len(columns):
                problems.append(f"line {line}: {len(columns)} columns expected, found {len(cells)}")
                continue
            rows.append((line, dict(zip(columns, map(unguard, cells), strict=True))))
    except csv.Error as error:
        raise LabelError(f"{file}: line {reader.line_num} is not CSV ({error})") from None
    if not columns:
        raise LabelError(f"{file}: the file is empty", "its first line must be clip,score")
    missing = [c for c in REQUIRED if c not in columns]
    if missing:
        raise LabelError(
            f"{file}: line 1 has no column {' and none '.join(repr(c) for c in missing)}; "
            f"found: {', '.join(columns)}",
            "the first line must name the columns clip and score, separated by commas",
        )
    twice = sorted({c for c in columns if columns.count(c) > 1})
    if twice:
        raise LabelError(f"{file}: line 1 names the column '{twice[0]}' twice")
    if problems:
        raise _collected(file, problems)
    if not rows:
        raise LabelError(f"{file}: there is no label below the header")
    return rows, columns


def _column(cell: str) -> str:
    """Known columns in lower case, others as they are; blanks around either are dropped."""
    name = cell.strip()
    return name.lower() if name.lower() in (*REQUIRED, *OPTIONAL) else name


def _check(
    rows: list[tuple[int, dict[str, str]]], columns: list[str], known: list[str]
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Match labels with clips; returns the labels that fit, errors and warnings, by line."""
    clips = set(known)
    stems: dict[str, list[str]] = {}
    for clip in known:
        stems.setdefault(str(PurePosixPath(clip).with_suffix("")) if clip else clip, []).append(
            clip
        )
    first_line: dict[str, int] = {}
    problems: list[str] = []
    warnings: list[str] = []
    kept: list[dict[str, object]] = []
    for line, cells in rows:
        row = {column: cell.strip() for column, cell in cells.items()}
        name, found = _clips_of(cells["clip"], clips, stems)
        score = _number(row["score"])
        if not name:
            problems.append(f"line {line}: no clip is named")
        if score is None:
            problems.append(f"line {line}: score must be a finite number, found '{row['score']}'")
        clip = found[0] if len(found) == 1 else name
        if name and clip in first_line:
            problems.append(
                f"line {line}: '{name}' was labelled in line {first_line[clip]} already"
            )
        first_line.setdefault(clip, line)
        if len(found) > 1:
            problems.append(f"line {line}: '{name}' could be {' or '.join(sorted(found))}")
        elif name and not found:
            warnings.append(f"line {line}: the store holds no clip '{name}' with a face")
        elif name and score is not None:
            kept.append({"subset": "", "person": "", **row, "clip": clip, "score": score})
    extra = [c for c in columns if c not in (*REQUIRED, *OPTIONAL)]
    return pd.DataFrame(kept, columns=[*REQUIRED, *OPTIONAL, *extra]), problems, warnings


def _clips_of(cell: str, clips: set[str], stems: dict[str, list[str]]) -> tuple[str, list[str]]:
    """Return the name in a cell as a clip's id would be, and the clips that it may mean.

    An id may hold blanks at its ends, a backslash or an apostrophe that looks like a guard: what
    stands there is looked up before anything is tidied.
    """
    name = cell.strip().replace("\\", "/").removeprefix("./")
    for exact in (cell, cell.strip(), name, guard(cell)):
        if exact in clips:
            return exact, [exact]
    return name, stems.get(cell.strip()) or stems.get(name, [])


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _collected(file: Path, problems: list[str]) -> LabelError:
    shown = "; ".join(problems[:SHOWN])
    more = len(problems) - SHOWN
    return LabelError(
        f"{file}: {shown}" + (f"; and {more} more" if more > 0 else ""),
        "correct these lines and run the same command again",
        problems,
    )
