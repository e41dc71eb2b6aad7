import shutil
import sqlite3

import numpy as np
import pytest
import zarr

import store
from stages.extract.inputs import Source
from stages.extract.run import ExtractOptions, _plan
from store.errors import StoreDamagedError
from store.repair import repair
from tests.store import store_clips as clips
from tests.store.store_faults import Faults, Killed
from tests.store.test_verify import INDEX, PLANTED, path, shard, sound, sql  # noqa: F401

FATAL = {
    "UPDATE meta SET value = '4' WHERE key = 'generation'": "expected arrays of generation 4",
    "UPDATE session SET provenance = '{'": "session 1, provenance",
    "UPDATE session SET provenance = '[]'": "session 1, provenance",
}


def check(path, damaged, before):  # noqa: F811
    """Only the damaged clips changed; they have no rows, and the store is sound."""
    report = store.verify(path)
    assert (report.problems, report.notes) == ([], [])
    after = dict(store.digest(path))
    assert {k: v for k, v in after.items() if k not in damaged} == {
        k: v for k, v in before.items() if k not in damaged
    }
    for clip in damaged:
        record = store.open(path).record(clip)
        assert (record.status, record.start) == (store.Status.FAILED, None)
        assert "extracted again" in record.message


@pytest.mark.parametrize(("name", "row", "value", "text"), PLANTED, ids=lambda v: str(v)[:12])
def test_clips_with_damaged_rows_lose_them_and_no_others(path, name, row, value, text):  # noqa: F811
    before = dict(store.digest(path))
    zarr.open(path / "arrays.zarr", mode="r+")[name][row] = value
    damaged = [text.split("'")[1]]
    assert list(repair(path).clips) == damaged
    check(path, damaged, before)
    assert not repair(path).changed


@pytest.mark.parametrize(("statement", "text"), INDEX, ids=lambda v: str(v)[12:30])
def test_after_any_damage_of_the_index_the_store_is_sound_or_refused(path, statement, text):  # noqa: F811
    before = dict(store.digest(path))
    sql(path, statement)
    if statement in FATAL:
        with pytest.raises(store.StoreFormatError, match=FATAL[statement]):
            repair(path)
        return
    report = repair(path)
    assert report.changed
    named = {"1"} if "clip = '1'" in statement and "DELETE" not in statement else set()
    if "../1" in statement:
        assert list(report.dropped) == ["../1"]
        named, before = set(), {k: v for k, v in before.items() if k != "1"}
    if "x'31'" in statement:
        assert list(report.dropped) == ["b'1'"]
        named, before = set(), {k: v for k, v in before.items() if k != "1"}
    if "DELETE" in statement:
        before.pop("1")
    assert set(report.clips) == named
    check(path, named, before)


def test_unreadable_shards_and_short_arrays(path):  # noqa: F811
    before = dict(store.digest(path))
    shard(path).unlink()
    group = zarr.open(path / "arrays.zarr", mode="r+")
    group["score"].resize((22,))  # the last clip, rows 21 to 23, has lost one
    report = repair(path)
    assert set(report.clips) == {"1", "empty"}
    assert "missing" in report.clips["1"]
    check(path, ["1", "empty"], before)


def test_appending_behind_a_missing_shard_is_refused_until_it_is_repaired(path):  # noqa: F811
    before = dict(store.digest(path))
    shard(path, number=2).unlink()  # rows 16 to 23, and room for another
    new = clips.rows(3, seed=30)
    w = store.Writer(path, clips.PROVENANCE)
    w.append(clips.record("new", new), new)
    with pytest.raises(StoreDamagedError, match="rows 16 to 23, which.*got 0") as caught:
        w.close()
    assert "--repair" in caught.value.hint
    assert set(repair(path).clips) == {"2", "empty"}
    with store.Writer(path, clips.PROVENANCE):
        pass
    assert clips.same(store.open(path).clip("new"), clips.stored(new))
    check(path, ["2", "empty"], {**before, "new": dict(store.digest(path))["new"]})


def test_uncommitted_rows_are_cut(path):  # noqa: F811
    before = dict(store.digest(path))
    group = zarr.open(path / "arrays.zarr", mode="r+")
    for _, array in group.arrays():
        array.resize((30, *array.shape[1:]))
    report = repair(path)
    assert (report.clips, report.cut_rows) == ({}, 7)
    check(path, [], before)


def test_a_damaged_track_takes_its_clip_along(path):  # noqa: F811
    rows = clips.rows(4, seed=9)
    with store.Writer(path, clips.PROVENANCE) as w:
        w.append(clips.record("0", rows, track=1), rows)
    before = dict(store.digest(path))
    start = store.open(path).record("0", 1).start
    zarr.open(path / "arrays.zarr", mode="r+")["embedding"][start] = np.float16(0.5)
    assert list(repair(path).clips) == ["0"]
    check(path, ["0"], before)
    assert [(r.clip, r.track) for r in store.open(path).records() if r.clip == "0"] == [("0", 0)]


def test_damage_in_the_journal(path):  # noqa: F811
    before = dict(store.digest(path))
    good, bad = clips.rows(3, seed=20), clips.rows(3, seed=21)
    w = store.Writer(path, clips.PROVENANCE)
    w.append(clips.record("good", good), good)
    w.append(clips.record("bad-journal", bad), bad)
    w._abandon()
    sql(path, "UPDATE pending_rows SET data = substr(data, 1, 90) WHERE pending = 2")
    assert list(repair(path).clips) == ["bad-journal"]
    with store.Writer(path, clips.PROVENANCE):
        pass
    assert clips.same(store.open(path).clip("good"), clips.stored(good))
    check(path, ["bad-journal"], {**before, "good": dict(store.digest(path))["good"]})


def test_the_next_extraction_takes_the_clip_up(path, tmp_path):  # noqa: F811
    zarr.open(path / "arrays.zarr", mode="r+")["embedding"][7] = 0.25  # clip 1
    file = tmp_path / "1"
    file.write_bytes(b"")  # even a file of no bytes is not taken for the one that failed
    plan = lambda: _plan([Source("1", file)], store.open(path).records(), ExtractOptions([]))  # noqa: E731
    assert plan().todo == []
    repair(path)
    assert [source.clip for source in plan().todo] == ["1"]


@pytest.mark.no_cover
@pytest.mark.parametrize("damage", ["rows", "record"])
def test_a_kill_leaves_it_damaged_or_repaired(path, memory, monkeypatch, damage):  # noqa: F811
    if damage == "rows":
        zarr.open(path / "arrays.zarr", mode="r+")["embedding"][7] = 0.25
    else:
        sql(path, "UPDATE clip SET status = 'odd' WHERE clip = '1'")
    monkeypatch.setattr("os.fsync", lambda fd: None)
    faults, stopped = Faults(monkeypatch), 0
    for at in range(1000):
        copy = memory / "copy.store"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(path, copy)
        faults.arm(at)
        try:
            repair(copy)
        except Killed:
            stopped += 1
            faults.arm(None)
            assert {p.split("'")[1] for p in store.verify(copy).problems} <= {"1"}
            repair(copy)
            assert store.verify(copy).ok
            record = store.open(copy).record("1")  # neither lost nor taken for sound
            assert (record.status, record.start) == (store.Status.FAILED, None)
            continue
        break
    assert stopped > 10


def test_what_cannot_be_repaired_is_refused(path):  # noqa: F811
    (path / "arrays.zarr" / "box" / "zarr.json").write_bytes(b"{")
    with pytest.raises(store.StoreFormatError, match="cannot be opened"):
        repair(path)
    assert len(list(store.open(path).records())) == 5


def test_no_session_says_the_pack(path):  # noqa: F811
    db = sqlite3.connect(path / "index.sqlite")
    db.execute("DELETE FROM session")
    db.commit()
    db.close()
    with pytest.raises(store.StoreFormatError, match="which pack"):
        repair(path)
