"""Crops: everything that the store promises for rows holds for them."""

import dataclasses
import pickle
import sqlite3

import numpy as np
import pytest
import zarr

import store
from store.exchange import export
from store.exchange_formats import import_from
from store.schema import ClipCrops
from tests.store import store_clips as clips
from tests.store.crop_stores import GIVEN, SIZE, filled, holds, made, writer

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def path(tmp_path):
    return filled(tmp_path / "a.store")


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


def test_leave_no_trace_in_exports_and_are_refused_in_imports(path, tmp_path):
    with store.open(path) as s:
        assert export(s, "npz", tmp_path / "npz").clips == 5
    assert "crop" not in np.load(tmp_path / "npz" / "a.npz").files
    with pytest.raises(store.StoreMismatchError, match="holds crops of 6 pixels"):
        import_from(tmp_path / "npz", "npz", path)
