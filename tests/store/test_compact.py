import numpy as np
import pytest
import zarr

import store
from store.compact import split
from tests.store import store_clips as clips


def test_blocks_hold_whole_shards_in_order():
    runs = [(3, 5), (10, 1), (20, 12)]
    rows = [row for first, count in runs for row in range(first, first + count)]
    blocks = list(split(runs, 4))
    assert [start for start, _ in blocks] == [0, 4, 8, 12, 16]
    copied = [[r for a, b in pieces for r in range(a, b)] for _, pieces in blocks]
    assert [len(block) for block in copied] == [4, 4, 4, 4, 2]
    assert sum(copied, []) == rows


def test_holes_close_and_nothing_else_changes(tmp_path):
    path = tmp_path / "a.store"
    made = {f"{i:02}": clips.rows(1 + i % 5, seed=i) for i in range(20)}
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as w:
        for clip, rows in made.items():
            w.append(clips.record(clip, rows), rows)
    before = dict(store.digest(path))
    gone = [f"{i:02}" for i in (0, 3, 4, 11, 19)]
    with store.Writer(path, clips.PROVENANCE) as w:
        for clip in gone:
            w.remove(clip)
    assert dict(store.digest(path)) == {k: v for k, v in before.items() if k not in gone}
    group = zarr.open(path / "arrays.zarr")
    kept = sum(len(rows) for clip, rows in made.items() if clip not in gone)
    assert {a.shape[0] for _, a in group.arrays()} == {kept}
    assert (group["score"].chunks, group["score"].shards) == ((4,), (8,))  # as it was made
    starts = [r.start for r in store.open(path).records_by_start()]
    assert starts == list(np.cumsum([0] + [len(made[c]) for c in before if c not in gone])[:-1])
    assert store.open(path).generation == 1


@pytest.mark.parametrize("between_the_renames", [False, True])
def test_an_intent_whose_copy_is_gone_is_taken_back(tmp_path, between_the_renames):
    path, rows = tmp_path / "a.store", clips.rows(4)
    with store.Writer(path, clips.PROVENANCE) as w:
        w.append(clips.record("a", rows), rows)
        w.flush()
        with w._index.transaction():
            w._index.set_moved([("a", 0, 7)])
            w._index.set_meta(next_generation=1, next_rows=11)
    if between_the_renames:
        (path / "arrays.zarr").rename(path / "arrays.old.zarr")
    assert clips.same(store.open(path).clip("a"), clips.stored(rows))
    assert any("cut short" in note for note in store.verify(path).notes)
    with store.Writer(path, clips.PROVENANCE) as w:
        assert w._index.meta().next_generation is None
    assert clips.same(store.open(path).clip("a"), clips.stored(rows))
    assert (store.verify(path).problems, store.verify(path).notes) == ([], [])
    assert not (path / "arrays.old.zarr").exists()


def test_a_missing_shard_is_not_copied_as_frames_without_faces(tmp_path):
    path = tmp_path / "a.store"
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as w:
        for i in range(4):
            w.append(clips.record(str(i), clips.rows(8, seed=i)), clips.rows(8, seed=i))
    (path / "arrays.zarr" / "box" / "c" / "2" / "0").unlink()
    w = store.Writer(path, clips.PROVENANCE)
    w.remove("0")
    with pytest.raises(store.StoreError, match="box/c/2/0 is missing"):
        w.close()
    assert {p.split("'")[1] for p in store.verify(path).problems} == {"2"}
