"""What an imported clip is given that its file does not say, each by a rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from store.arrays import AnyArray
from store.exchange import ARRAYS, ExchangeError, Track
from store.exchange_foreign import EXPECTED
from store.schema import ClipRecord, ClipRows, Status, array_specs


def complete(
    clip: str, where: str, track: Track, fps: float | None
) -> tuple[ClipRecord, ClipRows | None]:
    """Return record and rows of a track, with a rule for everything that the file does not say.

    ``timestamp``: frame i at i / fps, by the file's fps or else ``fps``. ``valid``: where every
    given feature is finite; where one is not, the others become NaN too. Any other array that is
    missing is NaN in all frames and named in ``details["absent"]``. The status is ``ok`` where a
    frame is valid and ``no_face`` where none is, if no record says otherwise.

    Raises
    ------
    ExchangeError
        Names file and array, what was expected, what was found.
    """
    if not track.arrays:
        if track.record is None or track.record.status.has_rows:
            raise ExchangeError(f"{where}: expected {EXPECTED}, got none of them")
        return track.record, None
    given = {name: np.asarray(values) for name, values in track.arrays.items()}
    for name, values in given.items():
        if name != "valid" and np.issubdtype(values.dtype, np.integer):
            given[name] = values.astype(np.float64)
    n = len(next(iter(given.values())))
    for spec in array_specs():
        if spec.name in given:
            _check(where, spec.name, spec.tail, given[spec.name], n)
    rate = track.fps or fps
    if "timestamp" not in given:
        if rate is None:
            raise ExchangeError(
                f"{where}: expected timestamp (n,) or fps, got neither",
                "Say the frames a second of these clips: --fps 30.",
            )
        given["timestamp"] = (np.arange(n) if track.frame is None else track.frame) / rate
    masked = [spec for spec in array_specs() if spec.masked]
    if "valid" not in given:
        valid = np.ones(n, np.bool_)
        for spec in masked:
            if spec.name in given:
                valid &= np.isfinite(given[spec.name].astype(np.float64)).reshape(n, -1).all(1)
        given["valid"] = valid
    faces = given["valid"].astype(np.bool_)
    given["valid"] = faces
    absent = [spec.name for spec in masked if spec.name not in given]
    for spec in masked:
        if spec.name in absent:
            given[spec.name] = np.full((n, *spec.tail), np.nan, np.float16)
        elif not faces.all():
            shape = (n, *(1 for _ in spec.tail))
            given[spec.name] = np.where(faces.reshape(shape), given[spec.name], np.nan).astype(
                given[spec.name].dtype
            )
    rows = ClipRows(**{name: given[name] for name in ARRAYS})  # type: ignore[arg-type]
    record = track.record
    if record is None:
        status = Status.OK if faces.any() else Status.NO_FACE
        message = "" if faces.any() else "no face in any frame"
        record = ClipRecord(
            clip, status, track.track, message, n, int(faces.sum()), fps=rate, decoder="imported"
        )
    if absent:
        record = _with_absent(record, absent)
    return record, rows


def _with_absent(record: ClipRecord, absent: Iterable[str]) -> ClipRecord:
    return replace(record, details={**record.details, "absent": sorted(absent)})


def _check(where: str, name: str, tail: tuple[int, ...], values: AnyArray, n: int) -> None:
    wanted = f"({', '.join(map(str, (n, *tail)))}{'' if tail else ','}) of numbers"
    if name == "valid":
        good = values.dtype == np.bool_ or np.issubdtype(values.dtype, np.integer)
    else:
        good = np.issubdtype(values.dtype, np.floating)
    if values.shape != (n, *tail) or not good:
        raise ExchangeError(
            f"{where}: {name}: expected {wanted}, got {values.shape} {values.dtype}"
        )
    if not n:
        raise ExchangeError(f"{where}: {name}: expected at least one frame, got none")
