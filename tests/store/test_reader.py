import pickle
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest

import store
from store import Status
from tests.store import store_clips as clips
from tests.store.store_faults import kill


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.store"
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as w:
        for i, n in enumerate((3, 10, 5)):
            rows = clips.rows(n, seed=i)
            w.append(clips.record(f"{i}", rows), rows)
        w.append(clips.record("bad", None), None)
        w.append(clips.record("empty", clips.no_face(2)), clips.no_face(2))
    return path


def test_opening_reads_no_arrays(path, monkeypatch):
    monkeypatch.setattr("store.reader.Arrays", None)
    s = store.open(path)
    assert (len(s), s.n_rows, s.generation) == (5, 20, 0)
    assert [r.clip for r in s.records()] == ["0", "1", "2", "bad", "empty"]


def test_records_by_status(path):
    s = store.open(path)
    assert [r.clip for r in s.records(Status.OK)] == ["0", "1", "2"]
    assert [r.clip for r in s.records([Status.FAILED, Status.NO_FACE])] == ["bad", "empty"]
    assert list(s.records([])) == []


def test_records_in_pages(path, monkeypatch):
    monkeypatch.setattr("store.select.PAGE", 2)
    s = store.open(path)
    assert [r.clip for r in s.records()] == ["0", "1", "2", "bad", "empty"]
    assert [r.start for r in s.records_by_start()] == [0, 3, 13, 18]


def test_index_is_a_table(path):
    table = store.open(path).index()
    assert list(table["clip"]) == ["0", "1", "2", "bad", "empty"]
    assert list(table["status"]) == ["ok", "ok", "ok", "failed", "no_face"]
    assert table["frames"].sum() == 20
    assert table["details"][0] == {"seed": 1}


def test_some_arrays_only(path):
    read = store.open(path).clip("1", arrays=["landmark"])
    assert clips.same(read, {"landmark": clips.rows(10, seed=1).landmark})
    with pytest.raises(store.StoreError, match="no array 'pixels'; expected one of embedding"):
        store.open(path).clip("1", arrays=["pixels"])


def test_missing_clips_and_tracks_are_named(path):
    for args in (("9",), ("1", 1)):
        with pytest.raises(store.ClipNotFoundError, match=f"no clip {args[0]!r}"):
            store.open(path).clip(*args)
        with pytest.raises(KeyError):
            store.open(path).record(*args)


def test_dask_is_lazy_and_in_blocks_of_whole_shards(path, monkeypatch):
    s = store.open(path)
    assert s.dask("embedding").chunks[0] == (20,)  # of up to eight shards of 8
    monkeypatch.setattr("store.reader.SHARDS_A_BLOCK", 1)
    whole = np.concatenate([s.clip(c)["embedding"] for c in ("0", "1", "2", "empty")])
    lazy = s.dask("embedding")
    assert (lazy.shape, lazy.dtype, lazy.chunks[0]) == ((20, 512), np.float16, (8, 8, 4))
    np.testing.assert_array_equal(lazy.compute(), whole)
    np.testing.assert_array_equal(lazy[6:13, ::7].compute(), whole[6:13, ::7])
    np.testing.assert_array_equal(lazy[::-3].compute(), whole[::-3])
    assert s.dask("valid").sum().compute() == sum(r.valid_frames for r in s.records())
    assert s.dask("score").name == store.open(path).dask("score").name
    with pytest.raises(store.StoreError, match="no array"):
        s.dask("pixels")


def test_pickles_by_path(path):
    s = pickle.loads(pickle.dumps(store.open(path)))
    assert clips.same(s.clip("2"), clips.stored(clips.rows(5, seed=2)))
    lazy = pickle.loads(pickle.dumps(s.dask("score")))
    assert lazy.compute().shape == (20,)


def test_what_is_no_store(tmp_path):
    with pytest.raises(store.StoreNotFoundError, match="no such store") as caught:
        store.open(tmp_path / "none.store")
    assert f"pipeline extract VIDEOS --store {tmp_path / 'none.store'}" in caught.value.hint
    (tmp_path / "empty").mkdir()
    with pytest.raises(store.StoreFormatError, match="got an empty folder"):
        store.open(tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(store.StoreFormatError, match="got a file"):
        store.open(tmp_path / "file")
    (tmp_path / "empty" / "index.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(store.StoreFormatError, match="damaged"):
        store.open(tmp_path / "empty")
    (tmp_path / "empty" / "index.sqlite").unlink()
    sqlite3.connect(tmp_path / "empty" / "index.sqlite").execute("CREATE TABLE x (y)")
    with pytest.raises(store.StoreFormatError, match="not the index of a feature store"):
        store.open(tmp_path / "empty")


def test_arrays_that_are_gone(path):
    (path / "arrays.zarr").rename(path.parent / "away")
    with pytest.raises(store.StoreFormatError, match=r"arrays\.zarr is missing"):
        store.open(path)


def test_compaction_between_the_reads(path):
    s = store.open(path)
    lazy, rows = s.dask("score"), clips.rows(4, 9)
    before = s.clip("2")
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as w:
        w.append(clips.record("0", rows), rows, replace=True)
    assert clips.same(s.clip("2"), before)  # its rows have moved; they are looked up anew
    assert clips.same(s.clip("0"), clips.stored(rows))
    for use in (lazy.compute, lambda: s.dask("score")):
        with pytest.raises(store.StoreError, match="was compacted since it was opened") as caught:
            use()
        assert caught.value.hint == "Open it again."
    assert store.open(path).dask("score").compute().shape == (21,)


def test_damaged_rows_are_an_error_that_names_the_clip(path):
    shard = path / "arrays.zarr" / "landmark" / "c" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 255
    shard.write_bytes(data)
    s = store.open(path)
    with pytest.raises(store.StoreError, match="clip '0' cannot be read.*checksum"):
        s.clip("0")
    assert "embedding" in s.clip("0", arrays=["embedding"])
    shard.unlink()
    with pytest.raises(store.StoreError, match="landmark/c/0/0 is missing"):
        s.clip("0")


def test_a_journal_left_hot_by_a_killed_writer_is_rolled_back_by_the_reader(path, tmp_path):
    program = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size=1')\n"
        "db.execute('BEGIN IMMEDIATE')\n"
        "db.execute('DELETE FROM clip')\n"
        "for i in range(300): db.execute('INSERT INTO meta VALUES (?, ?)', (i, 'x' * 999))\n"
        "os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path / "index.sqlite"], check=False)
    assert done.returncode == 9
    assert (path / "index.sqlite-journal").exists()
    assert len(store.open(path)) == 5
    assert not (path / "index.sqlite-journal").exists()


def test_reads_what_it_may_not_write(path):
    modes = {p: p.stat().st_mode for p in [path, *path.rglob("*")]}
    for p in modes:
        p.chmod(0o555 if p.is_dir() else 0o444)
    try:
        assert len(store.open(path).clip("1")["score"]) == 10
        assert store.verify(path).ok
        assert len(list(store.digest(path))) == 5
    finally:
        for p, mode in modes.items():
            p.chmod(mode)


def test_readers_see_whole_clips_only_while_a_writer_is_at_work(tmp_path):
    path = tmp_path / "a.store"
    versions = [clips.rows(n, seed=n) for n in (2, 3, 5, 7)]
    expected = [clips.stored(v) for v in versions]
    store.Writer(path, clips.PROVENANCE, layout=clips.TINY).close()
    stop, wrong, reads = threading.Event(), [], [0]

    def read():
        s = store.open(path)
        rng = np.random.default_rng(0)
        while not stop.is_set():
            names = [r.clip for r in s.records()]
            if not names:
                continue
            clip = names[rng.integers(len(names))]
            found = s.clip(clip)
            reads[0] += 1
            if not any(clips.same(found, e) for e in expected):
                wrong.append(clip)

    def guarded():
        try:
            read()
        except BaseException as error:
            wrong.append(repr(error))

    readers = [threading.Thread(target=guarded) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for session in range(3):
            w = store.Writer(path, clips.PROVENANCE, layout=clips.TINY)
            for i in range(12):
                rows = versions[(i + session) % 4]
                w.append(clips.record(f"{i}", rows), rows, replace=True)
            if session == 1:
                w.flush()
                kill(w)
            else:
                w.close()
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert reads[0] > 10
