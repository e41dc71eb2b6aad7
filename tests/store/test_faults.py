"""A writer that is stopped, or refused, at the points where it changes the disk."""

import errno
import multiprocessing
import shutil
import sqlite3
from contextlib import suppress

import pytest

import store
from store import durable
from store.index import Index
from store.layout import Layout
from tests.store import store_clips as clips
from tests.store.store_faults import (
    POINTS,
    SYNCS,
    TORN,
    Faults,
    Killed,
    kill,
    nth,
    read_all,
    strays,
)

OLD, NEW = clips.rows(5, 1), clips.rows(9, 2)
ARRAYS = ("embedding", "timestamp")  # what the reader compares, for the sake of time
# Two flushes, the second one into two shards; small, so that every point is stopped at.
SMALL = Layout(chunk_rows=8, shard_rows=32, flush_rows=24)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "a.store"
    with store.Writer(path, clips.PROVENANCE, layout=SMALL) as w:
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


def run(path, faults, at, torn=False):
    """Run the session up to the fault; return the states allowed from then on, or None.

    Opening the store is part of the session.
    """
    w, states = None, [dict.fromkeys("abc", OLD)]
    faults.arm(at, torn=torn)
    try:
        w = store.Writer(path, clips.PROVENANCE, layout=SMALL)
        for state in steps(w):
            states.append(state)
    except BaseException as error:
        if not isinstance(error, Killed | store.StoreWriteError):
            raise
        faults.arm(None)
        if w is not None:
            kill(w)
        full = [states[0], *all_states()]
        return full[len(states) - 1 : len(states) + 1]
    return None


def all_states():
    class Nothing:
        def __getattr__(self, name):
            return lambda *args, **kwargs: None

    return steps(Nothing())


@pytest.fixture(scope="module")
def passed(base, tmp_path_factory):
    """The points of one whole session, and what changed on the disk outside them."""
    path = tmp_path_factory.mktemp("count") / "a.store"
    shutil.copytree(base, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable.os, "fsync", lambda fd: None)
        faults = Faults(patch)
        with strays(faults, path) as outside:
            assert run(path, faults, None) is None
    return list(faults.names), outside


def every(passed):
    """Return every point, but of syncs in a row the first: nothing changes between them."""
    names = passed[0]
    return [i for i, name in enumerate(names) if not (name in SYNCS and names[i - 1] in SYNCS)]


def killing(passed):
    """Return every point before which the disk is another one than before the last."""
    return [i for i in every(passed) if passed[0][i] != "sync_file"]


def refusing(passed):
    """Return every point, but of each file that is refused its sync or its name one in turn."""
    turn = {i: k % 2 for k, i in enumerate(i for i in every(passed) if passed[0][i] == "sync_file")}
    return [i for i in every(passed) if not (turn.get(i) == 0 or turn.get(i - 1) == 1)]


def test_no_change_of_a_file_is_outside_the_points(passed):
    names, outside = passed
    # Nothing is overwritten but where a person asked for erasure: test_forget.py.
    # What was half written or not committed is deleted by the mending, see below.
    assert set(names) == {name for _, name in POINTS} - {"overwrite", "remove"}
    left = {(act, name) for act, name in outside if act != "mkdir"}
    # The lock itself holds nothing; who holds it is written at a point, and deleted at the end.
    assert left <= {("write", "writer.lock"), ("remove", "writer.json")}


def test_the_audit_sees_a_change_outside(tmp_path, monkeypatch):
    faults = Faults(monkeypatch)
    with strays(faults, tmp_path) as outside:
        durable.write_file(tmp_path / "a", b"x")
        assert outside == []
        (tmp_path / "b").write_bytes(b"x")
        (tmp_path / "b").rename(tmp_path / "c")
        (tmp_path / "c").unlink()
    assert [act for act, _ in outside] == ["write", "rename", "remove"]


def check(path, allowed, at):
    """Hold a store whose writer was stopped against what must be there."""
    # A reader before anyone has mended anything: every clip whole, in the old or new version.
    for clip, rows in held(store.open(path)).items():
        assert any(clips.same(rows, clips.stored(v)) for v in (OLD, NEW)), (at, clip)
    with store.Writer(path, clips.PROVENANCE, layout=SMALL):
        pass
    found = held(store.open(path))
    assert any(is_state(found, state) for state in allowed), (at, found.keys())
    report = store.verify(path)
    assert (report.problems, report.notes) == ([], []), at
    assert report.rows == sum(r.frames for r in store.open(path).records())
    assert sorted(p.name for p in path.iterdir()) == ["arrays.zarr", "index.sqlite", "writer.lock"]
    assert not list(path.rglob("*.partial"))
    shutil.rmtree(path)


@pytest.mark.no_cover
def test_killed_at_every_point_the_store_is_whole(base, passed, memory, monkeypatch):
    """Killed halfway through what can be left half done, and before everything else.

    Killed after a point is killed before the next one.
    """
    faults, names = Faults(monkeypatch), []
    for at in killing(passed):
        path = memory / f"{at}.store"
        shutil.copytree(base, path)
        allowed = run(path, faults, nth(passed[0], at), torn=passed[0][at] in TORN)
        assert allowed is not None, f"point {at} was not reached"
        names.append(faults.last)
        check(path, allowed, at)
    assert names == [passed[0][i] for i in killing(passed)]


def opened(left, path, faults, at):
    """Open a copy for writing up to the fault, and let go of it; return the points it passed."""
    shutil.copytree(left, path)
    faults.arm(at, torn=at is not None and at[1] % 2 == 0)
    with suppress(Killed):
        kill(store.Writer(path, clips.PROVENANCE, layout=SMALL))
    points = list(faults.names)
    faults.arm(None)
    return points


@pytest.mark.no_cover
def test_killed_again_while_it_is_mended_the_store_is_whole(base, passed, memory, monkeypatch):
    """Killed, and once more at every point of the opening that mends what that left."""
    faults, names, seen = Faults(monkeypatch), passed[0], set()
    chosen = [i for i, name in enumerate(names) if name in ("_commit", "rename", "remove_tree")]
    for at in [*chosen, names.index("replace", chosen[2])]:
        left, path = memory / "left.store", memory / "again.store"
        shutil.copytree(base, left)
        allowed = run(left, faults, nth(names, at), torn=names[at] in TORN)
        points = opened(left, path, faults, None)
        shutil.rmtree(path)
        seen.update(points)
        for second in (i for i, name in enumerate(points) if name not in SYNCS):
            opened(left, path, faults, nth(points, second))
            check(path, allowed, (at, second))
        shutil.rmtree(left)
    assert {"remove", "rename", "remove_tree", "_commit", "replace"} <= seen


def test_a_reader_at_every_point_sees_whole_clips(base, tmp_path, monkeypatch):
    path = tmp_path / "a.store"
    shutil.copytree(base, path)
    faults, seen = Faults(monkeypatch), []
    expected = [{k: clips.stored(v)[k] for k in ARRAYS} for v in (OLD, NEW)]
    # Another process: here, the reader would wait for the threads that wait for it.
    with multiprocessing.get_context("spawn").Pool(1) as reader:

        def look():
            found = reader.apply(read_all, (path, ARRAYS))
            seen.append({k: [clips.same(v, e) for e in expected] for k, v in found.items()})

        faults.watch = look
        assert run(path, faults, None) is None
    assert len(seen) == 2 * len(faults.names)
    assert all(any(which) for look in seen for which in look.values())
    sets = [frozenset(look) for look in seen]
    assert sorted(set(sets), key=sets.index) == [
        frozenset("abc"), frozenset("bc"), frozenset("bcde")
    ]  # fmt: skip


def full_disk():
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.no_cover
def test_refused_at_every_point_is_one_line_and_loses_nothing(base, passed, memory, monkeypatch):
    """A full disk at every write, rename and commit; an fsync that fails wherever there is one."""
    faults = Faults(monkeypatch)
    errors = {
        "_commit": sqlite3.OperationalError("database or disk is full"),
        **dict.fromkeys(SYNCS, OSError(errno.EIO, "Input/output error")),
    }
    faults.error = lambda: errors.get(faults.last, full_disk())
    for at in refusing(passed):
        if passed[0][at] == "remove_tree":
            continue
        path = memory / f"{at}.store"
        shutil.copytree(base, path)
        faults.arm(nth(passed[0], at))
        w, done = None, [dict.fromkeys("abc", OLD)]
        with pytest.raises(store.StoreWriteError, match="the disk is full|cannot write") as caught:
            w = store.Writer(path, clips.PROVENANCE, layout=SMALL)
            for state in steps(w):
                done.append(state)
        assert "\n" not in str(caught.value)
        full = faults.last not in SYNCS
        assert ("Free some space" in caught.value.hint) == full
        assert "What was committed before is kept." in caught.value.hint
        assert caught.value.exit_code == 1
        faults.arm(None)
        if w is not None:
            w.close()  # there is room again: the same writer may go on, if it was not closing
        full = [done[0], *all_states()]
        check(path, full[len(done) - 1 : len(done) + 1], at)


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


def test_a_making_that_was_cut_short_is_started_again(memory, monkeypatch):
    faults = Faults(monkeypatch)
    store.Writer(memory / "count.store", clips.PROVENANCE, layout=clips.TINY).close()
    count = len(faults.names)
    for at in range(count):
        path = memory / f"{at}.store"
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
