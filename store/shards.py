"""Whole shards read and written at once, to the same bytes as Zarr's.

Zarr sends every chunk of a shard through an event loop and a thread, which takes four times as long
as its decompression. Here is the little of the format (Zarr's specification of `sharding_indexed`,
version 1.0) that a store on a disk needs. All else is left to Zarr: object storage, arrays that are
laid out in another way, and shards that are not as they should be, so that it says what is wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr
from google_crc32c import value as crc32c
from numcodecs import blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec
from zarr.storage import LocalStore

from store.durable import DurableStore
from store.errors import StoreDamagedError
from store.strict import MissingChunkError

AnyArray = npt.NDArray[np.generic]
Chunk: TypeAlias = "bytes | npt.NDArray[np.uint8]"  # as it lies in a shard

_CRC = 4  # bytes
_NO_CHUNK = 2**64 - 1


class _OtherShardError(Exception):
    """Not as expected; Zarr knows more of it."""


def read(array: zarr.Array[Any], start: int, stop: int) -> AnyArray:
    """Return rows ``start`` to ``stop``, which the array has: (stop - start, *tail), native order.

    Raises
    ------
    MissingChunkError
        A shard lacks a chunk in which rows lie.
    Exception
        Whatever Zarr and its codecs raise over damaged bytes.
    """
    shards = Shards.of(array)
    if shards is not None:
        try:
            return shards.read(start, stop)
        except (_OtherShardError, OSError):
            pass
    values = np.asarray(array[start:stop])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def write(array: zarr.Array[Any], start: int, rows: AnyArray) -> None:
    """Write rows ``start`` to ``start + n``, which the array has.

    Chunks of nothing but fill values are written too, as Zarr does where it is told WRITE_ALL.

    Raises
    ------
    StoreDamagedError
        Rows before ``start`` are missing from the shard that goes on.
    """
    shards, stop = Shards.of(array), start + len(rows)
    if shards is None or not isinstance(array.store, DurableStore):
        array[start:stop] = rows
        return
    for number, begin, end in shards.within(start, stop):
        part = rows[begin - start : end - start]
        try:
            array.store.put(shards.key(number), shards.with_rows(number, begin, part))
        except _OtherShardError:
            array[begin:end] = part


@dataclass(frozen=True)
class Shards:
    """Those of one array on a disk: ``chunks`` chunks each, of ``rows`` rows and all columns."""

    array: zarr.Array[Any]
    store: LocalStore
    chunks: int
    rows: int

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> Shards | None:
        """Return them if the array lies on a disk, laid out as FORMAT.md says."""
        store, shard, size = array.store, array.shards, array.dtype.itemsize
        if not isinstance(store, LocalStore) or shard is None or sys.byteorder != "little":
            return None
        codecs = (
            BytesCodec(endian=None if size == 1 else "little"),
            BloscCodec(typesize=size, cname="lz4", clevel=5, shuffle="bitshuffle"),
            Crc32cCodec(),
        )
        expected = ShardingCodec(chunk_shape=array.chunks, codecs=codecs)
        columns = array.shape[1:]
        if (
            getattr(array.metadata, "codecs", ()) != (expected,)
            or not array.chunks[1:] == shard[1:] == columns
        ):
            return None
        return cls(array, store, shard[0] // array.chunks[0], array.chunks[0])

    def key(self, number: int) -> str:
        """Return the name of a shard's file below the store's folder."""
        place = (number, *(0 for _ in self.array.shape[1:]))
        return f"{self.array.path}/{self.array.metadata.encode_chunk_key(place)}"

    def within(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield the shards that rows lie in, with the first row in each and the one after."""
        return _cut(start, stop, self.chunks * self.rows)

    def read(self, start: int, stop: int) -> AnyArray:
        """Return rows ``start`` to ``stop``; raise what leaves it to Zarr."""
        out = np.empty((stop - start, *self.array.shape[1:]), self.array.dtype)
        for number, low, high in self.within(start, stop):
            first = number * self.chunks
            with (self.store.root / self.key(number)).open("rb", buffering=0) as file:
                table = self._table(file.fileno())
                scratch = np.empty(max(size for _, size in table), np.uint8)
                for place, begin, end in _cut(low, high, self.rows):
                    if not table[place - first][1]:  # Zarr would read fill values
                        raise MissingChunkError(f"{self.key(number)} lacks rows {begin} to {end}")
                    # One chunk at a time: what was read is unpacked while the CPU's cache has it.
                    chunk = _chunk(file.fileno(), *table[place - first], scratch)
                    to = out[begin - start : end - start]
                    if len(to) == self.rows:
                        _unpack(chunk, to)
                    else:
                        whole = np.empty((self.rows, *out.shape[1:]), out.dtype)
                        _unpack(chunk, whole)
                        to[:] = whole[begin - place * self.rows :][: len(to)]
        return out

    def with_rows(self, number: int, start: int, rows: AnyArray) -> Iterator[Chunk]:
        """Yield the file of a shard with rows from ``start`` on in it, the others as they were.

        In parts, a chunk in memory at a time: the old file and the new one of all arrays are 55 MB.
        """
        first, stop = number * self.chunks, start + len(rows)
        end = min((first + self.chunks) * self.rows, self.array.shape[0])  # no row counts beyond
        given = np.ascontiguousarray(rows, self.array.dtype)
        file, old = -1, [(0, 0)] * self.chunks
        table, at = np.full((self.chunks, 2), _NO_CHUNK, "<u8"), 0

        def read(place: int) -> Chunk:
            offset, size = old[place]
            return _chunk(file, offset, size, np.empty(size, np.uint8))

        with ExitStack() as stack:
            if (start, stop) != (first * self.rows, end):
                with suppress(FileNotFoundError):  # a new one, if no rows come before
                    path = self.store.root / self.key(number)
                    file = stack.enter_context(path.open("rb", buffering=0)).fileno()
                    old = self._table(file)
                self._check_before(number, start, old)
            for place, (_, size) in enumerate(old):
                begin = (first + place) * self.rows
                low, high = max(start, begin), min(stop, begin + self.rows)
                if low >= high:
                    if not size:
                        continue
                    chunk = read(place)
                else:
                    part = given[low - start : high - start]
                    if len(part) < self.rows:
                        keeps = size and (low, high) != (begin, min(begin + self.rows, end))
                        before = read(place) if keeps else None
                        part = self._whole(part, low - begin, before)
                    chunk = _pack(part)
                table[place] = at, len(chunk)
                at += len(chunk)
                yield chunk
        yield _checked(table.tobytes())

    def _whole(self, part: AnyArray, at: int, before: Chunk | None) -> AnyArray:
        """Return the rows of a chunk of which some are given, the others as they were."""
        whole = np.full((self.rows, *part.shape[1:]), self.array.fill_value, part.dtype)
        if before is not None:
            _unpack(before, whole)
        whole[at : at + len(part)] = part
        return whole

    def _check_before(self, number: int, start: int, table: list[tuple[int, int]]) -> None:
        """Refuse to go on with a shard that lacks chunks of rows before ``start``."""
        first = number * self.chunks
        before = -(-start // self.rows) - first  # chunks that hold any of these
        if missing := sum(not size for _, size in table[:before]):
            raise StoreDamagedError(
                f"{self.store.root / self.key(number)}: expected rows {first * self.rows} to "
                f"{start}, which were committed, in {before} chunks, got {before - missing}",
                f"`pipeline store verify --repair {self.store.root.parent}` marks the clips "
                "that lost rows for re-extraction.",
            )

    def _table(self, file: int) -> list[tuple[int, int]]:
        """Return where each chunk of an open shard begins and how long it is; 0 for no chunk."""
        size = 16 * self.chunks + _CRC
        length = os.fstat(file).st_size
        index = np.frombuffer(os.pread(file, size, max(length - size, 0)), np.uint8)
        if len(index) != size or not _sound(index):
            raise _OtherShardError
        table: list[tuple[int, int]] = []
        for offset, n in index[:-_CRC].view("<u8").reshape(-1, 2).tolist():
            table.append((offset, n) if offset != _NO_CHUNK else (0, 0))
            if sum(table[-1]) > length:
                raise _OtherShardError
        return table


def _chunk(file: int, offset: int, size: int, into: npt.NDArray[np.uint8]) -> Chunk:
    """Read one chunk of an open shard into memory that is large enough."""
    chunk = into[:size]
    if size <= _CRC or os.preadv(file, [chunk.data], offset) != size:
        raise _OtherShardError
    return chunk


def _cut(start: int, stop: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Cut rows where multiples of ``size`` lie: number of the piece, first row, row after."""
    for number in range(start // size, -(-stop // size) if start < stop else 0):
        yield number, max(start, number * size), min(stop, (number + 1) * size)


def _sound(data: Chunk) -> bool:
    """Whether the last four bytes are the checksum of those before."""
    return bool(crc32c(data[:-_CRC]) == int.from_bytes(data[-_CRC:], "little"))


def _unpack(chunk: Chunk, out: AnyArray) -> None:
    size = int.from_bytes(chunk[4:8], "little")  # c-blosc's header: bytes when decompressed
    if not _sound(chunk) or size != out.nbytes:
        raise _OtherShardError
    blosc.decompress(chunk[:-_CRC], out)


def _pack(rows: AnyArray) -> bytes:
    return _checked(blosc.compress(rows, b"lz4", 5, blosc.BITSHUFFLE))


def _checked(data: bytes) -> bytes:
    """Return the bytes with their checksum behind."""
    return data + int(crc32c(data)).to_bytes(_CRC, "little")
