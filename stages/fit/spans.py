"""Which rows of a store are whose: clips that stage two can use, and blocks of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from store.schema import ClipRecord, Status

Stream = Literal["appearance", "embedding"]


class FeatureStore(Protocol):
    """What stage two needs of a store, as ``store.open`` returns it."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Pack, recipe and versions of the extraction."""
        ...

    def records(self, status: Status | Iterable[Status] | None = None) -> Iterator[ClipRecord]:
        """Every record of the index."""
        ...

    def dask(self, name: str) -> Any:
        """Return one per-frame array, lazily."""
        ...


@dataclass(frozen=True)
class ClipSpan:
    """Where the rows of one clip lie: ``frames`` rows from row ``start``."""

    clip: str
    start: int
    frames: int
    valid_frames: int


def clip_spans(source: FeatureStore) -> dict[str, ClipSpan]:
    """Clips that can be scored (main track, at least one frame with a face), in row order."""
    spans = [
        ClipSpan(r.clip, r.start, r.frames, r.valid_frames)
        for r in source.records()
        if r.status.has_rows and r.track == 0 and r.valid_frames > 0 and r.start is not None
    ]
    return {span.clip: span for span in sorted(spans, key=lambda s: s.start)}


def group_blocks(clips: Sequence[ClipSpan], rows: int) -> list[list[ClipSpan]]:
    """Group clips, sorted by row, so that a block spans at most ``rows`` rows or is one clip."""
    blocks: list[list[ClipSpan]] = []
    for clip in clips:
        if blocks and clip.start + clip.frames - blocks[-1][0].start <= rows:
            blocks[-1].append(clip)
        else:
            blocks.append([clip])
    return blocks
