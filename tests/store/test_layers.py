from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

import store
from store import layer_writer
from store.care import forget
from store.errors import StoreError, StoreMismatchError
from store.layer_writer import digest, open_layer
from tests.fit.fit_clips import make_store

TOLD = {"layer": "7", "pack": "p"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_store(tmp_path / "a.store", clips=6, persons=3)
    return tmp_path / "a.store"


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_writer, "CHUNK_ROWS", 8)
    monkeypatch.setattr(layer_writer, "SHARD_CHUNKS", 2)


def values(path: Path, width: int = 5) -> np.ndarray:
    n = store.open(path).n_rows
    x = np.random.default_rng(0).normal(size=(n, width)).astype(np.float16)
    x[2] = np.nan
    return x


def put(path: Path, x: np.ndarray, stop: int | None = None, name: str = "seven") -> None:
    with open_layer(path, name, x.shape[1], TOLD) as writer:
        for begin in range(writer.rows, stop or len(x), 7):
            writer.append(x[begin : min(begin + 7, stop or len(x))])
        if stop is None:
            writer.finish()


def test_rows_come_back_by_the_layers_name(path: Path, small_shards: None) -> None:
    x = values(path)
    put(path, x)
    opened = store.open(path)
    assert opened.layers["seven"].rows == len(x) == opened.n_rows
    np.testing.assert_array_equal(opened.dask("seven").compute(), x)
    record = opened.record("p01/clip001.mp4")
    rows = slice(record.start, (record.start or 0) + record.frames)
    np.testing.assert_array_equal(opened.clip(record.clip, arrays=["seven"])["seven"], x[rows])
    assert zarr.open_group(path / "layers.zarr", mode="r")["seven"].shape == x.shape
    assert store.verify(path).ok
    assert list(opened.clip(record.clip)) == [spec.name for spec in opened.specs]


@pytest.mark.parametrize("killed", [False, True])
def test_interrupted_it_goes_on(
    path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    x = values(path)
    with monkeypatch.context() as patch:
        if killed:
            patch.setattr(layer_writer.LayerWriter, "keep", lambda self: None)
        put(path, x, stop=40)
    opened = store.open(path)
    kept = 32 if killed else 40  # two shards of 16 rows are whole
    assert opened.layers["seven"].rows == kept and store.verify(path).ok
    with pytest.raises(StoreError, match=rf"{kept} of the store's \d+ rows"):
        opened.dask("seven")
    put(path, x)
    assert store.verify(path).ok
    np.testing.assert_array_equal(store.open(path).dask("seven").compute(), x)


def test_a_store_that_has_grown_gets_the_new_rows_only(path: Path, small_shards: None) -> None:
    x = values(path)
    put(path, x)
    make_more(path)
    longer = np.concatenate([x, values(path)[len(x) :]])
    put(path, longer)
    np.testing.assert_array_equal(store.open(path).dask("seven").compute(), longer)
    assert store.verify(path).ok


def make_more(path: Path) -> None:
    opened = store.open(path)
    record = opened.record("p00/clip000.mp4")
    rows = store.ClipRows(**opened.clip(record.clip))
    with store.Writer(path, opened.provenance) as writer:
        writer.append(store.ClipRecord(**{**vars(record), "clip": "new.mp4", "start": None}), rows)


def test_forgetting_a_clip_takes_the_layers_along(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(path, values(path))
    seen: list[Path] = []
    monkeypatch.setattr("store.durable.overwrite", seen.append)
    forget(path, ["p00/clip000.mp4"])
    assert any("layers.zarr" in file.parts for file in seen)
    assert not (path / "layers.zarr").exists()
    assert store.open(path).layers == {} and store.verify(path).ok


def test_damage_is_found_and_not_built_upon(path: Path) -> None:
    x = values(path)
    put(path, x)
    (shard,) = (path / "layers.zarr/seven/c").rglob("0/0")
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0xFF
    shard.write_bytes(data)
    (problem,) = store.verify(path).problems
    assert "layer 'seven': rows 0 to" in problem
    with pytest.raises(Exception, match=r"(?i)damaged|checksum|crc|decompress"):
        put(path, x)


def test_what_does_not_fit_is_refused(path: Path) -> None:
    x = values(path)
    for name in ("embedding", "crop", "../x", "a/b", ""):
        with pytest.raises(StoreError, match="cannot be the name"):
            put(path, x, name=name)
    put(path, x)
    with (
        pytest.raises(StoreError, match="was made with layer 7, pack p"),
        open_layer(path, "seven", 5, {"layer": "8"}),
    ):
        pass
    with open_layer(path, "seven", 4, {"layer": "8"}, overwrite=True) as writer:
        with pytest.raises(StoreError, match="expected"):
            writer.append(np.zeros((1, 5)))
        with pytest.raises(StoreError, match="float16"):
            writer.append(np.full((1, 4), 1e6))
        with pytest.raises(StoreError, match="more rows"):
            writer.append(np.zeros((len(x) + 1, 4)))
        with pytest.raises(StoreError, match=f"0 of {len(x)} rows"):
            writer.finish()
    with pytest.raises(StoreError, match="holds no array 'eight'") as caught:
        store.open(path).dask("eight")
    assert "pipeline features" in caught.value.hint


def test_the_digest_is_of_the_clip_and_not_of_its_place(path: Path, tmp_path: Path) -> None:
    x = values(path)
    put(path, x)
    first = dict(digest(path, "seven"))
    x[-1] += 1
    with open_layer(path, "seven", 5, TOLD, overwrite=True) as writer:
        writer.append(x)
        writer.finish()
    second = dict(digest(path, "seven"))
    assert [clip for clip in first if first[clip] != second[clip]] == ["none/no_face.mp4"]
    with pytest.raises(StoreError, match="no layer 'x'"):
        next(digest(path, "x"))


def test_stores_read_as_one_need_the_layer_made_alike(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.store"
    with store.Writer(other, store.open(path).provenance):
        pass
    make_more_of(path, other)
    put(path, values(path))
    both = store.open([path, other])
    with pytest.raises(StoreMismatchError, match="not in all"):
        both.dask("seven")
    put(other, values(other))
    both = store.open([path, other])
    assert list(both.layers) == ["seven"]
    whole = np.concatenate([values(path), values(other)])
    np.testing.assert_array_equal(both.dask("seven").compute(), whole)


def make_more_of(path: Path, other: Path) -> None:
    opened = store.open(path)
    record = opened.record("p00/clip000.mp4")
    rows = store.ClipRows(**opened.clip(record.clip))
    with store.Writer(other, opened.provenance) as writer:
        writer.append(store.ClipRecord(**{**vars(record), "clip": "new.mp4", "start": None}), rows)
