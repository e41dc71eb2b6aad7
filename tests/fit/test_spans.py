from __future__ import annotations

from pathlib import Path

import store
from stages.fit.spans import ClipSpan, clip_spans, group_blocks

Made = tuple[Path, Path]


def test_spans_are_the_clips_with_a_face(made: Made) -> None:
    spans = clip_spans(store.open(made[0]))
    assert len(spans) == 36 and not any(c.startswith("none/") for c in spans)
    starts = [s.start for s in spans.values()]
    assert starts == sorted(starts)


def test_blocks_span_no_more_rows_than_asked_unless_one_clip_does() -> None:
    clips = [ClipSpan(str(k), *at, 1) for k, at in enumerate([(0, 4), (4, 6), (20, 3), (23, 30)])]
    found = [[c.clip for c in block] for block in group_blocks(clips, 10)]
    assert found == [["0", "1"], ["2"], ["3"]]
    assert [len(b) for b in group_blocks(clips, 100)] == [4]
    assert group_blocks([], 10) == []
