import shutil
import sqlite3

import numpy as np
import pytest
import zarr

import store
from store.care import compact, forget
from store.errors import StoreDamagedError
from store.layout import Layout
from store.repair import repair
from tests.store import store_clips as clips
from tests.store.store_faults import Faults, Killed

SECRET = "person-4711/clip.mp4"


@pytest.fixture
def made(tmp_path):
    """A store in which the clip was replaced once, and waits in the journal for a second time."""
    path = tmp_path / "a.store"
    names = ["a.mp4", SECRET, "z.mp4"]
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as w:
        for i, name in enumerate(names):
            w.append(clips.record(name, clips.rows(6, seed=i)), clips.rows(6, seed=i))
        w.append(clips.record(SECRET, clips.rows(5, seed=7), track=1), clips.rows(5, seed=7))
        w.append(clips.record(SECRET, clips.rows(6, seed=8)), clips.rows(6, seed=8), replace=True)
    return path


def patterns():
    """Return bytes that only the rows of the forgotten clip hold."""
    found = [SECRET.encode()]
    for seed, n in ((1, 6), (7, 5), (8, 6)):
        arrays = clips.stored(clips.rows(n, seed=seed))
        found += [arrays[name][0].tobytes()[:64] for name in ("embedding", "landmark", "box")]
        found.append(arrays["timestamp"][:2].tobytes())
    return found


def traces(path):
    """Search every byte of every file, and what every array's chunks hold once decompressed."""
    everything = [f.read_bytes() for f in path.rglob("*") if f.is_file()]
    copy = path.with_name("searched")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    for folder in copy.glob("*.zarr"):
        group = zarr.open(folder, mode="r+")
        for name, array in group.arrays():
            shards = list((folder / name / "c").glob("*"))
            # Beyond the array's end too: a shard is as long whatever the shape says.
            rows = (max((int(s.name) for s in shards), default=-1) + 1) * array.shards[0]
            array.resize((max(rows, array.shape[0]), *array.shape[1:]))
            everything.append(np.ascontiguousarray(array[:]).tobytes())
    return [p for p in patterns() if any(p in data for data in everything)]


def test_no_file_holds_a_trace(made):
    assert traces(made)  # the search finds what is there
    before = dict(store.digest(made))
    assert forget(made, [SECRET]) == 11
    assert traces(made) == []
    del before[SECRET]
    assert dict(store.digest(made)) == before
    report = store.verify(made)
    assert (report.problems, report.notes) == ([], [])
    assert sorted(p.name for p in made.iterdir()) == ["arrays.zarr", "index.sqlite", "writer.lock"]


def test_a_clip_of_the_journal_goes_too_and_the_others_of_it_stay(made):
    other = clips.rows(3, seed=30)
    w = store.Writer(made, clips.PROVENANCE, layout=Layout(4, 8, 1000))
    w.append(clips.record(SECRET, clips.rows(6, seed=1)), clips.rows(6, seed=1), replace=True)
    w.append(clips.record("new.mp4", other), other)
    w._abandon()
    forget(made, [SECRET])
    assert traces(made) == []
    compact(made)
    assert clips.same(store.open(made).clip("new.mp4"), clips.stored(other))


def test_rows_of_a_flush_that_was_cut_short_go_too(made, monkeypatch):
    w = store.Writer(made, clips.PROVENANCE, layout=Layout(4, 8, 1000))
    rows = clips.rows(6, seed=1)
    w.append(clips.record(SECRET, rows), rows, replace=True)
    with monkeypatch.context() as patch:
        faults = Faults(patch)
        commits = [0]

        def stop():
            commits[0] += 1
            raise Killed

        patch.setattr(w._index, "_commit", stop)
        with pytest.raises(Killed):
            w.flush()
        assert faults.names and commits == [1]
    w._abandon()
    forget(made, [SECRET])
    assert traces(made) == []


def test_the_old_shards_are_overwritten_before_they_go(made, monkeypatch):
    import store.durable

    seen = {}

    def look(folder):
        if folder.name == "arrays.old.zarr" and folder.exists():
            for file in folder.rglob("c/**/*"):
                if file.is_file():
                    seen[str(file.relative_to(folder))] = any(file.read_bytes())
        real(folder)

    real = store.durable.remove_tree
    monkeypatch.setattr("store.durable.remove_tree", look)
    record = store.open(made).record(SECRET)
    shard = record.start // 8
    forget(made, [SECRET])
    assert seen[f"embedding/c/{shard}/0"] is False
    assert seen[f"score/c/{shard}"] is False


def test_older_rows_and_what_a_killed_writer_left_are_overwritten_too(made, monkeypatch):
    import store.durable

    w = store.Writer(made, clips.PROVENANCE, layout=Layout(4, 8, 1000))
    rows, old = clips.rows(6, seed=1), store.open(made).record(SECRET).start
    w.append(clips.record(SECRET, rows), rows, replace=True)
    w.flush()  # its older rows stay until the writer closes
    w._arrays.resize(w._committed + 20)  # as a flush that is cut short does
    w._arrays.write(w._committed, {"box": np.ones((20, 4), np.float32)})
    beyond = made / "arrays.zarr" / "box" / "c" / str((w._committed + 19) // 8) / "0"
    w._abandon()
    (made / "arrays.next.zarr").mkdir()
    (made / "arrays.next.zarr" / "half").write_bytes(b"seen")
    (made / "arrays.zarr" / "box.partial").write_bytes(b"seen")
    last, seen = store.open(made).record(SECRET).start, {}
    for name in ("remove", "remove_tree"):
        real = getattr(store.durable, name)

        def look(path, real=real):
            for file in (path, *path.rglob("*")):
                if file.is_file():
                    seen[str(file.relative_to(made))] = any(file.read_bytes())
            real(path)

        monkeypatch.setattr(store.durable, name, look)
    forget(made, [SECRET])
    for file in (
        f"arrays.old.zarr/box/c/{old // 8}/0",
        f"arrays.old.zarr/box/c/{last // 8}/0",
        str(beyond.relative_to(made)),
        "arrays.next.zarr/half",
        "arrays.zarr/box.partial",
    ):
        assert seen[file] is False, file
    assert traces(made) == []


def test_damage_of_another_clip_says_how_to_go_on(made):
    shard = made / "arrays.zarr" / "box" / "c" / str(store.open(made).record("a.mp4").start // 8)
    (shard / "0").unlink()
    forgettable = dict(store.open(made).index()[["clip", "start"]].values)
    assert forgettable[SECRET] // 8 != forgettable["a.mp4"] // 8
    with pytest.raises(StoreDamagedError, match="is missing") as caught:
        forget(made, [SECRET])
    assert f"verify --repair {made}" in caught.value.hint
    repair(made)
    forget(made, [SECRET])
    assert traces(made) == []


def test_unknown_clips_change_nothing(made):
    before = {f: f.read_bytes() for f in made.rglob("*") if f.is_file()}
    with pytest.raises(store.ClipNotFoundError, match=r"holds no clip 'x.mp4', 'y.mp4'; nothing"):
        forget(made, ["x.mp4", SECRET, "y.mp4"])
    assert before == {f: f.read_bytes() for f in made.rglob("*") if f.is_file()}


@pytest.mark.no_cover
def test_a_kill_leaves_the_clip_or_takes_it(memory, monkeypatch):
    made = memory / "a.store"
    with store.Writer(made, clips.PROVENANCE, layout=Layout(8, 16, 12)) as w:
        for i, name in enumerate(["a.mp4", SECRET]):
            w.append(clips.record(name, clips.rows(6, seed=i)), clips.rows(6, seed=i))
    before = dict(store.digest(made))
    after = {k: v for k, v in before.items() if k != SECRET}
    monkeypatch.setattr("os.fsync", lambda fd: None)
    outcomes = []
    with monkeypatch.context() as patch:
        faults = Faults(patch)
        for at in range(1000):
            copy = memory / "copy.store"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(made, copy)
            faults.arm(at)
            try:
                forget(copy, [SECRET])
            except Killed:
                faults.arm(None)
                assert store.verify(copy).ok
                found = dict(store.digest(copy))
                assert found in (before, after)
                compact(copy)
                if found == after:
                    assert traces(copy) == []
                outcomes.append(found == after)
                continue
            break
    assert outcomes == sorted(outcomes)
    assert {True, False} == set(outcomes)


def test_a_store_being_written_is_left_alone(made):
    with store.Writer(made, clips.PROVENANCE), pytest.raises(store.StoreLockedError):
        forget(made, [SECRET])
    assert SECRET in dict(store.digest(made))


def test_compact_closes_holes_and_gives_space_back(made):
    with store.Writer(made, clips.PROVENANCE) as w:
        w.remove(SECRET)
        w.flush()
        w._abandon()
    assert store.verify(made).notes  # rows that nobody owns
    before, after = compact(made)
    assert after < before
    assert store.verify(made).notes == []
    db = sqlite3.connect(made / "index.sqlite")
    assert db.execute("PRAGMA freelist_count").fetchone() == (0,)
    db.close()


def test_what_earlier_deletions_left_in_the_index_goes_too(made):
    rows, left = clips.rows(3), b"seen in Basel"
    with store.Writer(made, clips.PROVENANCE) as w:
        w.append(clips.record(SECRET, rows, track=3, message=left.decode()), rows)
    with store.Writer(made, clips.PROVENANCE) as w:
        w._index.connection.execute("PRAGMA secure_delete=OFF")  # the default of some builds
        w.remove(SECRET, 3)
    assert left in (made / "index.sqlite").read_bytes()
    forget(made, [SECRET])
    assert left not in (made / "index.sqlite").read_bytes()
    assert traces(made) == []
