from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import store
from stages.fit.loader import ClipLoader
from stages.fit.spans import clip_spans
from store import ClipExistsError, ClipNotFoundError, Status, StoreMismatchError
from tests.store.store_clips import PROVENANCE, TINY, no_face, record, rows, same, stored

NAMES = [f"day{i % 2}/clip{i:02d}.mp4" for i in range(9)]


def write(path: Path, names: list[str], provenance: dict[str, object] = PROVENANCE) -> Path:
    with store.Writer(path, provenance, layout=TINY) as writer:
        for name in names:
            made = rows(5 + int(name[9:11]), seed=int(name[9:11]))
            writer.append(record(name, made), made)
        if names:
            empty = no_face(3)
            writer.append(record(f"{path.stem}/nobody.mp4", empty), empty)
            writer.append(record(f"{path.stem}/broken.mp4", None), None)
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three stores, the one in the middle without a clip."""
    home = tmp_path_factory.mktemp("parts")
    return [
        write(home / "a.store", NAMES[::2]),
        write(home / "b.store", []),
        write(home / "c.store", NAMES[1::2]),
    ]


def test_every_clip_is_there_once_and_in_order(parts: list[Path]) -> None:
    several = store.open(parts)
    found = [r.clip for r in several.records()]
    assert found == sorted([*NAMES, *(f"{k}/{n}.mp4" for k in "ac" for n in ("broken", "nobody"))])
    assert len(several) == len(found)
    assert several.index()["clip"].tolist() == found
    assert [r.clip for r in several.records(Status.FAILED)] == ["a/broken.mp4", "c/broken.mp4"]
    both = several.records(status for status in (Status.FAILED, Status.NO_FACE))
    assert len(list(both)) == 4
    assert several.n_rows == sum(5 + i for i in range(9)) + 6
    assert several.feature_dtype == "float16"
    assert several.provenance["pack"] == PROVENANCE["pack"]
    assert several.specs == store.open(parts[0]).specs


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_rows_of_a_record_are_where_it_says(parts: list[Path], order: tuple[int, ...]) -> None:
    several = store.open([parts[k] for k in order])
    owned = 0
    lazy = {spec.name: several.dask(spec.name) for spec in several.specs}
    assert all(len(array) == several.n_rows for array in lazy.values())
    for found in several.records_by_start():
        assert found.start == owned
        owned += found.frames
        read = several.clip(found.clip)
        cut = slice(found.start, found.start + found.frames)
        assert same({name: array[cut].compute() for name, array in lazy.items()}, read)
        assert several.record(found.clip) == found
        if found.status is Status.OK:
            number = int(found.clip[9:11])
            assert same(read, stored(rows(5 + number, seed=number)))
    assert owned == several.n_rows


def test_the_union_has_the_digest_of_one_store(parts: list[Path], tmp_path: Path) -> None:
    one = write(tmp_path / "one.store", NAMES)
    union = dict(store.digest(parts))
    assert list(union) == sorted(union)
    assert {n: union[n] for n in NAMES} == {n: dict(store.digest(one))[n] for n in NAMES}


def test_a_loader_sees_the_clips_of_one_store(parts: list[Path], tmp_path: Path) -> None:
    one = store.open(write(tmp_path / "one.store", NAMES))
    several = store.open(parts)

    def loaded(source: store.Store | store.Stores) -> dict[str, list[np.ndarray]]:
        loader = ClipLoader(source, list(clip_spans(source).values()), block_rows=16)
        return {
            clip.clip: [clip.appearance, clip.landmark, clip.valid, clip.timestamp]
            for clip in loader.iter_clips()
        }

    expected, got = loaded(one), loaded(several)
    assert sorted(got) == sorted(expected) == sorted(NAMES)
    for name in NAMES:
        for a, b in zip(got[name], expected[name], strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_clip_in_two_stores_is_refused_by_both_names(parts: list[Path], tmp_path: Path) -> None:
    other = write(tmp_path / "other.store", [NAMES[3], NAMES[4]])
    with pytest.raises(ClipExistsError) as caught:
        store.open([parts[0], other])
    for expected in (NAMES[4], str(parts[0]), str(other)):
        assert expected in str(caught.value)
    with pytest.raises(ClipExistsError, match=r"a\.store"):
        store.open([parts[0], parts[0]])
    with pytest.raises(ClipExistsError):
        list(store.digest([parts[0], other]))
    report = store.verify([parts[0], other])
    assert not report.ok and NAMES[4] in report.problems[0]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"pack": {"name": "big", "fingerprint": "0" * 64}}, "big"),
        ({"recipe": {"every": 7}}, "every=7"),
    ],
)
def test_stores_of_different_making_are_refused(
    parts: list[Path], tmp_path: Path, changed: dict[str, object], expected: str
) -> None:
    other = write(tmp_path / "other.store", [NAMES[1]], PROVENANCE | changed)
    with pytest.raises(StoreMismatchError) as caught:
        store.open([parts[1], parts[0], other])
    for part in (expected, str(parts[0]), str(other)):
        assert part in str(caught.value)


def test_stores_of_different_dtypes_are_refused(parts: list[Path], tmp_path: Path) -> None:
    with store.Writer(tmp_path / "f32.store", PROVENANCE, feature_dtype="float32") as writer:
        writer.append(record("x.mp4", rows(4)), rows(4))
    with pytest.raises(StoreMismatchError, match=r"f32\.store.*float32"):
        store.open([parts[0], tmp_path / "f32.store"])


def test_what_is_missing_is_named(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(store.StoreNotFoundError, match="nothing"):
        store.open([parts[0], tmp_path / "nothing.store"])
    with pytest.raises(store.StoreNotFoundError):
        store.open([])
    several = store.open(parts)
    for ask in (several.record, several.clip):
        with pytest.raises(ClipNotFoundError, match="nowhere.mp4"):
            ask("nowhere.mp4")
    with pytest.raises(ClipNotFoundError):
        several.record(NAMES[0], track=3)
    with pytest.raises(store.StoreError, match="colour"):
        several.dask("colour")


def test_what_comes_later_does_not_shift_the_rows(tmp_path: Path) -> None:
    """A store that grows while it is read must not run into the next one's rows."""
    paths = [write(tmp_path / "a.store", NAMES[:2]), write(tmp_path / "b.store", NAMES[2:4])]
    several = store.open(paths)
    before = list(several.records())
    write(tmp_path / "a.store", [])
    made = rows(30, seed=30)
    with store.Writer(paths[0], PROVENANCE) as writer:
        writer.append(record("day0/late.mp4", made), made)
    assert list(several.records()) == before and len(several) == len(before)
    assert len(several.dask("valid")) == several.n_rows == sum(r.frames for r in before)
    with pytest.raises(ClipNotFoundError):
        several.clip("day0/late.mp4")
    assert "day0/late.mp4" in [r.clip for r in store.open(paths).records()]


def test_it_travels_to_other_processes(parts: list[Path]) -> None:
    with store.open(parts) as several:
        copy = pickle.loads(pickle.dumps(several))
    assert list(copy.records()) == list(several.records())
    np.testing.assert_array_equal(
        copy.dask("timestamp").compute(), several.dask("timestamp").compute()
    )


def test_verify_adds_up_and_names_the_damaged_store(parts: list[Path], tmp_path: Path) -> None:
    report = store.verify(parts)
    assert report.ok and report.clips == 13 and report.rows == store.open(parts).n_rows
    assert report.by_status == {"ok": 9, "no_face": 2, "failed": 2}
    damaged = write(tmp_path / "damaged.store", [NAMES[3]])
    for shard in (damaged / "arrays.zarr/score/c").iterdir():
        shard.unlink()
    report = store.verify([parts[0], damaged])
    assert report.problems and all(str(damaged) in line for line in report.problems)
