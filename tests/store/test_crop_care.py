"""Crops under the care of a store: repaired, merged, forgotten, compacted."""

import shutil

import numpy as np
import pytest
import zarr

import store
from store.care import compact, forget
from store.layout import Layout
from store.merge import merge
from store.repair import repair
from tests.store import store_clips as clips
from tests.store.crop_stores import GIVEN, SIZE, alter, filled, holds, made, writer
from tests.store.store_faults import kill

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def path(tmp_path):
    return filled(tmp_path / "a.store")


def damage(path):
    shard = path / "arrays.zarr" / "crop" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 255
    shard.write_bytes(data)


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
            lambda path: alter(path, "UPDATE crop SET frames = '{' WHERE clip = 'c'"),
            "c",
            "crop: expected a JSON array of",
        ),
        (
            lambda path: alter(path, "UPDATE crop SET start = 'x' WHERE clip = 'c'"),
            "c",
            "crop: expected a first row of 0 or more, got 'x'",
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
