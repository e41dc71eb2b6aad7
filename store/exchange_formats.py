"""The formats by name, and the import of any of them into a store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from store import exchange_csv, exchange_hdf5, exchange_npz, exchange_parquet
from store.clip_id import check_clip_id
from store.errors import ClipIdError, StoreError
from store.exchange import ExchangeError, Header, Sink, Source
from store.exchange_rules import complete
from store.progress import Progress, unheard
from store.reader import Store
from store.rows import absent
from store.schema import ClipRecord
from store.writer import Writer


@dataclass(frozen=True)
class Format:
    """How a format is written and, where it can be, read.

    ``holds_rowless``: whether it can hold a clip that could not be extracted. ``needs``: an array
    without which it can say nothing of a track.
    """

    sink: Callable[[Path, Header], Sink]
    source: Callable[[Path], Source] | None
    holds_rowless: bool
    needs: str | None = None

    def holds(self, record: ClipRecord) -> bool:
        """Whether it can hold that track."""
        if not record.status.has_rows:
            return self.holds_rowless
        return self.needs not in absent(record)


FORMATS = {
    "hdf5": Format(exchange_hdf5.Hdf5Sink, exchange_hdf5.source, True),
    "npz": Format(exchange_npz.NpzSink, exchange_npz.source, True),
    "csv": Format(exchange_csv.CsvSink, exchange_csv.source, False, needs="landmark"),
    "parquet": Format(exchange_parquet.ParquetSink, None, False),
}


def find(form: str) -> Format:
    """Return a format by its name.

    Raises
    ------
    ExchangeError
        Lists those that there are.
    """
    if form not in FORMATS:
        raise ExchangeError(f"format: expected {', '.join(FORMATS)}, got {form!r}")
    return FORMATS[form]


@dataclass
class Imported:
    """What an import did: ``clips`` taken in with ``rows``; ``skipped`` were there already."""

    clips: int = 0
    rows: int = 0
    skipped: int = 0


def import_from(
    path: str | PathLike[str],
    form: str,
    out: str | PathLike[str],
    *,
    fps: float | None = None,
    progress: Progress = unheard,
) -> Imported:
    """Take the features of files into a store, which is made if it is not there.

    Clips that the store holds are skipped, so that an import that was cut short goes on. Files that
    a facepipe store was exported to keep its provenance; others get a pack named ``imported``, with
    the format. Features are stored in the dtype of the store, or for a new one in that of the first
    that the files hold (float16 or float32).

    Parameters
    ----------
    path : path
        An HDF5 file; an npz or CSV file, or a folder of them.
    form : str
        ``hdf5``, ``npz`` or ``csv``.
    out : path
        The store.
    fps : float
        Frames a second of clips whose files say neither timestamp nor fps.
    progress : callable, optional
        Gets how many clips are done, of how many.

    Raises
    ------
    ExchangeError
        A file is not as docs/exchange.md says. What was imported before it is kept.
    StoreMismatchError
        The store's features are of another pack.
    StoreError, StoreWriteError
        As `Writer`.
    """
    source_of = find(form).source
    if source_of is None:
        raise ExchangeError(f"{form}: can be exported to, not imported from")
    if fps is not None and not 0 < fps < float("inf"):
        raise ExchangeError(f"--fps: expected a number above 0, got {fps}")
    origin = Path(path)
    if not origin.exists():
        raise ExchangeError(f"{origin}: there is no such file or folder to import")
    source = source_of(origin)
    done, count = Imported(), source.count()
    with Writer(out, _provenance(source, form), _dtype(source, Path(out))) as writer:
        held = {(r.clip, r.track): r.status.has_rows for r in writer.records()}
        for clip in source.clips():
            _check_id(clip.clip, clip.where)
            took = False
            # The main track last, as extraction does: a clip that has it is whole.
            for track in sorted(clip.tracks, key=lambda t: -t.track):
                key = (clip.clip, track.track)
                if key in held and (held[key] or not track.arrays):
                    continue
                record, rows = complete(clip.clip, clip.where, track, fps)
                record = replace(record, clip=clip.clip, track=track.track)
                try:
                    writer.append(record, rows, replace=True)
                except StoreError as error:
                    raise ExchangeError(f"{clip.where}: {error}", error.hint) from error
                held[key], took = rows is not None, True
                done.rows += record.frames
            done.clips += took
            done.skipped += not took
            progress(done.clips + done.skipped, count)
    return done


def _check_id(clip: str, where: str) -> None:
    try:
        check_clip_id(clip)
    except ClipIdError as error:
        raise ExchangeError(f"{where}: {error}", error.hint) from error


def _dtype(source: Source, out: Path) -> str:
    try:
        with Store(out) as held:
            return held.feature_dtype
    except StoreError:  # a new one; what else is wrong, the writer says
        return source.feature_dtype or "float16"


def _provenance(source: Source, form: str) -> dict[str, Any]:
    # Neither path nor name of a file: clips and people are called so, and `forget` rewrites no
    # session.
    told = {"format": form}
    if source.provenance:
        return {**source.provenance, "imported": told}
    mark = hashlib.sha256(f"imported {form}".encode()).hexdigest()
    return {"pack": {"name": "imported", "fingerprint": mark}, "recipe": {}, "imported": told}
