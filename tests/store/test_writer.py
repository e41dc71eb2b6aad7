import dataclasses
import sqlite3

import numpy as np
import pytest
import zarr

import store
from store import ClipExistsError, ClipNotFoundError, Status, StoreError, StoreMismatchError
from tests.store import store_clips as clips


def writer(path, provenance=clips.PROVENANCE, dtype="float16", layout=clips.TINY):
    return store.Writer(path, provenance, dtype, layout=layout)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_round_trip(tmp_path, dtype):
    path = tmp_path / "deep" / "a.store"
    made = {f"{n}.mp4": clips.rows(n, seed=n) for n in (1, 3, 4, 8, 19, 40)}
    with writer(path, dtype=dtype) as w:
        for clip, rows in made.items():
            w.append(clips.record(clip, rows), rows)
        w.append(clips.record("none.mp4", clips.no_face(5)), clips.no_face(5))
        w.append(clips.record("broken.mp4", None, message="no frames"), None)
    s = store.open(path)
    assert (len(s), s.n_rows, s.feature_dtype) == (8, 80, dtype)
    assert s.provenance == clips.PROVENANCE
    for clip, rows in made.items():
        assert clips.same(s.clip(clip), clips.stored(rows, dtype))
        assert dataclasses.replace(
            s.record(clip), start=None, rows_sha256="", session=None
        ) == clips.record(clip, rows)
    assert np.isnan(s.clip("none.mp4")["embedding"]).all()
    assert s.clip("broken.mp4")["embedding"].shape == (0, 512)
    assert s.record("broken.mp4").message == "no frames"
    assert store.verify(path).ok


def test_arrays_are_dense_and_of_the_shapes_that_users_expect(tmp_path):
    with store.Writer(tmp_path / "a.store", clips.PROVENANCE) as w:
        w.append(clips.record("a", clips.rows(300)), clips.rows(300))
        w.append(clips.record("b", clips.rows(7)), clips.rows(7))
    group = zarr.open(tmp_path / "a.store" / "arrays.zarr")
    assert group["embedding"].shape == (307, 512)
    assert group["appearance"].shape == (307, 512)
    assert group["landmark"].shape == (307, 136)
    assert group["embedding"].chunks == (512, 512)
    assert group["embedding"].shards == (8192, 512)
    assert {a.shape[0] for _, a in group.arrays()} == {307}


def test_journalled_clips_are_known_and_invisible_until_flushed(tmp_path):
    rows = clips.rows(3)
    with writer(tmp_path / "a.store") as w:
        w.append(clips.record("a", rows), rows)
        w.append(clips.record("b", None), None)
        assert [(r.clip, r.status) for r in w.records()] == [("a", "ok"), ("b", "failed")]
        s = store.open(w.path)
        assert [r.clip for r in s.records()] == ["b"]
        w.flush()
        assert [r.clip for r in s.records()] == ["a", "b"]
        assert clips.same(s.clip("a"), clips.stored(rows))


def test_flushes_fall_on_multiples_of_the_flush_and_do_not_drift(tmp_path):
    """Counted from row 0: a flush of 12 rows on from row 14 would end at 26, and this one at 24."""
    seen = []
    with writer(tmp_path / "a.store") as w:
        s = store.open(w.path)
        for i, n in enumerate((7, 7, 7, 4, 11)):
            w.append(clips.record(f"{i}", clips.rows(n)), clips.rows(n))
            seen.append(s.n_rows)
    assert seen == [0, 14, 14, 25, 36]


def test_freed_pages_of_the_journal_are_not_written_again(tmp_path):
    with writer(tmp_path / "a.store") as w:
        assert w._index.one("PRAGMA secure_delete") == (2,)  # FAST


def test_a_clip_longer_than_many_flushes(tmp_path):
    rows = clips.rows(100)
    with writer(tmp_path / "a.store") as w:
        w.append(clips.record("a", rows), rows)
    assert clips.same(store.open(tmp_path / "a.store").clip("a"), clips.stored(rows))


def test_exists_unless_it_has_no_rows(tmp_path):
    rows = clips.rows(3)
    with writer(tmp_path / "a.store") as w:
        w.append(clips.record("a", None), None)
        w.append(clips.record("a", None, message="again"), None)
        w.append(clips.record("a", rows), rows)  # retried, and now it works
        with pytest.raises(ClipExistsError, match="'a', track 0") as caught:
            w.append(clips.record("a", rows), rows)
        assert "--overwrite" in caught.value.hint
        w.flush()
        with pytest.raises(ClipExistsError):
            w.append(clips.record("a", None), None)
        w.append(clips.record("a", rows, track=1), rows)
    s = store.open(tmp_path / "a.store")
    assert [(r.clip, r.track, r.start) for r in s.records()] == [("a", 0, 0), ("a", 1, 3)]


def test_replace_keeps_the_old_rows_until_the_new_are_committed(tmp_path):
    old, new = clips.rows(3, 1), clips.rows(5, 2)
    with writer(tmp_path / "a.store") as w:
        w.append(clips.record("a", old), old)
        w.append(clips.record("b", old), old)
        w.flush()
        s = store.open(w.path)
        w.append(clips.record("a", new), new, replace=True)
        assert [r.frames for r in w.records()] == [5, 3]
        assert clips.same(s.clip("a"), clips.stored(old))
        w.flush()
        assert clips.same(s.clip("a"), clips.stored(new))
        assert s.n_rows == 11
    s = store.open(tmp_path / "a.store")
    assert s.n_rows == 8  # closing took the unowned rows out
    assert clips.same(s.clip("a"), clips.stored(new))
    assert clips.same(s.clip("b"), clips.stored(old))
    assert store.verify(tmp_path / "a.store").notes == []


def test_what_is_flushed_is_what_was_appended_last(tmp_path):
    """Rows that wait are in memory too: not the caller's arrays, and none that are out of date."""
    one, two, three = clips.rows(3, 1), clips.rows(4, 2), clips.rows(5, 3)
    expected = {
        name: {k: v.copy() for k, v in clips.stored(given).items()}
        for name, given in (("a", two), ("b", three), ("c", one))
    }
    with writer(tmp_path / "a.store") as w:
        w.append(clips.record("a", one), one)
        w.append(clips.record("a", two), two, replace=True)
        w.append(clips.record("b", two), two)
        w.remove("b")
        w.append(clips.record("b", three), three)
        w.append(clips.record("c", one), one)
        for values in (v for rows in (one, two, three) for v in rows.as_dict().values()):
            values[:] = 0
    s = store.open(tmp_path / "a.store")
    assert all(clips.same(s.clip(name), rows) for name, rows in expected.items())
    assert store.verify(s.path).ok


def test_remove_takes_all_tracks_and_their_rows(tmp_path):
    rows = clips.rows(3)
    path = tmp_path / "a.store"
    with writer(path) as w:
        for track in (0, 1):
            w.append(clips.record("a", rows, track=track), rows)
        w.append(clips.record("b", rows), rows)
        w.flush()
        w.append(clips.record("a", rows, track=2), rows)
        w.remove("a")
        with pytest.raises(ClipNotFoundError, match="'a'"):
            w.remove("a")
        assert [r.clip for r in w.records()] == ["b"]
    assert (len(store.open(path)), store.open(path).n_rows) == (1, 3)
    with writer(path) as w:
        w.remove("b")
    assert store.open(path).n_rows == 0
    assert zarr.open(path / "arrays.zarr")["score"].shape == (0,)
    assert store.verify(path).ok


def test_one_session_for_each_opening_that_appended(tmp_path):
    path, rows = tmp_path / "a.store", clips.rows(2)
    for clip in ("a", None, "b"):
        with writer(path) as w:
            if clip:
                w.append(clips.record(clip, rows), rows)
    assert [r.session for r in store.open(path).records()] == [1, 2]


def test_numpy_scalars_in_a_record_read_back_as_plain_numbers(tmp_path):
    rows = clips.rows(2, invalid=0)
    record = clips.record(
        "a", rows, frames=np.int64(2), fps=np.float32(25), details={"n": np.int64(3)}
    )
    with writer(tmp_path / "a.store") as w:
        w.append(record, rows)
        w.append(clips.record("b", None, width=np.int32(4)), None)
    read = store.open(tmp_path / "a.store").record("a")
    assert (type(read.frames), read.fps, read.details) == (int, 25.0, {"n": 3})
    assert store.open(tmp_path / "a.store").record("b").width == 4


def test_refused_appends_leave_nothing(tmp_path):
    rows = clips.rows(3)
    with writer(tmp_path / "a.store") as w:
        for record, given in [
            (clips.record("../a", rows), rows),
            (clips.record("a", rows), None),
            (clips.record("a", None), rows),
            (clips.record("a", rows, track=-1), rows),
            (clips.record("a", None, status=Status.UNREADABLE, frames=2), None),
            (clips.record("a", rows, details={"x": object()}), rows),
        ]:
            with pytest.raises(StoreError):
                w.append(record, given)
        assert list(w.records()) == []
    assert store.open(tmp_path / "a.store").provenance == {}


@pytest.mark.parametrize(
    ("provenance", "dtype", "text"),
    [
        ({"pack": {"name": "big", "fingerprint": "0" * 64}}, "float16", r"'lite' \(f+\).*'big'"),
        ({**clips.PROVENANCE, "recipe": {"every": 5}}, "float16", "every=1; .* every=5"),
        (clips.PROVENANCE, "float32", "float16, this run makes float32"),
    ],
)
def test_packs_settings_and_dtypes_are_not_mixed(tmp_path, provenance, dtype, text):
    path, rows = tmp_path / "a.store", clips.rows(3)
    with writer(path) as w:
        w.append(clips.record("a", rows), rows)
    with pytest.raises(StoreMismatchError, match=text) as caught:
        writer(path, provenance, dtype)
    assert str(path) in str(caught.value)
    assert "--store" in caught.value.hint
    with writer(path) as w:  # the refusal gave the lock back
        assert [r.clip for r in w.records()] == ["a"]


def test_what_is_no_store_is_refused_and_left_alone(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"x")
    with pytest.raises(store.StoreFormatError, match="got a.mp4"):
        writer(tmp_path / "videos")
    assert [p.name for p in (tmp_path / "videos").iterdir()] == ["a.mp4"]
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(store.StoreFormatError, match="got a file"):
        writer(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with writer(tmp_path / "empty") as w:
        assert list(w.records()) == []


def test_arrays_whose_index_is_lost_are_not_taken_for_a_new_store(tmp_path):
    path, rows = tmp_path / "a.store", clips.rows(3)
    with writer(path) as w:
        w.append(clips.record("a", rows), rows)
    (path / "index.sqlite").unlink()
    with pytest.raises(store.StoreFormatError, match="index.sqlite"):
        writer(path)
    assert zarr.open(path / "arrays.zarr")["score"].shape == (3,)


def test_newer_format_is_refused_by_writer_and_reader(tmp_path):
    path = tmp_path / "a.store"
    writer(path).close()
    with sqlite3.connect(path / "index.sqlite") as db:
        db.execute("UPDATE meta SET value = '2' WHERE key = 'format_version'")
    db.close()
    for opening in (writer, store.open, store.verify, lambda p: list(store.digest(p))):
        with pytest.raises(
            store.StoreFormatError, match="written by format 2; this facepipe reads format 1"
        ) as caught:
            opening(path)
        assert "pgrade" in caught.value.hint


def test_a_closed_writer_says_so(tmp_path):
    w = writer(tmp_path / "a.store")
    w.close()
    w.close()
    with pytest.raises(StoreError, match="closed"):
        w.append(clips.record("a", None), None)


def test_an_error_inside_the_block_keeps_what_was_appended(tmp_path):
    rows = clips.rows(3)
    with pytest.raises(KeyboardInterrupt), writer(tmp_path / "a.store") as w:
        w.append(clips.record("a", rows), rows)
        raise KeyboardInterrupt
    assert clips.same(store.open(tmp_path / "a.store").clip("a"), clips.stored(rows))


def test_index_gives_the_journals_space_back(tmp_path):
    path = tmp_path / "a.store"
    with store.Writer(path, clips.PROVENANCE) as w:
        for i in range(10):
            rows = clips.rows(50, i)
            w.append(clips.record(f"{i}", rows), rows)
        held = (path / "index.sqlite").stat().st_size
    assert held > 1_000_000 > (path / "index.sqlite").stat().st_size
    assert sorted(p.name for p in path.iterdir()) == ["arrays.zarr", "index.sqlite", "writer.lock"]


def test_the_index_is_durable_and_one_file(tmp_path):
    with writer(tmp_path / "a.store") as w:
        assert w._index.one("PRAGMA synchronous") == (2,)
        assert w._index.one("PRAGMA journal_mode") == ("delete",)
        assert w._index.one("PRAGMA auto_vacuum") == (2,)
    assert not list((tmp_path / "a.store").glob("index.sqlite-*"))
