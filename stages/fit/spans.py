"""Which rows of a store are whose: clips that stage two can use, and blocks of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, Protocol, overload

import numpy as np
import numpy.typing as npt

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


class SpanTable(Sequence[ClipSpan]):
    """Clips in the order of their rows, held as columns.

    A million of them take half the memory of as many ClipSpans, which are made when asked for.

    Attributes
    ----------
    clip : list of n ids
    numbers : (3, n) int64
        ``start``, ``frames`` and ``valid_frames`` of each.
    """

    def __init__(self, clip: list[str], numbers: npt.NDArray[np.int64]) -> None:
        self.clip = clip
        self.numbers = numbers

    @classmethod
    def of(cls, clips: Sequence[ClipSpan]) -> SpanTable:
        """Return clips in any order as a table."""
        if isinstance(clips, SpanTable):
            return clips
        by_row = sorted(clips, key=attrgetter("start"))
        numbers = np.array([span[1:] for span in by_row], np.int64).reshape(-1, 3)
        return cls([span.clip for span in by_row], numbers.T)

    def __len__(self) -> int:
        return len(self.clip)

    @overload
    def __getitem__(self, place: int) -> ClipSpan: ...
    @overload
    def __getitem__(self, place: slice) -> SpanTable: ...
    def __getitem__(self, place: int | slice) -> ClipSpan | SpanTable:
        if isinstance(place, slice):
            return SpanTable(self.clip[place], self.numbers[:, place])
        return ClipSpan(self.clip[place], *self.numbers[:, place].tolist())

    def __iter__(self) -> Iterator[ClipSpan]:
        # For a million clips this takes half the time of a comprehension that calls ClipSpan.
        rows = zip(self.clip, *self.numbers.tolist(), strict=True)
        return map(partial(tuple.__new__, ClipSpan), rows)


def span_table(source: FeatureStore) -> SpanTable:
    """Clips that can be scored (main track, at least one frame with a face), in row order."""
    rows = source.iter_rows(
        ClipSpan._fields,
        [status for status in Status if status.has_rows],
        where="track = 0 AND valid_frames > 0",
        by_start=True,
    )
    clips: list[str] = []
    numbers = [np.empty((3, 0), np.int64)]
    while page := list(islice(rows, 1024)):  # few enough to be in the CPU's cache twice
        clips.extend(map(itemgetter(0), page))
        columns = [np.fromiter(map(itemgetter(k), page), np.int64, len(page)) for k in (1, 2, 3)]
        numbers.append(np.stack(columns))
    return SpanTable(clips, np.concatenate(numbers, axis=1))


def clip_spans(source: FeatureStore) -> dict[str, ClipSpan]:
    """Clips as of `span_table`, by id."""
    table = span_table(source)
    return dict(zip(table.clip, table, strict=True))


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


def group_blocks(clips: SpanTable, rows: int) -> list[SpanTable]:
    """Group clips so that a block spans at most ``rows`` rows or is one clip."""
    start, frames, _ = clips.numbers
    end = start + frames
    blocks = []
    first = 0
    while first < len(clips):
        after = max(int(np.searchsorted(end, start[first] + rows, "right")), first + 1)
        blocks.append(clips[first:after])
        first = after
    return blocks
