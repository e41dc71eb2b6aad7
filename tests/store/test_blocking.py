"""Readers are not shut out while a writer makes a transaction, however large it is."""

import sqlite3

import numpy as np
import pytest

import store
from store.index import Index
from store.layout import Layout
from tests.store import store_clips as clips


class Watch:
    """Reads the index through another connection, without waiting, before each statement."""

    def __init__(self, index, path):
        self.index, self.other = index, sqlite3.connect(path, timeout=0)
        self.statements = []
        index.connection.set_trace_callback(self.look)

    def look(self, statement):
        assert self.other.execute("SELECT COUNT(*) FROM meta").fetchone()[0] > 0
        self.statements.append(statement.split()[0])


@pytest.fixture
def refused(monkeypatch):
    """What went wrong inside a callback, which SQLite keeps to itself."""
    seen = []
    real = Watch.look

    def look(self, statement):
        try:
            real(self, statement)
        except BaseException as error:
            seen.append((statement[:40], error))

    monkeypatch.setattr(Watch, "look", look)
    return seen


def long_clip(n):
    one = clips.rows(100)
    arrays = {k: np.tile(v, (n // 100, *[1] * (v.ndim - 1))) for k, v in one.as_dict().items()}
    return store.ClipRows(**{**arrays, "timestamp": np.arange(n) / 30}, crops=None)


def test_during_the_append_and_flush_of_a_clip_larger_than_the_cache(tmp_path, refused):
    path, rows = tmp_path / "a.store", long_clip(6000)  # 16 MB
    with store.Writer(path, clips.PROVENANCE, layout=Layout(flush_rows=1 << 20)) as w:
        watch = Watch(w._index, path / "index.sqlite")
        w.append(clips.record("long", rows), rows)
        assert watch.statements.count("COMMIT") == 3  # two parts, and the last with the record
        w.flush()
        assert w._index.one("PRAGMA freelist_count")[0] > 500
    assert refused == []
    assert clips.same(store.open(path).clip("long"), clips.stored(rows))


def test_rows_whose_record_never_came_count_for_nothing_and_go(tmp_path, monkeypatch):
    path, rows = tmp_path / "a.store", long_clip(4100)
    w = store.Writer(path, clips.PROVENANCE)
    monkeypatch.setattr(w._index, "put_pending", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        w.append(clips.record("long", rows), rows)
    w._abandon()
    assert store.verify(path).notes == []
    with store.Writer(path, clips.PROVENANCE) as w:
        assert list(w.records()) == []
        assert w._index.one("SELECT COUNT(*) FROM pending_rows") == (0,)
        w.append(clips.record("long", rows), rows)
    assert clips.same(store.open(path).clip("long"), clips.stored(rows))


def test_during_the_switch_of_a_compaction(tmp_path, refused):
    count, path = 30_000, tmp_path / "index.sqlite"  # 9 MB
    index = Index(path, writable=True)
    index.create("float16", "")
    names = [f"folder/{k * 7919 % count:064}.mp4" for k in range(count)]
    with index.transaction():
        session = index.add_session("", "{}")
        index.connection.executemany(
            "INSERT INTO clip VALUES (?, 'ok', 0, '', 3, 3, 3, 30.0, 0.1, 9, 9, 0, '', ?, 1, 1, ?, "
            "?, ?, '{}')",
            ((name, "c" * 64, k * 4, "d" * 64, session) for k, name in enumerate(names)),
        )
    watch = Watch(index, path)
    with index.transaction():
        index.set_moved((name, 0, k * 3) for k, name in enumerate(names))
    with index.transaction():
        index.apply_moved()
    assert watch.statements.count("COMMIT") == 2
    assert refused == []
    assert [r.start for r in index.clips_by_start()] == list(range(0, count * 3, 3))
    index.close()
