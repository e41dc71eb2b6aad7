"""Stores with crops, made up for the tests, and whether one holds what it should."""

import sqlite3

import store
from tests.store import store_clips as clips

SIZE = clips.CROP


def writer(path, **changes):
    options = {"layout": clips.TINY, "crop_size": SIZE} | changes
    return store.Writer(path, clips.PROVENANCE, **options)


def made(n, seed, k=2):
    return clips.with_crops(clips.rows(n, seed=seed), k, seed)


GIVEN = {"a": made(5, 1, 3), "b": made(9, 2, 5), "c": made(4, 3, 1), "none": clips.no_face(3)}


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


def alter(path, statement):
    with sqlite3.connect(path / "index.sqlite") as db:
        db.execute(statement)


def filled(path):
    """Make a store of the given clips, and of one that failed."""
    with writer(path) as w:
        for clip, rows in GIVEN.items():
            w.append(clips.record(clip, rows), rows)
        w.append(clips.record("bad", None), None)
    return path
