"""Crops after a kill: rows and crops of a clip are there together, or neither."""

import shutil
import subprocess
import sys

import pytest

import store
from tests.store import store_clips as clips
from tests.store.crop_stores import GIVEN, filled, holds, made, writer
from tests.store.store_faults import TORN, Faults, Killed, kill, nth

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def path(tmp_path):
    return filled(tmp_path / "a.store")


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


def following(done):
    class Nothing:
        def __getattr__(self, name):
            return lambda *args, **kwargs: None

    return [dict.fromkeys("abc", OLD), *steps(Nothing())][done : done + 1]


@pytest.mark.no_cover
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_loses_rows_and_crops_of_a_clip_together_or_neither(memory, monkeypatch, after):
    """Killed halfway through what can be left half done, else before (or after) the point."""
    monkeypatch.setattr("store.index._PRAGMAS", ("synchronous=OFF", "auto_vacuum=INCREMENTAL"))
    base, path = memory / "base.store", memory / "a.store"
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
        faults.arm(nth(passed, at), after=after, torn=not after and name in TORN)
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


def test_a_process_killed_in_the_middle(path):
    program = (
        "import os, sys\n"
        "from tests.store.crop_stores import clips, made, writer\n"
        "w = writer(sys.argv[1])\n"
        "rows = made(6, 50, 3)\n"
        "w.append(clips.record('x', rows), rows)\n"
        "os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert done.returncode == 9
    writer(path).close()
    assert holds(path, GIVEN | {"x": made(6, 50, 3)})
