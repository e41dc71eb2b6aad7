"""One hash a clip, the same for the same features however they were written."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from os import PathLike

from store.arrays import Arrays
from store.crops import read_sha256
from store.errors import StoreError
from store.progress import Progress, unheard
from store.reader import Store
from store.scan import scan
from store.schema import array_specs


def digest(
    path: str | PathLike[str],
    progress: Progress = unheard,
    *,
    arrays: Sequence[str] | None = None,
) -> Iterator[tuple[str, str]]:
    """Yield (clip id, sha256 in hex) of every committed clip, sorted by id.

    The hash runs over the rows (and crops, if any) of all the clip's tracks, read from the arrays
    and not taken from the index (FORMAT.md); it does not depend on the order in which clips were
    written. A clip without rows has the hash of nothing. ``progress`` is told of the rows. Of
    ``arrays``, if given, it is over these alone, so that it can be held against what a format holds
    that cannot hold all.

    Raises
    ------
    StoreNotFoundError, StoreFormatError
        There is no whole store at ``path``.
    StoreError
        Rows cannot be read, or the store was compacted meanwhile; names the clip. There is no
        array of a name.
    """
    known = [spec.name for spec in array_specs()]
    if arrays is not None and (not arrays or not set(arrays) <= set(known)):
        raise StoreError(f"arrays: expected some of {', '.join(known)}, got {', '.join(arrays)!r}")
    with Store(path) as store:
        place = store.place()
        opened = Arrays(place.folder, store.feature_dtype, crop_size=store.crop_size)
        tracks: dict[str, list[tuple[int, str]]] = defaultdict(list)
        rows = 0
        for seen in scan(opened, store.records_by_start(), check=False, names=arrays):
            rows += seen.record.frames
            progress(rows, store.n_rows)
            if seen.problems:
                raise StoreError(
                    f"{store.path}: clip {seen.record.clip!r}: {seen.problems[0]}",
                    f"`pipeline store verify {store.path}` names every damaged clip.",
                )
            tracks[seen.record.clip].append((seen.record.track, seen.sha256))
        crops = dict(_crops(store, opened)) if arrays is None else {}
        ids = sorted({record.clip for record in store.records()})
        if store.place().generation != place.generation:
            raise StoreError(f"{store.path}: was compacted during the digest", "Run it again.")
    for clip in ids:
        lines = "".join(
            f"{track} {sha}{crops.get((clip, track), '')}\n"
            for track, sha in sorted(tracks.get(clip, []))
        )
        yield clip, hashlib.sha256(lines.encode()).hexdigest()


def _crops(store: Store, arrays: Arrays) -> Iterator[tuple[tuple[str, int], str]]:
    for found in store.crop_records():
        try:
            yield (found.clip, found.track), f" {read_sha256(arrays, found)}"
        except Exception as error:  # codecs raise what they like over damaged bytes
            text = " ".join(str(error).split()) or type(error).__name__
            raise StoreError(
                f"{store.path}: clip {found.clip!r}: crop: cannot be read: {text}",
                f"`pipeline store verify {store.path}` names every damaged clip.",
            ) from error
