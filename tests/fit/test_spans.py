from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import store
from stages.fit.spans import (
    ClipSpan,
    MissingFeaturesError,
    SpanTable,
    check_arrays,
    clip_spans,
    group_blocks,
    span_table,
)

Made = tuple[Path, Path]


def test_spans_are_the_clips_with_a_face(made: Made) -> None:
    spans = clip_spans(store.open(made[0]))
    assert len(spans) == 36 and not any(c.startswith("none/") for c in spans)
    starts = [s.start for s in spans.values()]
    assert starts == sorted(starts)


def test_clips_that_lack_what_is_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.store"
    with store.Writer(path, {"pack": {"name": "x", "fingerprint": "y"}, "recipe": {}}) as writer:
        for clip, absent in (("whole", []), ("half", ["appearance"])):
            rows = store.ClipRows.empty(np.arange(4) / 25)
            rows.valid[:] = True
            for name in ("embedding", "appearance", "landmark", "box", "score"):
                if name not in absent:
                    getattr(rows, name)[:] = 1
            rows.box[:] = 0, 0, 1, 1
            details = {"absent": absent} if absent else {}
            record = store.ClipRecord(
                clip, store.Status.OK, frames=4, valid_frames=4, width=9, height=9, details=details
            )
            writer.append(record, rows)
    source = store.open(path)
    spans = clip_spans(source)
    check_arrays(source, spans.values(), ["embedding", "landmark"])
    check_arrays(source, [spans["whole"]], ["appearance"])
    with pytest.raises(
        MissingFeaturesError, match="1 of 2 clips .* 'half' without appearance"
    ) as refused:
        check_arrays(source, spans.values(), ["appearance", "landmark"])
    assert "--set stream=embedding" in refused.value.hint


@pytest.mark.parametrize("absent", [["appearance", "embedding"], ["appearance", "landmark"]])
def test_what_would_be_refused_too_is_not_advised(tmp_path: Path, absent: list[str]) -> None:
    path = tmp_path / "a.store"
    with store.Writer(path, {"pack": {"name": "x", "fingerprint": "y"}, "recipe": {}}) as writer:
        rows = store.ClipRows.empty(np.arange(4) / 25)
        rows.valid[:] = True
        details = {"absent": ["embedding", "appearance", "landmark", "box", "score"]}
        for name in {"embedding", "landmark"} - set(absent):
            getattr(rows, name)[:] = 1
            details["absent"].remove(name)
        writer.append(
            store.ClipRecord("a", store.Status.OK, frames=4, valid_frames=4, details=details), rows
        )
    source = store.open(path)
    with pytest.raises(MissingFeaturesError) as refused:
        check_arrays(source, clip_spans(source).values(), ["appearance", "landmark"])
    assert "stream" not in refused.value.hint


def test_blocks_span_no_more_rows_than_asked_unless_one_clip_does() -> None:
    places = [(0, 4), (4, 6), (20, 3), (23, 30)]
    clips = SpanTable.of([ClipSpan(str(k), *at, 1) for k, at in enumerate(places)][::-1])
    found = [[c.clip for c in block] for block in group_blocks(clips, 10)]
    assert found == [["0", "1"], ["2"], ["3"]]
    assert [len(b) for b in group_blocks(clips, 100)] == [4]
    assert group_blocks(SpanTable.of([]), 10) == []


def test_a_table_of_spans_is_a_sequence_of_them(made: Made) -> None:
    source = store.open(made[0])
    table, spans = span_table(source), list(clip_spans(source).values())
    assert list(table) == spans and list(table[5:9]) == spans[5:9] and table[-1] == spans[-1]
    assert list(SpanTable.of(spans[::-1])) == spans
    assert all(type(n) is int for n in table[0][1:] + spans[0][1:])
