import hashlib

import numpy as np
import pytest
import zarr

import store
from tests.store import store_clips as clips


def write(path, order, layout=clips.TINY, **fields):
    with store.Writer(path, clips.PROVENANCE, layout=layout) as w:
        for clip in order:
            rows = clips.rows(3 + int(clip), seed=int(clip))
            w.append(clips.record(clip, rows, **fields), rows)
    return path


def test_independent_of_order_flushes_layout_and_history(tmp_path):
    first = list(store.digest(write(tmp_path / "a.store", "0123456")))
    assert [clip for clip, _ in first] == list("0123456")
    assert len({sha for _, sha in first}) == 7
    path = write(tmp_path / "b.store", "5206", layout=None, message="other")
    rows = clips.rows(9)
    with store.Writer(path, clips.PROVENANCE) as w:
        w.append(clips.record("0", rows), rows, replace=True)
        w.append(clips.record("x", rows), rows)
        w.remove("x")
        w.append(clips.record("0", clips.rows(3)), clips.rows(3), replace=True)
    write(path, "143")
    assert list(store.digest(path)) == first


def test_computed_from_the_arrays_and_not_from_the_index(tmp_path):
    path = write(tmp_path / "a.store", "01")
    before = dict(store.digest(path))
    zarr.open(path / "arrays.zarr", mode="r+")["score"][0] = 0.5
    after = dict(store.digest(path))
    assert before["0"] != after["0"]
    assert before["1"] == after["1"]


def test_runs_over_all_tracks(tmp_path):
    one, two = clips.rows(3, 1), clips.rows(4, 2)
    with store.Writer(tmp_path / "a.store", clips.PROVENANCE) as w:
        w.append(clips.record("a", two, track=1), two)
        w.append(clips.record("a", one), one)
        w.append(clips.record("none", None), None)
    s = store.open(tmp_path / "a.store")
    lines = "".join(f"{t} {s.record('a', t).rows_sha256}\n" for t in (0, 1))
    assert dict(store.digest(s.path)) == {
        "a": hashlib.sha256(lines.encode()).hexdigest(),
        "none": hashlib.sha256(b"").hexdigest(),
    }


def test_of_chosen_arrays_alone(tmp_path):
    rows, box = clips.rows(5), clips.rows(5)
    box.box[:] += 1
    for name, given in (("a", rows), ("b", box)):
        with store.Writer(tmp_path / f"{name}.store", clips.PROVENANCE) as w:
            w.append(clips.record("x", given), given)
    a, b = tmp_path / "a.store", tmp_path / "b.store"
    assert list(store.digest(a)) != list(store.digest(b))
    names = ["timestamp", "landmark"]
    found = list(store.digest(a, arrays=names))
    assert found == list(store.digest(b, arrays=names))
    assert found == list(store.digest([a], arrays=names[::-1]))
    held = store.open(a).clip("x")
    text = b"".join(
        f"{n} {held[n].dtype} {s}\n".encode() + held[n].tobytes()
        for n, s in (("landmark", "5x136"), ("timestamp", "5"))
    )
    line = f"0 {hashlib.sha256(text).hexdigest()}\n".encode()
    assert dict(found) == {"x": hashlib.sha256(line).hexdigest()}
    with pytest.raises(store.StoreError, match="expected some of embedding.*got 'landmarks'"):
        list(store.digest(a, arrays=["landmarks"]))


def test_damage_is_an_error_that_names_the_clip(tmp_path):
    path = write(tmp_path / "a.store", "01")
    (path / "arrays.zarr" / "score" / "c" / "0").unlink()
    with pytest.raises(store.StoreError, match="clip '0': score: cannot be read"):
        list(store.digest(path))


def test_nan_of_another_bit_pattern_is_not_another_digest(tmp_path):
    path = write(tmp_path / "a.store", "5")
    rows = clips.rows(8, seed=5)
    rows.score[~rows.valid] = -np.float32(np.nan)
    with store.Writer(tmp_path / "b.store", clips.PROVENANCE) as w:
        w.append(clips.record("5", rows), rows)
    assert not rows.valid.all()
    assert list(store.digest(path)) == list(store.digest(tmp_path / "b.store"))
