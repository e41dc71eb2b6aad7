"""A writer that is stopped, or refused, at the points where it changes the disk."""

import errno
import shutil
import sqlite3

import pytest

import store
from store import durable
from store.index import Index
from tests.store import store_clips as clips
from tests.store.store_faults import Faults, Killed, kill

OLD, NEW = clips.rows(5, 1), clips.rows(9, 2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "a.store"
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as w:
        for clip in ("a", "b", "c"):
            w.append(clips.record(clip, OLD), OLD)
    return path


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(durable.os, "fsync", lambda fd: None)
    monkeypatch.setattr("store.index._PRAGMAS", ("synchronous=OFF", "auto_vacuum=INCREMENTAL"))


def steps(w):
    """Yield what the store must hold after each step of a session that touches everything."""
    state = dict.fromkeys("abc", OLD)
    yield dict(state)
    w.append(clips.record("b", NEW), NEW, replace=True)
    yield dict(state := {**state, "b": NEW})
    w.append(clips.record("d", NEW), NEW)  # fills the journal: a flush
    yield dict(state := {**state, "d": NEW})
    w.remove("a")
    yield dict(state := {k: v for k, v in state.items() if k != "a"})
    w.append(clips.record("e", OLD), OLD)
    yield dict(state := {**state, "e": OLD})
    w.close()  # a flush and a compaction
    yield state


def held(s):
    return {r.clip: s.clip(r.clip) for r in s.records()}


def is_state(found, state):
    return found.keys() == state.keys() and all(
        clips.same(found[k], clips.stored(state[k])) for k in state
    )


def run(path, faults, at, after=False):
    """Run the session up to the fault; return the states allowed from then on, or None."""
    w, states = None, []
    w = store.Writer(path, clips.PROVENANCE, layout=clips.TINY)
    faults.arm(at, after)
    try:
        for state in steps(w):
            states.append(state)
    except BaseException as error:
        if not isinstance(error, Killed | store.StoreWriteError):
            raise
        faults.arm(None)
        kill(w)
        done = len(states)
        full = list(all_states())
        return full[done - 1 : done + 1]
    return None


def all_states():
    class Nothing:
        def __getattr__(self, name):
            return lambda *args, **kwargs: None

    return steps(Nothing())


def points(base, tmp_path, monkeypatch):
    faults = Faults(monkeypatch)
    shutil.copytree(base, tmp_path / "count.store")
    assert run(tmp_path / "count.store", faults, None) is None
    names = list(faults.names)
    rare = [i for i, name in enumerate(names) if name in ("rename", "remove_tree", "_commit")]
    often = [i for i, name in enumerate(names) if name in ("write_file", "sync_folder")]
    assert {"rename", "remove_tree", "_commit", "write_file", "sync_folder"} == set(names)
    return faults, sorted(rare + often[::19])


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_point_the_store_is_whole(base, tmp_path, monkeypatch, after):
    faults, stops = points(base, tmp_path, monkeypatch)
    assert len(stops) > 20
    for at in stops[after :: 1 + after]:
        path = tmp_path / f"{at}.store"
        shutil.copytree(base, path)
        allowed = run(path, faults, at, after)
        assert allowed is not None, f"point {at} was not reached"
        # A reader before anyone has mended anything: every clip whole, in the old or new version.
        for clip, rows in held(store.open(path)).items():
            assert any(clips.same(rows, clips.stored(v)) for v in (OLD, NEW)), (at, clip)
        assert store.verify(path).problems == []
        with store.Writer(path, clips.PROVENANCE, layout=clips.TINY):
            pass
        found = held(store.open(path))
        assert any(is_state(found, state) for state in allowed), (at, faults.names, found.keys())
        report = store.verify(path)
        assert (report.problems, report.notes) == ([], [])
        assert report.rows == sum(r.frames for r in store.open(path).records())
        assert sorted(p.name for p in path.iterdir()) == [
            "arrays.zarr", "index.sqlite", "writer.lock",
        ]  # fmt: skip
        assert not list(path.rglob("*.partial"))
        shutil.rmtree(path)


def full_disk():
    return OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_at_any_point_is_one_line_and_loses_nothing(base, tmp_path, monkeypatch):
    faults, stops = points(base, tmp_path, monkeypatch)
    stops = [i for i in stops if faults.names[i] in ("write_file", "rename", "_commit")]
    faults.error = lambda: (
        sqlite3.OperationalError("database or disk is full")
        if faults.names[-1] == "_commit"
        else full_disk()
    )
    for at in stops[::2]:
        path = tmp_path / f"{at}.store"
        shutil.copytree(base, path)
        w = store.Writer(path, clips.PROVENANCE, layout=clips.TINY)
        faults.arm(at)
        done = []
        with pytest.raises(store.StoreWriteError, match="the disk is full") as caught:
            for state in steps(w):
                done.append(state)
        assert "\n" not in str(caught.value)
        assert "Free some space" in caught.value.hint
        assert caught.value.exit_code == 1
        faults.arm(None)
        w.close()  # there is room again: the same writer may go on, if it was not closing
        with store.Writer(path, clips.PROVENANCE, layout=clips.TINY):
            pass
        found = held(store.open(path))
        assert any(is_state(found, s) for s in list(all_states())[len(done) - 1 : len(done) + 1])
        assert (store.verify(path).problems, store.verify(path).notes) == ([], [])
        shutil.rmtree(path)


def test_full_disk_that_stays_full_keeps_the_journal(base, tmp_path, monkeypatch):
    path = tmp_path / "a.store"
    shutil.copytree(base, path)

    def refuse(*args):
        raise full_disk()

    with monkeypatch.context() as patch:
        w = store.Writer(path, clips.PROVENANCE, layout=clips.TINY)
        w.append(clips.record("d", OLD), OLD)
        patch.setattr(durable, "write_file", refuse)
        with pytest.raises(store.StoreWriteError):
            w.close()
        assert sorted(held(store.open(path))) == ["a", "b", "c"]
        assert any("wait in the journal" in note for note in store.verify(path).notes)
        assert store.verify(path).ok
        with pytest.raises(store.StoreWriteError):  # too full to say who holds the lock
            store.Writer(path, clips.PROVENANCE)
    with store.Writer(path, clips.PROVENANCE) as w:
        assert [r.clip for r in w.records()] == ["a", "b", "c", "d"]
    assert clips.same(store.open(path).clip("d"), clips.stored(OLD))


def test_sqlite_itself_runs_out_of_room(tmp_path):
    path = tmp_path / "a.store"
    with store.Writer(path, clips.PROVENANCE) as w:
        w.append(clips.record("a", OLD), OLD)
        pages = w._index.one("PRAGMA page_count")[0]
        w._index.connection.execute(f"PRAGMA max_page_count={pages + 1}")
        big = clips.rows(60)
        with pytest.raises(store.StoreWriteError, match="the disk is full"):
            w.append(clips.record("big", big), big)
        assert [r.clip for r in w.records()] == ["a"]
    assert clips.same(store.open(path).clip("a"), clips.stored(OLD))


def test_a_making_that_was_cut_short_is_started_again(tmp_path, monkeypatch):
    faults = Faults(monkeypatch)
    store.Writer(tmp_path / "count.store", clips.PROVENANCE, layout=clips.TINY).close()
    count = len(faults.names)
    for at in range(0, count, 4):
        path = tmp_path / f"{at}.store"
        faults.arm(at)
        with pytest.raises(Killed):
            store.Writer(path, clips.PROVENANCE, layout=clips.TINY).close()
        faults.arm(None)
        with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as w:
            w.append(clips.record("a", OLD), OLD)
        assert clips.same(store.open(path).clip("a"), clips.stored(OLD))
        assert not list(path.rglob("*.partial"))


def test_arrays_past_the_last_commit_are_a_note_and_then_cut(base, tmp_path, monkeypatch):
    path = tmp_path / "a.store"
    shutil.copytree(base, path)
    w = store.Writer(path, clips.PROVENANCE, layout=clips.TINY)
    w.append(clips.record("d", OLD), OLD)
    monkeypatch.setattr(Index, "_commit", lambda self: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        w.flush()
    monkeypatch.undo()
    kill(w)
    (path / "writer.json").unlink()
    report = store.verify(path)
    assert report.ok
    assert any("past the last commit" in note for note in report.notes)
    w = store.Writer(path, clips.PROVENANCE, layout=clips.TINY)
    assert set(w._arrays.lengths().values()) == {15}
    w.close()
    assert store.open(path).n_rows == 20
