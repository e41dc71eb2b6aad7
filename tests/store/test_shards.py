"""Shards that are read and written whole, against Zarr."""

import tracemalloc

import numpy as np
import pytest
import zarr

from store import shards
from store.arrays import WRITE_ALL, Arrays
from store.durable import DurableStore
from store.errors import StoreDamagedError
from store.layout import Layout
from store.strict import MissingChunkError, StrictStore

LAYOUT = Layout(chunk_rows=4, shard_rows=16)
WRITES = [(0, 7), (7, 20), (20, 32), (32, 33), (30, 41), (5, 6)]  # each from row to row


@pytest.fixture
def made(tmp_path):
    return Arrays.create(tmp_path / "ours", "float16", LAYOUT, 0, crop_size=3)


def values(array, n):
    rng = np.random.default_rng(n)
    return (rng.random((n, *array.shape[1:])) * 200).astype(array.dtype)


def open_array(path, name, store=StrictStore):
    with zarr.config.set(WRITE_ALL):
        return zarr.open_array(
            store=store(path), path=name, mode="r" if store is StrictStore else "r+"
        )


@pytest.mark.parametrize("name", ["embedding", "landmark", "timestamp", "valid", "crop"])
def test_the_files_are_zarrs_byte_for_byte_and_so_are_the_rows(made, name, tmp_path):
    theirs = Arrays.create(tmp_path / "zarrs", "float16", LAYOUT, 0, crop_size=3)
    array = open_array(made.path, name, DurableStore)
    other = open_array(theirs.path, name, DurableStore)
    length = 0
    for begin, end in WRITES:
        length = max(length, end)
        for each in (array, other):
            each.resize((length, *each.shape[1:]))
        shards.write(array, begin, rows := values(array, end - begin))
        other[begin:end] = rows
        ours = {p.relative_to(made.path): p.read_bytes() for p in _files(made.path / name)}
        assert ours
        assert ours == {
            p.relative_to(theirs.path): p.read_bytes() for p in _files(theirs.path / name)
        }
    there = shards.Shards.of(open_array(made.path, name))
    for begin, end in [(0, length), (3, 5), (4, 8), (15, 33), (40, 41), (9, 9)]:
        assert there.read(begin, end).tobytes() == other[begin:end].tobytes()


def _files(folder):
    return [p for p in folder.rglob("*") if p.is_file()]


@pytest.mark.parametrize("damage", ["byte", "index", "short", "missing"])
def test_what_is_damaged_is_zarrs_to_refuse(made, damage):
    made.resize(40)
    made.write(0, {"embedding": np.ones((40, 512), np.float16)})
    file = made.path / "embedding" / "c" / "1" / "0"
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        data[{"byte": 30, "index": -20, "short": 0}[damage]] ^= 1
        file.write_bytes(data[:20] if damage == "short" else data)
    array = open_array(made.path, "embedding")
    with pytest.raises(Exception) as by_zarr:
        array[10:30]
    with pytest.raises(type(by_zarr.value)):
        shards.read(array, 10, 30)
    assert (shards.read(array, 32, 40) == 1).all()


def test_rows_are_never_put_beside_damaged_ones(made):
    made.resize(6)
    made.write(0, {"score": np.ones(6, np.float32)})
    file = made.path / "score" / "c" / "0"
    data = bytearray(file.read_bytes())
    data[-30 - 16 * 4] ^= 1  # in the second chunk, whose rows 4 and 5 stay
    file.write_bytes(data)
    made.resize(8)
    with pytest.raises(ValueError, match="checksum"):
        made.write(6, {"score": np.ones(2, np.float32)})
    assert file.read_bytes() == data


def test_a_chunk_that_is_missing_is_no_fill_values(made):
    made.resize(16)
    made.write(0, {"score": np.ones(8, np.float32)})
    made.resize(12)
    array = open_array(made.path, "score")
    assert (shards.read(array, 0, 8) == 1).all()
    with pytest.raises(MissingChunkError, match="score/c/0 lacks rows 8 to 12"):
        shards.read(array, 0, 12)
    made.resize(16)
    before = (made.path / "score" / "c" / "0").read_bytes()
    with pytest.raises(StoreDamagedError, match="rows 0 to 14.* in 4 chunks, got 2"):
        made.write(14, {"score": np.ones(2, np.float32)})
    assert (made.path / "score" / "c" / "0").read_bytes() == before


def test_an_array_of_another_layout_is_left_to_zarr(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(9, 3), chunks=(4, 3), dtype="float32")
    assert shards.Shards.of(array) is None
    shards.write(array, 2, np.ones((5, 3), np.float32))
    assert shards.read(array, 0, 9).sum() == 15


def test_a_shard_that_goes_on_is_written_with_few_of_its_chunks_in_memory(tmp_path):
    layout = Layout(chunk_rows=256, shard_rows=8192)
    made = Arrays.create(tmp_path / "many", "float16", layout, 0)
    noise = np.random.default_rng(0).normal(size=(8000, 512)).astype(np.float16)  # 8 MB
    made.resize(8000)
    made.write(0, {"embedding": noise[:7900]})
    tracemalloc.start()
    try:
        made.write(7900, {"embedding": noise[7900:]})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (made.read("embedding", 0, 8000) == noise).all()
    assert peak < 2 << 20
