"""Which rows of a store are whose: clips that stage two can use, and blocks of them."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, Protocol

import numpy as np

from store.companion import Companion, open_companion
from store.crop_index import CropRecord
from store.errors import FacepipeError
from store.layers import Layer
from store.schema import Status

# The arrays that the appearance stream reads, side by side, with + between: appearance, embedding,
# and the names of layers that `pipeline features` has added.
Stream = str


class FeatureStore(Protocol):
    """What stage two needs of a store, as ``store.open`` returns it."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Pack, recipe and versions of the extraction."""
        ...

    @property
    def layers(self) -> Mapping[str, Layer]:
        """Arrays that were made later, by name."""
        ...

    def iter_rows(
        self,
        columns: Sequence[str],
        status: Status | Iterable[Status] | None = None,
        *,
        subset: Iterable[str] | None = None,
        where: str | None = None,
        by_start: bool = False,
    ) -> Iterator[tuple[Any, ...]]:
        """Columns of the index, cheaply."""
        ...

    def dask(self, name: str) -> Any:
        """Return one per-frame array, or that of the crops, lazily."""
        ...

    @property
    def crop_size(self) -> int | None:
        """Side of the crops in pixels; None if there are none."""
        ...

    def crop_records(self) -> Iterator[CropRecord]:
        """Which rows of the array of crops belong to which clip."""
        ...


def arrays_of(stream: Stream) -> list[str]:
    """Return the names of the arrays of a stream."""
    return [name.strip() for name in stream.split("+")]


class ClipSpan(NamedTuple):
    """Where the rows of one clip lie: ``frames`` rows from row ``start``."""

    clip: str
    start: int
    frames: int
    valid_frames: int


class MissingFeaturesError(FacepipeError, ValueError):
    """Clips of a store lack an array that a model reads."""


def clip_spans(source: FeatureStore) -> dict[str, ClipSpan]:
    """Clips that can be scored (main track, at least one frame with a face), in row order."""
    rows = source.iter_rows(
        ClipSpan._fields,
        [status for status in Status if status.has_rows],
        where="track = 0 AND valid_frames > 0",
        by_start=True,
    )
    collecting = gc.isenabled()
    gc.disable()  # it would look through a growing million of tuples again and again
    try:
        # For a million clips this takes half the time of a comprehension that calls ClipSpan.
        spans = list(map(partial(tuple.__new__, ClipSpan), rows))
        return dict(zip(map(itemgetter(0), spans), spans, strict=True))
    finally:
        if collecting:
            gc.enable()


def check_arrays(source: FeatureStore, clips: Iterable[ClipSpan], names: Iterable[str]) -> None:
    """Make sure that clips have the arrays that are read of them; imported ones may lack some.

    Raises
    ------
    MissingFeaturesError
        Names a clip and what it lacks.
    """
    wanted, chosen = set(names), {span.clip for span in clips}
    rows = source.iter_rows(
        ("clip", "details"), where="track = 0 AND valid_frames > 0 AND details LIKE '%\"absent\"%'"
    )
    absent = {
        clip: set(json.loads(details).get("absent", ())) for clip, details in rows if clip in chosen
    }
    lacking = {clip: sorted(wanted & names) for clip, names in absent.items() if wanted & names}
    if lacking:
        clip, missing = next(iter(lacking.items()))
        hint = "Extract these clips from their videos, or leave them out."
        embedded = not any("embedding" in names for names in absent.values())
        if embedded and all(names == ["appearance"] for names in lacking.values()):
            hint = "All clips have embeddings: fit with `--set stream=embedding`."
        raise MissingFeaturesError(
            f"{len(lacking)} of {len(chosen)} clips were imported without an array that the model "
            f"reads, for example {clip!r} without {' and '.join(missing)}",
            hint,
        )


def third_stream(folder: str, source: Any, clips: Sequence[ClipSpan]) -> Companion:
    """Open the array beside a store that is read as a third stream of those clips.

    Raises
    ------
    CompanionError, StoreMismatchError
        There is none, or it lies beside another store.
    """
    found = open_companion(folder)
    found.check(source, max((span.start + span.frames for span in clips), default=0))
    return found


def group_blocks(clips: Sequence[ClipSpan], rows: int) -> list[Sequence[ClipSpan]]:
    """Group clips, sorted by row, so that a block spans at most ``rows`` rows or is one clip."""
    start = np.fromiter(map(attrgetter("start"), clips), np.int64, len(clips))
    end = start + np.fromiter(map(attrgetter("frames"), clips), np.int64, len(clips))
    blocks: list[Sequence[ClipSpan]] = []
    first = 0
    while first < len(clips):
        after = max(int(np.searchsorted(end, start[first] + rows, "right")), first + 1)
        blocks.append(clips[first:after])
        first = after
    return blocks
