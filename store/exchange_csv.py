"""CSV with OpenFace 2's column names: one file a clip, a row a frame and face."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    unnamed,
)
from store.mismatch import to_json
from store.rows import absent
from store.schema import ClipRecord
from store.tables import write_csv

SUFFIX = ".csv"
ABOUT = "facepipe-export.json"
POINTS = [f"{axis}_{i}" for axis in "xy" for i in range(68)]  # OpenFace: all x, then all y


class CsvSink:
    """Writes a folder of CSV files, and what they cannot say into ``facepipe-export.json``."""

    def __init__(self, path: Path, header: Header) -> None:
        self._folder = path
        self._about: dict[str, Any] = {"provenance": json.loads(to_json(header.provenance))}
        self._names: dict[str, str] = {}
        path.mkdir()

    def put(self, clip: str, tracks: list[tuple[ClipRecord, dict[str, AnyArray]]]) -> None:
        """Write one clip."""
        import pandas as pd

        name = file_name(clip, SUFFIX)
        if unnamed(name):
            self._names[name] = clip
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        made = pd.concat([_table(record, arrays) for record, arrays in tracks])
        made = made.sort_values(["frame", "face_id"], kind="stable")
        # Nine significant digits tell any two float32 apart.
        write_csv(made, path, float_format="%.9g", lineterminator="\n")

    def close(self) -> None:
        """Write what the files cannot say."""
        about = {**self._about, "names": self._names}
        (self._folder / ABOUT).write_text(json.dumps(about, ensure_ascii=False), "utf-8")


def _table(record: ClipRecord, arrays: dict[str, AnyArray]) -> Any:
    import pandas as pd

    n = len(arrays["timestamp"])
    valid = arrays["valid"].astype(np.bool_)
    landmark = arrays["landmark"].reshape(n, 68, 2)
    confidence = np.where(valid, arrays["score"].astype(np.float64), 0.0)
    if "score" in absent(record):
        confidence[:] = np.nan  # an empty cell: it is not known, and not low
    columns: dict[str, Any] = {
        "frame": np.arange(1, n + 1),
        "face_id": np.full(n, record.track),
        "timestamp": [repr(float(t)) for t in arrays["timestamp"].astype(np.float64)],
        "confidence": confidence,
        "success": valid.astype(np.int64),
    }
    points = np.concatenate([landmark[:, :, 0], landmark[:, :, 1]], axis=1)  # (n, 136)
    return pd.DataFrame(columns).join(pd.DataFrame(points.astype(np.float64), columns=POINTS))


def source(path: Path) -> Source:
    """Open a CSV file, or a folder of them, for import.

    Raises
    ------
    ExchangeError
        There are none.
    """
    next(one_or_many(path, SUFFIX))
    # Of an export also one file, or a folder of it, may be given.
    folders = (folder for folder in (path, *path.absolute().parents) if (folder / ABOUT).is_file())
    export = next(folders, None)
    names: dict[str, str] = {}
    provenance = None
    if export is not None:
        file = export / ABOUT
        try:
            about = dict(json.loads(file.read_text("utf-8")))
            names = {str(k): str(v) for k, v in dict(about.get("names", {})).items()}
            provenance = dict(about["provenance"]) if "provenance" in about else None
        except (ValueError, TypeError) as error:
            raise ExchangeError(
                f"{file}: expected the JSON that an export wrote, got another: {error}",
                "Delete it, and the files are imported as made by another program.",
            ) from error
    return Source(
        lambda: _clips(path, names, export),
        lambda: sum(1 for _ in one_or_many(path, SUFFIX)),
        provenance,
        "float16",
    )


def _clips(path: Path, names: dict[str, str], export: Path | None) -> Iterator[Clip]:
    for file, name in one_or_many(path, SUFFIX):
        clip = name.removesuffix(SUFFIX)
        if export is not None:
            name = file.absolute().relative_to(export.absolute()).as_posix()
            clip = names.get(name) or clip_of(name, SUFFIX)
        yield Clip(clip, str(file), _tracks(file))


def _tracks(file: Path) -> list[Track]:
    import pandas as pd

    try:
        table = pd.read_csv(file, skipinitialspace=True, dtype=str)
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        text = " ".join(str(error).split())
        raise ExchangeError(f"{file}: expected a CSV file, got another: {text}") from error
    table.columns = [str(name).strip() for name in table.columns]
    missing = [name for name in POINTS if name not in table.columns]
    if missing:
        raise ExchangeError(
            f"{file}: expected OpenFace's columns x_0 to x_67 and y_0 to y_67, "
            f"got none named {missing[0]} ({len(missing)} missing)",
            "Run OpenFace's FeatureExtraction with -2Dfp.",
        )
    if table.empty:
        raise ExchangeError(f"{file}: expected at least one frame, got none")
    first = 0.0
    if "frame" in table.columns:
        frame = _numbers(file, table, "frame").to_numpy()
        table, first = table.iloc[np.argsort(frame, kind="stable")], float(frame.min())
    if "face_id" not in table.columns:
        return [_track(file, 0, table, first)]
    number = _numbers(file, table, "face_id")
    faces = sorted(number.dropna().unique())
    # The first face that OpenFace followed need not be its number 0.
    named = [int(face) for face in faces] if 0 in faces else range(len(faces))
    return [
        _track(file, k, table[number == face], first) for k, face in zip(named, faces, strict=True)
    ]


def _track(file: Path, number: int, table: Any, first: float) -> Track:
    arrays: dict[str, AnyArray] = {}
    points = np.stack([_numbers(file, table, name).to_numpy(np.float64) for name in POINTS], axis=1)
    landmark = points.reshape(len(table), 2, 68).transpose(0, 2, 1).reshape(len(table), 136)
    valid = np.isfinite(landmark).all(1)
    if "success" in table.columns:
        valid &= _numbers(file, table, "success").to_numpy(np.float64) == 1
    arrays["landmark"] = landmark.astype(np.float32)
    arrays["valid"] = valid
    if "timestamp" in table.columns:
        arrays["timestamp"] = _numbers(file, table, "timestamp").to_numpy(np.float64)
    if "confidence" in table.columns:
        score = _numbers(file, table, "confidence").to_numpy(np.float64)
        if not np.isnan(score).all():
            arrays["score"] = score
    frame = None
    if "frame" in table.columns:
        frame = _numbers(file, table, "frame").to_numpy(np.float64) - first
    return Track(number, arrays, frame=frame)


def _numbers(file: Path, table: Any, name: str) -> Any:
    # As text and by Python's float: not every version of pandas reads the nearest float64.
    try:
        return table[name].astype(np.float64)
    except (ValueError, TypeError) as error:
        text = " ".join(str(error).split())
        raise ExchangeError(
            f"{file}: column {name}: expected numbers, got others: {text}"
        ) from error
