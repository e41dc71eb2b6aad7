"""Crops: everything that the store promises for rows holds for them."""

import dataclasses
import pickle
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
import zarr

import store
from store import durable
from store.care import compact, forget
from store.exchange import export
from store.exchange_formats import import_from
from store.layout import Layout
from store.merge import merge
from store.repair import repair
from store.schema import ClipCrops
from tests.store import store_clips as clips
from tests.store.store_faults import TORN, Faults, Killed, kill

SIZE = clips.CROP


def writer(path, **changes):
    options = {"layout": clips.TINY, "crop_size": SIZE} | changes
    return store.Writer(path, clips.PROVENANCE, **options)


def made(n, seed, k=2):
    return clips.with_crops(clips.rows(n, seed=seed), k, seed)


GIVEN = {"a": made(5, 1, 3), "b": made(9, 2, 5), "c": made(4, 3, 1), "none": clips.no_face(3)}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(durable.os, "fsync", lambda fd: None)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.store"
    with writer(path) as w:
        for clip, rows in GIVEN.items():
            w.append(clips.record(clip, rows), rows)
        w.append(clips.record("bad", None), None)
    return path


def holds(path, given):
    """Whether a store holds these clips with these crops, and nothing is wrong with it."""
    s = store.open(path)
    report = store.verify(path)
    assert (report.problems, report.notes) == ([], [])
    held = {(r.clip, r.track) for r in s.records(where="start IS NOT NULL")}
    assert held == {key if isinstance(key, tuple) else (key, 0) for key in given}
    for key, rows in given.items():
        key = key if isinstance(key, tuple) else (key, 0)
        assert clips.same(s.clip(*key), clips.stored(rows)), key
        assert clips.same_crops(s.crops(*key), rows), key
    counts = [0 if rows.crops is None else len(rows.crops.frames) for rows in given.values()]
    assert s.n_crops == sum(counts)
    return True


def test_are_read_back(path):
    assert holds(path, GIVEN)
    s = store.open(path)
    assert (s.crop_size, s.n_crops) == (SIZE, 9)
    lazy = s.dask("crop")
    assert (lazy.shape, lazy.dtype, lazy.chunks[0]) == ((9, SIZE, SIZE, 3), np.uint8, (3, 3, 3))
    for found in s.crop_records():
        images = lazy[found.start : found.stop].compute()
        assert clips.same_crops((np.asarray(found.frames), images), GIVEN[found.clip])
    assert [spec.name for spec in s.specs] == [spec.name for spec in store.array_specs()]
    assert set(s.clip("a")) == {spec.name for spec in s.specs}
    assert pickle.loads(pickle.dumps(lazy)).compute().shape == lazy.shape
    with pytest.raises(store.ClipNotFoundError):
        s.crops("a", 1)
    assert zarr.open(path / "arrays.zarr")["crop"].shape == (9, SIZE, SIZE, 3)


def test_a_store_without_says_so(tmp_path):
    rows = clips.rows(3)
    with store.Writer(tmp_path / "a.store", clips.PROVENANCE) as w:
        w.append(clips.record("a", rows), rows)
    s = store.open(tmp_path / "a.store")
    assert (s.crop_size, s.n_crops, list(s.crop_records())) == (None, 0, [])
    for use in (lambda: s.crops("a"), lambda: s.dask("crop")):
        with pytest.raises(store.StoreError, match="holds no"):
            use()
    tables = sqlite3.connect(tmp_path / "a.store" / "index.sqlite").execute(
        "SELECT COUNT(*) FROM sqlite_schema WHERE name LIKE '%crop%'"
    )
    assert tables.fetchone() == (0,)
    assert not (tmp_path / "a.store" / "arrays.zarr" / "crop").exists()


def test_all_clips_or_none(path, tmp_path):
    with store.Writer(tmp_path / "b.store", clips.PROVENANCE) as w:
        with pytest.raises(store.StoreError, match="crop: expected none, as in all of this store"):
            w.append(clips.record("a", GIVEN["a"]), GIVEN["a"])
        assert list(w.records()) == []
    with writer(path) as w:
        bare = clips.rows(5)
        with pytest.raises(store.StoreError, match="crop: expected at least one"):
            w.append(clips.record("x", bare), bare)
    for size, told in ((None, "this run makes no crops"), (9, "makes crops of 9 pixels")):
        with pytest.raises(store.StoreMismatchError, match=f"holds crops of 6 pixels, .*{told}"):
            writer(path, crop_size=size)
    with pytest.raises(store.StoreMismatchError, match="holds no crops, this run makes crops"):
        writer(tmp_path / "b.store")
    with pytest.raises(store.StoreMismatchError, match="holds crops of size None"):
        store.open([path, tmp_path / "b.store"])
    assert holds(path, GIVEN)


@pytest.mark.parametrize(
    ("frames", "shape", "told"),
    [
        ([0, 0], (2, SIZE, SIZE, 3), "ascending frame numbers"),
        ([1, 0], (2, SIZE, SIZE, 3), "ascending frame numbers"),
        ([0, 99], (2, SIZE, SIZE, 3), "valid frames only"),
        ([0], (2, SIZE, SIZE, 3), r"expected \(1, 6, 6, 3\) uint8, got \(2, 6, 6, 3\)"),
        ([0, 1], (2, SIZE, 7, 3), r"got \(2, 6, 7, 3\)"),
    ],
)
def test_crops_that_do_not_fit_the_rows_are_refused(path, frames, shape, told):
    rows = clips.rows(4, invalid=0)
    crops = ClipCrops(np.array(frames), np.ones(shape, np.uint8))
    with writer(path) as w, pytest.raises(store.StoreError, match=told):
        w.append(clips.record("x", rows), dataclasses.replace(rows, crops=crops))
    assert holds(path, GIVEN)


def test_a_frame_without_a_face_has_no_crop(path):
    rows = clips.rows(6, invalid=0)
    rows.valid[2] = False
    for array in (rows.embedding, rows.appearance, rows.landmark, rows.box, rows.score):
        array[2] = np.nan
    crops = ClipCrops(np.array([1, 2]), np.ones((2, SIZE, SIZE, 3), np.uint8))
    with writer(path) as w, pytest.raises(store.StoreError, match="valid frames only"):
        w.append(clips.record("x", rows), dataclasses.replace(rows, crops=crops))


def test_replaced_and_removed(path):
    new = made(7, 20, 4)
    with writer(path) as w:
        w.append(clips.record("a", new), new, replace=True)
        w.append(clips.record("b", new, track=1), new)
        w.remove("c")
        w.append(clips.record("waits", new), new)
        w.remove("waits")
    given = {k: v for k, v in GIVEN.items() if k != "c"} | {"a": new, ("b", 1): new}
    assert holds(path, given)
    assert store.open(path).generation == 1


def test_replaced_by_a_record_without_rows(path):
    with writer(path) as w:
        w.append(clips.record("a", None), None, replace=True)
    assert holds(path, {k: v for k, v in GIVEN.items() if k != "a"})


def test_crops_fill_a_flush_before_the_rows_do(tmp_path):
    rows = [made(1, i, 1) for i in range(7)]
    w = writer(tmp_path / "a.store")
    for i, given in enumerate(rows):
        w.append(clips.record(str(i), given), given)
    assert store.open(tmp_path / "a.store").n_crops == 7
    w.close()
    assert holds(tmp_path / "a.store", {str(i): given for i, given in enumerate(rows)})


def test_digest_counts_them_in_and_verify_reads_them(path, tmp_path):
    other = dataclasses.replace(
        GIVEN["a"], crops=ClipCrops(GIVEN["a"].crops.frames, 255 - GIVEN["a"].crops.images)
    )
    with writer(tmp_path / "b.store") as w:
        for clip in reversed(GIVEN):
            rows = GIVEN[clip] if clip != "a" else other
            w.append(clips.record(clip, rows), rows)
    one, two = dict(store.digest(path)), dict(store.digest(tmp_path / "b.store"))
    assert {clip for clip in GIVEN if one[clip] != two[clip]} == {"a"}
    with store.Writer(tmp_path / "c.store", clips.PROVENANCE) as w:
        bare = dataclasses.replace(GIVEN["a"], crops=None)
        w.append(clips.record("a", bare), bare)
    assert dict(store.digest(tmp_path / "c.store"))["a"] != one["a"]


def damage(path):
    shard = path / "arrays.zarr" / "crop" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 255
    shard.write_bytes(data)


def alter(path, statement):
    with sqlite3.connect(path / "index.sqlite") as db:
        db.execute(statement)


@pytest.mark.parametrize(
    ("act", "clip", "told"),
    [
        (damage, "a", "crop: cannot be read"),
        (
            lambda path: shutil.rmtree(path / "arrays.zarr" / "crop" / "c" / "0"),
            "a",
            "crop: cannot be read: crop/c/0/0/0/0 is missing",
        ),
        (
            lambda path: alter(path, "UPDATE crop SET crops_sha256 = 'x' WHERE clip = 'b'"),
            "b",
            "crop: the hash of its crops is not the one in the index",
        ),
        (
            lambda path: alter(path, "DELETE FROM crop WHERE clip = 'b'"),
            "b",
            "crop: expected crops of its valid frames, got none",
        ),
        (
            lambda path: alter(path, "UPDATE crop SET start = 1 WHERE clip = 'b'"),
            "b",
            "crop: its rows overlap",
        ),
        (
            lambda path: alter(path, "UPDATE crop SET start = 90 WHERE clip = 'b'"),
            "b",
            "crop: rows 90 to 95 lie outside the 9 committed ones",
        ),
        (
            lambda path: alter(path, "UPDATE crop SET frames = '[99]' WHERE clip = 'c'"),
            "c",
            "crop: expected ascending valid frames",
        ),
        (
            lambda path: alter(path, "INSERT INTO crop VALUES ('ghost', 0, 9, 0, '[]', '')"),
            "ghost",
            "crop: belongs to no clip with rows",
        ),
    ],
)
def test_damage_is_told_and_repaired(path, act, clip, told):
    act(path)
    problems = store.verify(path).problems
    assert any(f"clip {clip!r}" in line and told in line for line in problems), problems
    if act is damage:
        with pytest.raises(store.StoreError, match="crops of clip 'a' cannot be read"):
            store.open(path).crops("a")
        with pytest.raises(store.StoreError, match="clip 'a': crop: cannot be read"):
            dict(store.digest(path))
    bad = {line.split("'")[1] for line in problems}
    done = repair(path)
    assert set(done.clips) == bad
    assert holds(path, {k: v for k, v in GIVEN.items() if k not in bad})
    assert [r.clip for r in store.open(path).records(store.Status.FAILED)] == sorted({"bad", *bad})


def test_a_damaged_journal_is_repaired(path):
    w = writer(path, layout=Layout())  # flushes later
    w.append(clips.record("x", GIVEN["a"]), GIVEN["a"])
    w.append(clips.record("y", GIVEN["c"]), GIVEN["c"])
    kill(w)
    alter(path, "UPDATE pending_crop SET data = zeroblob(length(data)) WHERE pending = 1")
    assert set(repair(path).clips) == {"x"}
    writer(path).close()
    assert holds(path, GIVEN | {"y": GIVEN["c"]})


def test_merged(path, tmp_path):
    other = {"d": made(6, 30, 4), "e": made(3, 31, 1)}
    with writer(tmp_path / "b.store") as w:
        for clip, rows in other.items():
            w.append(clips.record(clip, rows), rows)
        w.append(clips.record("gone", GIVEN["a"]), GIVEN["a"])
    with writer(tmp_path / "b.store") as w:
        w.remove("gone")
    several = store.open([tmp_path / "b.store", path])
    assert (several.n_crops, several.crop_size) == (14, SIZE)
    lazy = several.dask("crop")
    for found in several.crop_records():
        images = lazy[found.start : found.stop].compute()
        assert clips.same_crops((np.array(found.frames), images), (GIVEN | other)[found.clip])
    assert clips.same_crops(several.crops("d"), other["d"])
    merge(tmp_path / "m.store", [tmp_path / "b.store", path], layout=clips.TINY)
    assert holds(tmp_path / "m.store", GIVEN | other)
    assert dict(store.digest(tmp_path / "m.store")) == dict(
        store.digest([tmp_path / "b.store", path])
    )


def test_merge_refuses_damaged_ones(path, tmp_path):
    alter(path, "UPDATE crop SET crops_sha256 = 'x' WHERE clip = 'b'")
    with pytest.raises(store.StoreError, match="clip 'b': crop: the hash"):
        merge(tmp_path / "m.store", [path], layout=clips.TINY)
    assert not (tmp_path / "m.store").exists()


def traces(path, rows):
    """Return how many files, and arrays once they are decompressed, hold a crop of the rows."""
    wanted = [image.tobytes()[:32] for image in rows.crops.images]
    data = [f.read_bytes() for f in path.rglob("*") if f.is_file()]
    copy = path.with_name("searched")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    for folder in copy.glob("*.zarr"):
        array = zarr.open(folder / "crop", mode="r+")
        shards = [int(s.name) for s in (folder / "crop" / "c").glob("*")]
        array.resize((max([*shards, 0]) * 3 + 3, *array.shape[1:]))  # beyond its end too
        data.append(np.ascontiguousarray(array[:]).tobytes())
    return sum(any(w in d for w in wanted) for d in data)


def test_forgotten(path):
    with writer(path) as w:
        w.append(clips.record("a", GIVEN["a"], track=1), GIVEN["a"])
    w = writer(path)
    secret = made(3, 77, 2)
    w.append(clips.record("b", secret), secret, replace=True)
    kill(w)  # a clip that waits in the journal, over rows that are committed
    for rows in (GIVEN["b"], secret):
        assert traces(path, rows) > 0
    forget(path, ["b"])
    for rows in (GIVEN["b"], secret):
        assert traces(path, rows) == 0
    left = {k: v for k, v in GIVEN.items() if k != "b"} | {("a", 1): GIVEN["a"]}
    assert holds(path, left)


def test_forgetting_overwrites_the_shards(path, monkeypatch):
    seen = []
    monkeypatch.setattr("store.durable.overwrite", seen.append)
    forget(path, ["c"])
    names = {p.relative_to(path).as_posix() for p in seen if "/crop/" in p.as_posix()}
    assert names == {"arrays.old.zarr/crop/c/2/0/0/0"}


def test_compacted(path):
    w = writer(path)
    w.append(clips.record("x", GIVEN["a"]), GIVEN["a"])
    w.remove("b")
    kill(w)
    compact(path)
    assert holds(path, {k: v for k, v in GIVEN.items() if k != "b"} | {"x": GIVEN["a"]})


def test_leave_no_trace_in_exports_and_are_refused_in_imports(path, tmp_path):
    with store.open(path) as s:
        assert export(s, "npz", tmp_path / "npz").clips == 5
    assert "crop" not in np.load(tmp_path / "npz" / "a.npz").files
    with pytest.raises(store.StoreMismatchError, match="holds crops of 6 pixels"):
        import_from(tmp_path / "npz", "npz", path)


OLD, NEW = made(5, 1, 2), made(9, 2, 3)


def steps(w):
    """Yield what must be there after each step of a session that touches everything."""
    state = dict.fromkeys("abc", OLD)
    yield state
    w.append(clips.record("b", NEW), NEW, replace=True)
    yield (state := {**state, "b": NEW})
    w.append(clips.record("d", NEW), NEW)
    yield (state := {**state, "d": NEW})
    w.remove("a")
    yield (state := {k: v for k, v in state.items() if k != "a"})
    w.append(clips.record("e", OLD), OLD)
    yield (state := {**state, "e": OLD})
    w.close()
    yield state


def session(path, faults):
    """Run a session up to the fault that is armed; return the states that are allowed then."""
    states, w = [dict.fromkeys("abc", OLD)], None
    try:
        w = writer(path)
        for state in steps(w):
            states.append(state)
    except Killed:
        faults.arm(None)
        if w is not None:
            kill(w)
    return [states[-1], *following(len(states))]


def chosen(passed, after):
    """Return points to stop at; test_faults.py stops at all of them.

    Commits and renames, where what a reader sees changes, and before these some of the others.
    """
    rare = [i for i, name in enumerate(passed) if name in ("_commit", "rename")]
    others = [] if after else [i for i in range(len(passed)) if i not in rare][::9]
    return [(i, passed[i]) for i in sorted({*rare, *others})]


def lengths(state):
    return {clip: len(rows) for clip, rows in state.items()}


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_loses_rows_and_crops_of_a_clip_together_or_neither(tmp_path, monkeypatch, after):
    """Killed halfway through what can be left half done, else before (or after) the point."""
    monkeypatch.setattr("store.index._PRAGMAS", ("synchronous=OFF", "auto_vacuum=INCREMENTAL"))
    base, path = tmp_path / "base.store", tmp_path / "a.store"
    with writer(base) as w:
        for clip in "abc":
            w.append(clips.record(clip, OLD), OLD)
    faults = Faults(monkeypatch)
    shutil.copytree(base, path)
    faults.arm(None)
    session(path, faults)
    passed = list(faults.names)
    assert passed.count("_commit") >= 8  # appends, flushes, a compaction
    for at, name in chosen(passed, after):
        shutil.rmtree(path)
        shutil.copytree(base, path)
        faults.arm(at, after=after, torn=not after and name in TORN)
        allowed = session(path, faults)
        assert faults.last == name
        reader = store.open(path)  # before anyone has mended anything
        for record in reader.records():
            rows = OLD if record.frames == len(OLD) else NEW
            assert clips.same_crops(reader.crops(record.clip), rows), (at, record.clip)
        writer(path).close()
        found = {r.clip: OLD if r.frames == len(OLD) else NEW for r in store.open(path).records()}
        assert lengths(found) in map(lengths, allowed), (at, name)
        assert holds(path, found)


def following(done):
    class Nothing:
        def __getattr__(self, name):
            return lambda *args, **kwargs: None

    return [dict.fromkeys("abc", OLD), *steps(Nothing())][done : done + 1]


def test_a_process_killed_in_the_middle(path):
    program = (
        "import os, sys\n"
        "from tests.store.test_crops import writer, made, clips\n"
        "w = writer(sys.argv[1])\n"
        "rows = made(6, 50, 3)\n"
        "w.append(clips.record('x', rows), rows)\n"
        "os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert done.returncode == 9
    writer(path).close()
    assert holds(path, GIVEN | {"x": made(6, 50, 3)})
