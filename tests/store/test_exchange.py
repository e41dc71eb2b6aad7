import json
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest

import store
from store.exchange import clip_of, export, file_name, unnamed
from store.exchange_formats import import_from
from tests.store import store_clips as clips

ODD = ["a.mp4", "a.mp4.npz/b", "a.mp4.csv/b", "day 1/ü%41 ?.mp4", "embedding", "x/track1/landmark",
       "CON", "dot.", ".hidden", "back\\slash", "x" * 300, "é" * 130 + "/" + "y" * 250]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "a.store"
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as w:
        for i, clip in enumerate(ODD):
            rows = clips.rows(3 + i, seed=i)
            w.append(clips.record(clip, rows, fps=29.97, details={"odd": [i, "ü"]}), rows)
        two = clips.rows(4, seed=30)
        w.append(clips.record("a.mp4", two, track=2), two)
        w.append(clips.record("broken.mp4", None, message="no frame"), None)
        w.append(clips.record("empty.mp4", clips.no_face(3)), clips.no_face(3))
    return path


def out(made, form, target):
    with store.open(made) as opened:
        return export(opened, form, target)


@pytest.mark.parametrize("form", ["hdf5", "npz"])
def test_export_then_import_is_the_same_store(made, tmp_path, form):
    done = out(made, form, tmp_path / "deep" / "out")
    assert (done.clips, done.left_out) == (len(ODD) + 2, 0)
    back = tmp_path / "back.store"
    import_from(tmp_path / "deep" / "out", form, back)
    assert list(store.digest(back)) == list(store.digest(made))
    ignored = {"start": None, "session": None}
    for a, b in zip(store.open(made).records(), store.open(back).records(), strict=True):
        assert {**vars(a), **ignored} == {**vars(b), **ignored}
    assert store.verify(back).ok
    told = store.open(back).provenance
    assert told.pop("imported")["format"] == form
    assert told == clips.PROVENANCE
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_dtype_survives(tmp_path, dtype):
    rows = clips.rows(4)
    with store.Writer(tmp_path / "a.store", clips.PROVENANCE, dtype) as w:
        w.append(clips.record("a", rows), rows)
    out(tmp_path / "a.store", "hdf5", tmp_path / "a.h5")
    import_from(tmp_path / "a.h5", "hdf5", tmp_path / "b.store")
    assert clips.same(store.open(tmp_path / "b.store").clip("a"), clips.stored(rows, dtype))


def test_csv_keeps_every_bit_of_what_it_can_hold(made, tmp_path):
    done = out(made, "csv", tmp_path / "1")
    assert done.left_out == 1
    import_from(tmp_path / "1", "csv", tmp_path / "1.store")
    assert store.verify(tmp_path / "1.store").problems == []
    first, second = store.open(made), store.open(tmp_path / "1.store")
    names = ["landmark", "timestamp", "score", "valid"]
    keys = {(r.clip, r.track) for r in first.records() if r.status.has_rows}
    assert keys == {(r.clip, r.track) for r in second.records()}
    for clip, track in keys:
        assert clips.same(second.clip(clip, track, names), first.clip(clip, track, names))
        assert np.isnan(second.clip(clip, track)["embedding"]).all()
        assert second.record(clip, track).details["absent"] == ["appearance", "box", "embedding"]
    out(tmp_path / "1.store", "csv", tmp_path / "2")
    import_from(tmp_path / "2", "csv", tmp_path / "2.store")
    assert list(store.digest(tmp_path / "2.store")) == list(store.digest(tmp_path / "1.store"))


def test_an_openface_script_reads_the_csv(tmp_path):
    """Written after OpenFace's wiki: output format, and its columns by name."""
    rows = clips.rows(9, seed=4)
    with store.Writer(tmp_path / "a.store", clips.PROVENANCE) as w:
        w.append(clips.record("d/a.mp4", rows), rows)
    out(tmp_path / "a.store", "csv", tmp_path / "csv")
    df = pd.read_csv(tmp_path / "csv" / "d" / "a.mp4.csv")
    df.columns = df.columns.str.strip()
    assert list(df.columns) == [
        "frame", "face_id", "timestamp", "confidence", "success",
        *(f"x_{i}" for i in range(68)), *(f"y_{i}" for i in range(68)),
    ]  # fmt: skip
    assert list(df["frame"]) == list(range(1, 10))
    assert set(df["success"]) == {0, 1} and df["confidence"].between(0, 1).all()
    good = df[df["success"] == 1]
    x = good[[f"x_{i}" for i in range(68)]].to_numpy()
    y = good[[f"y_{i}" for i in range(68)]].to_numpy()
    points = rows.landmark[rows.valid].reshape(-1, 68, 2)
    assert np.array_equal(x.astype(np.float32), points[:, :, 0])
    assert np.array_equal(y.astype(np.float32), points[:, :, 1])


def test_a_csv_says_what_is_not_known_and_what_it_cannot_hold(tmp_path):
    """As of a collection of features that has neither detector nor, in places, landmarks."""
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "f.h5", "w") as f:
        f.attrs["fps"] = 25
        f["both/embedding"], f["both/landmark"] = rng.random((3, 512)), rng.random((3, 136))
        f["bare/embedding"] = rng.random((3, 512))
    import_from(tmp_path / "f.h5", "hdf5", tmp_path / "a.store")
    done = out(tmp_path / "a.store", "csv", tmp_path / "csv")
    assert (done.clips, done.rows, done.left_out) == (1, 3, 1)
    assert [p.name for p in (tmp_path / "csv").glob("*.csv")] == ["both.csv"]
    table = pd.read_csv(tmp_path / "csv" / "both.csv")
    assert table["confidence"].isna().all() and (table["success"] == 1).all()
    import_from(tmp_path / "csv", "csv", tmp_path / "b.store")
    first, second = store.open(tmp_path / "a.store"), store.open(tmp_path / "b.store")
    names = ["landmark", "timestamp", "score", "valid"]
    assert clips.same(second.clip("both", 0, names), first.clip("both", 0, names))
    assert second.record("both").details["absent"] == ["appearance", "box", "embedding", "score"]


def test_of_an_export_to_csv_any_part_is_imported_as_ours(made, tmp_path):
    out(made, "csv", tmp_path / "csv")
    held = {}
    for k, clip in enumerate(("CON", "day 1/ü%41 ?.mp4", "x" * 300)):
        path = tmp_path / f"{k}.store"
        import_from(tmp_path / "csv" / file_name(clip, ".csv"), "csv", path)
        held[clip] = [r.clip for r in store.open(path).records()]
        assert store.open(path).provenance["pack"] == clips.PROVENANCE["pack"]
    assert held == {clip: [clip] for clip in held}
    import_from(tmp_path / "csv" / "day 1", "csv", tmp_path / "d.store")
    assert [r.clip for r in store.open(tmp_path / "d.store").records()] == ["day 1/ü%41 ?.mp4"]


def test_a_foreign_hdf5_skips_stage_one(tmp_path):
    rng = np.random.default_rng(0)
    embedding, landmark = rng.standard_normal((6, 512)), rng.uniform(0, 9, (6, 136))
    embedding[2, 5] = np.nan
    with h5py.File(tmp_path / "vfap.h5", "w") as f:
        f["s1/one/embedding"], f["s1/one/landmark"] = embedding, landmark.astype("f4")
        f["s1/one"].attrs["fps"] = 25
        f["two/landmark"] = landmark
        f["two/timestamp"] = np.arange(6) / 5
        f["track7/landmark"] = np.ones((2, 136), int)  # a clip of that name, not a seventh track
        f["track7"].attrs["fps"] = 10
        f["labels"] = [1, 2]
        f["again"] = h5py.SoftLink("/two")
    import_from(tmp_path / "vfap.h5", "hdf5", tmp_path / "v.store")
    opened = store.open(tmp_path / "v.store")
    assert [r.clip for r in opened.records()] == ["s1/one", "track7", "two"]
    one = opened.clip("s1/one")
    assert opened.feature_dtype == "float32"
    assert one["valid"].tolist() == [True, True, False, True, True, True]
    assert one["timestamp"].tolist() == [i / 25 for i in range(6)]
    assert np.array_equal(one["embedding"][3], embedding[3].astype(np.float32))
    assert np.isnan(one["landmark"][2]).all() and np.isnan(one["appearance"]).all()
    assert opened.record("two").details["absent"] == ["appearance", "box", "embedding", "score"]
    assert store.verify(tmp_path / "v.store").problems == []
    assert import_from(tmp_path / "vfap.h5", "hdf5", tmp_path / "v.store").skipped == 3


def test_arrays_are_known_by_their_shape(tmp_path):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((6, 512)).astype("f4")
    points = rng.uniform(0, 9, (6, 136)).astype("f4")
    arrays = {"1": {"feat": features, "lmk-68": points, "gaze": np.zeros((6, 3))},
              "2": {"appearance": features, "emb": features + 1}}  # fmt: skip
    with h5py.File(tmp_path / "v.h5", "w") as f:
        f.attrs["fps"] = 25
        f["mean"] = features[:1]
        for clip, held in arrays.items():
            for name, values in held.items():
                f[f"{clip}/{name}"] = values
        f["1/again"] = h5py.SoftLink("/1/feat")
    (tmp_path / "npz").mkdir()
    for clip, held in arrays.items():
        np.savez(tmp_path / "npz" / f"{clip}.npz", fps=25, **held)
    import_from(tmp_path / "v.h5", "hdf5", tmp_path / "h.store")
    import_from(tmp_path / "npz", "npz", tmp_path / "n.store")
    assert list(store.digest(tmp_path / "h.store")) == list(store.digest(tmp_path / "n.store"))
    opened = store.open(tmp_path / "h.store")
    assert np.array_equal(opened.clip("1")["embedding"], features)
    assert np.array_equal(opened.clip("1")["landmark"], points)
    assert opened.record("1").details["absent"] == ["appearance", "box", "score"]
    assert np.array_equal(opened.clip("2")["appearance"], features)
    assert np.array_equal(opened.clip("2")["embedding"], features + 1)


@pytest.mark.parametrize("form", ["hdf5", "npz"])
def test_the_dtype_is_that_of_the_first_features(tmp_path, form):
    points, features = np.ones((2, 136), "f4"), np.full((2, 512), 1 / 3, "f4")
    arrays = {"a": {"landmark": points}, "b": {"landmark": points, "feat": features}}
    (tmp_path / "in").mkdir()
    with h5py.File(tmp_path / "in" / "f.h5", "w") as f:
        f.attrs["fps"] = 25
        for clip, held in arrays.items():
            np.savez(tmp_path / "in" / f"{clip}.npz", fps=25, **held)
            for name, values in held.items():
                f[f"{clip}/{name}"] = values
    path = tmp_path / "in" / "f.h5" if form == "hdf5" else tmp_path / "in"
    import_from(path, form, tmp_path / "o.store")
    opened = store.open(tmp_path / "o.store")
    assert opened.feature_dtype == "float32"
    assert np.array_equal(opened.clip("b")["embedding"], features)


REFUSED = [
    ({"c/embedding": np.zeros((3, 256))}, r"/c: embedding: expected \(3, 512\).*got \(3, 256\)"),
    ({"c/embedding": np.zeros((3, 512))}, r"/c: expected timestamp \(n,\) or fps"),
    (
        {"c/other": np.zeros((3, 511)), "mean": np.zeros((1, 512))},
        r"expected groups with a dataset embedding.*got c, mean",
    ),
    (
        {"c/a": np.zeros((3, 512)), "c/b": np.zeros((3, 512))},
        r"/c: expected one array \(n,512\), or one of them named embedding, got a, b",
    ),
    ({"c/embedding": np.zeros((0, 512)), "c/timestamp": np.zeros(0)}, "at least one frame"),
    ({"c/embedding": np.zeros((2, 512)), "c/timestamp": np.zeros(2)}, "strictly increasing"),
    ({"..%c/x/../y/embedding": np.zeros((2, 512))}, "expected timestamp|path component"),
]


@pytest.mark.parametrize(("datasets", "text"), REFUSED, ids=lambda v: str(v)[:20])
def test_what_a_foreign_hdf5_lacks_is_said(tmp_path, datasets, text):
    with h5py.File(tmp_path / "f.h5", "w") as f:
        for name, values in datasets.items():
            f[name] = values
    with pytest.raises(store.StoreError, match=text) as refused:
        import_from(tmp_path / "f.h5", "hdf5", tmp_path / "f.store")
    assert str(refused.value).startswith(str(tmp_path / "f.h5"))


def test_ids_cannot_climb_out(tmp_path):
    for bad in ("../evil", "/etc/passwd", "a/../../b", "c:\\x"):
        with h5py.File(tmp_path / "f.h5", "w") as f:
            f["g/landmark"] = np.ones((2, 136))
            f["g"].attrs["fps"], f["g"].attrs["clip"] = 25, bad
        with pytest.raises(store.StoreError, match="clip id"):
            import_from(tmp_path / "f.h5", "hdf5", tmp_path / "f.store")


@pytest.mark.parametrize("suffix", [".npz", ".csv"])
def test_file_names_are_safe_and_tell_the_id(suffix):
    names = [file_name(clip, suffix) for clip in ODD]
    assert len(set(names)) == len(ODD)
    for clip, name in zip(ODD, names, strict=True):
        parts = name.split("/")
        assert all(len(p.encode()) <= 255 and p not in ("", ".", "..") for p in parts)
        assert not set(name) & set('<>:"|?*\\')
        assert not any(part.endswith(suffix) for part in parts[:-1])
        assert unnamed(name) or clip_of(name, suffix) == clip
    assert [c[:1] for c, n in zip(ODD, names, strict=True) if unnamed(n)] == ["x", "é"]


def test_an_import_that_was_cut_short_goes_on(made, tmp_path):
    out(made, "npz", tmp_path / "npz")
    bad = sorted((tmp_path / "npz").rglob("*.npz"))[7]
    data = bad.read_bytes()
    bad.write_bytes(data[: len(data) // 2])
    with pytest.raises(store.StoreError, match="expected an npz file"):
        import_from(tmp_path / "npz", "npz", tmp_path / "b.store")
    assert len(list(store.digest(tmp_path / "b.store"))) == 7
    bad.write_bytes(data)
    assert import_from(tmp_path / "npz", "npz", tmp_path / "b.store").skipped == 7
    assert list(store.digest(tmp_path / "b.store")) == list(store.digest(made))


@pytest.mark.parametrize("form", ["hdf5", "npz", "csv"])
def test_a_clip_without_a_main_face(tmp_path, form):
    rows = clips.rows(3)
    with store.Writer(tmp_path / "a.store", clips.PROVENANCE) as w:
        w.append(clips.record("a", rows, track=1), rows)
    out(tmp_path / "a.store", form, tmp_path / "out")
    import_from(tmp_path / "out", form, tmp_path / "b.store")
    (record,) = store.open(tmp_path / "b.store").records()
    assert record.frames == 3
    if form != "csv":  # whose faces are numbered from 0
        assert record.track == 1


def test_an_npz_of_nothing_that_we_know(tmp_path):
    np.savez(tmp_path / "p.npz", labels=np.ones(3))
    with pytest.raises(store.StoreError, match=r"p\.npz: expected embedding.*got labels"):
        import_from(tmp_path / "p.npz", "npz", tmp_path / "p.store")


@pytest.mark.parametrize(
    ("held", "text"),
    [
        ({"fps": "fast"}, r"p\.npz: fps: expected a number above 0, got fast"),
        ({"fps": [25, 30]}, r"p\.npz: fps: expected a number above 0"),
        ({"fps": 25, "provenance": "by hand"}, r"p\.npz: provenance: expected a JSON object"),
        ({"fps": 25, "provenance": "[1]"}, r"p\.npz: provenance: expected a JSON object"),
    ],
)
def test_what_an_npz_says_wrong_is_said(tmp_path, held, text):
    np.savez(tmp_path / "p.npz", landmark=np.ones((2, 136)), **held)
    with pytest.raises(store.StoreError, match=text):
        import_from(tmp_path / "p.npz", "npz", tmp_path / "p.store")


def test_what_an_exported_hdf5_says_wrong_is_said(made, tmp_path):
    out(made, "hdf5", tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as f:
        f.attrs["provenance"] = "by hand"
    with pytest.raises(store.StoreError, match=r"a\.h5: provenance: expected a JSON object"):
        import_from(tmp_path / "a.h5", "hdf5", tmp_path / "b.store")


def test_pickles_are_not_run(tmp_path):
    np.savez(tmp_path / "p.npz", embedding=np.array([{}], dtype=object))
    with pytest.raises(store.StoreError, match=r"p\.npz"):
        import_from(tmp_path / "p.npz", "npz", tmp_path / "p.store")


def test_parquet_holds_a_row_a_frame(made, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    done = out(made, "parquet", tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    opened = store.open(made)
    assert (table.num_rows, done.left_out) == (opened.n_rows, 1)
    assert json.loads(table.schema.metadata[b"facepipe_provenance"]) == clips.PROVENANCE
    keep = [i for i, key in enumerate(zip(table["clip"].to_pylist(), table["track"].to_pylist(),
            strict=True)) if key == ("a.mp4", 2)]  # fmt: skip
    part = table.take(keep).combine_chunks()
    expected = opened.clip("a.mp4", 2)
    for name, values in expected.items():
        column = part[name].combine_chunks()
        if values.ndim > 1:
            column = column.flatten()
        got = column.to_numpy(zero_copy_only=False).reshape(values.shape).astype(values.dtype)
        assert got.tobytes() == values.tobytes(), name
    assert part["frame"].to_pylist() == list(range(4))


def test_nothing_half_written(made, tmp_path, monkeypatch):
    (tmp_path / "there").write_text("x")
    with pytest.raises(store.StoreError, match="is there already"):
        out(made, "hdf5", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "x"
    monkeypatch.setattr("store.exchange_npz.np.savez", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        out(made, "npz", tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("roomy", [0, 1, 2])
def test_hdf5_stops_while_it_can_still_be_closed(made, tmp_path, monkeypatch, roomy):
    calls = iter([1 << 40] * roomy)
    room = "store.exchange_hdf5.shutil.disk_usage"
    monkeypatch.setattr(room, lambda _: SimpleNamespace(free=next(calls, 0)))
    with pytest.raises(store.StoreWriteError, match=r"x\.h5: the disk is full"):
        export(store.open(made), "hdf5", tmp_path / "out" / "x.h5")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_package_names_the_extra(made, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(store.StoreError, match="pyarrow") as refused:
        out(made, "parquet", tmp_path / "a.parquet")
    assert refused.value.hint == "pip install 'facepipe[parquet]'"
