import pytest

import store
from store.merge import merge
from tests.store import store_clips as clips


def make(path, names, seed=0, provenance=clips.PROVENANCE, **options):
    with store.Writer(path, provenance, layout=clips.TINY, **options) as w:
        for i, name in enumerate(names):
            rows = clips.rows(3 + (seed + i) % 7, seed=seed + i)
            w.append(clips.record(name, rows), rows)
            if i % 2:
                w.append(clips.record(name, rows, track=1), rows)
        w.append(clips.record(f"failed{seed}", None), None)
    return path


def test_every_clip_keeps_its_digest_and_record(tmp_path):
    parts = [make(tmp_path / f"{k}.store", [f"{k}{i}" for i in range(5)], 10 * k) for k in range(3)]
    out = tmp_path / "deep" / "all.store"
    assert merge(out, parts, layout=clips.TINY) == 3 * (5 + 2 + 1)
    assert list(store.digest(out)) == list(store.digest(parts))
    report = store.verify(out)
    assert (report.problems, report.notes) == ([], [])
    ours = {(r.clip, r.track): r for r in store.open(out).records()}
    for record in store.open(parts).records():
        mine = ours[record.clip, record.track]
        assert (mine.details, mine.content_sha256, mine.rows_sha256, mine.status) == (
            record.details, record.content_sha256, record.rows_sha256, record.status,
        )  # fmt: skip
    assert store.open(out).provenance == clips.PROVENANCE
    assert [p.name for p in out.parent.iterdir()] == ["all.store"]
    with store.Writer(out, clips.PROVENANCE) as w:  # it can be written on
        w.append(clips.record("more", clips.rows(2)), clips.rows(2))
    assert store.verify(out).ok


def test_what_is_refused_leaves_nothing(tmp_path):
    a = make(tmp_path / "a.store", ["x", "y"])
    b = make(tmp_path / "b.store", ["y", "z"], 50)
    other = {"pack": {"name": "big", "fingerprint": "0" * 64}, "recipe": {"every": 1}}
    c = make(tmp_path / "c.store", ["q"], 70, other)
    out = tmp_path / "out.store"
    with pytest.raises(store.ClipExistsError, match=r"'y'.*a\.store and .*b\.store"):
        merge(out, [a, b])
    with pytest.raises(store.StoreMismatchError, match="pack"):
        merge(out, [a, c])
    with pytest.raises(store.StoreNotFoundError, match=r"none\.store"):
        merge(out, [a, tmp_path / "none.store"])
    before = (a / "index.sqlite").read_bytes()
    with pytest.raises(store.StoreError, match="is there already"):
        merge(a, [b])
    assert (a / "index.sqlite").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.store", "b.store", "c.store"]


def test_damaged_rows_are_refused(tmp_path):
    import zarr

    a = make(tmp_path / "a.store", ["x", "y"])
    zarr.open(a / "arrays.zarr", mode="r+")["embedding"][0, 0] = 0.5
    with pytest.raises(store.StoreError, match="'x'"):
        merge(tmp_path / "out.store", [a])
    (a / "arrays.zarr" / "box" / "c" / "0" / "0").unlink()
    with pytest.raises(store.StoreError, match="box"):
        merge(tmp_path / "out.store", [a])
    assert not (tmp_path / "out.store").exists()


def test_finished_clips_of_a_journal_are_not_left_out_silently(tmp_path):
    a, rows = make(tmp_path / "a.store", ["x"]), clips.rows(4)
    w = store.Writer(a, clips.PROVENANCE)
    w.append(clips.record("late", rows), rows)
    w._abandon()
    with pytest.raises(store.StoreError, match="1 finished clips wait in its journal"):
        merge(tmp_path / "out.store", [a])
