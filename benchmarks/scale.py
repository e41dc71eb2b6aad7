"""One measurement on a store of many clips, in a process of its own for the sake of its memory.

    python benchmarks/scale.py make|open|parts|resume|block FOLDER [--clips 1000000]

``make`` builds FOLDER/x.store, whose index is whole and whose arrays have their full length; only
the shards that ``block`` reads are written, from the rows of --rows. ``parts`` opens two stores as
one that hold about half of the clips each. ``resume`` lists empty files in FOLDER/videos against
x.store. Each prints one line of JSON; benchmarks/storage.py collects them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import store
from store.arrays import Arrays
from store.index import Index
from store.layout import Paths
from store.records import COLUMNS, to_columns
from store.schema import ClipRecord, Status

PROVENANCE = {"pack": {"name": "lite", "fingerprint": "0" * 64}, "recipe": {"every": 5}}
BATCH = 16
PARTS = 2


def clip_id(i: int) -> str:
    """Return the id of the i-th clip: a thousand a folder."""
    return f"user{i // 1000:05d}/clip{i:07d}.mp4"


def make(folder: Path, clips: int, rows: Path) -> None:
    """Build the store and the files."""
    path = folder / "x.store"
    store.Writer(path, PROVENANCE).close()
    frames = np.random.default_rng(0).integers(128, 501, clips)  # 314 on average
    start = np.concatenate([[0], np.cumsum(frames)])
    index = Index(path / "index.sqlite", writable=True)
    with index.transaction():
        index.add_session("2026-01-01 00:00:00+00:00", json.dumps(PROVENANCE))
        index.connection.executemany(
            f"INSERT INTO clip VALUES ({','.join('?' * len(COLUMNS))})",
            _records(folder / "videos", frames, start),
        )
        index.set_meta(rows=int(start[-1]))
    index.close()
    arrays = Arrays(Paths(path).arrays, "float16", writable=True)
    arrays.resize(int(start[-1]))
    source = store.open(rows)
    real = {name: source.dask(name)[: arrays.shard_rows].compute() for name in arrays.specs}
    for shard in _shards_of_the_first_blocks(path, arrays.shard_rows):
        first = shard * arrays.shard_rows
        n = min(arrays.shard_rows, int(start[-1]) - first)
        for name, values in real.items():
            arrays.write(first, {name: np.resize(values, (n, *values.shape[1:]))})
    arrays.sync()
    for part in range(PARTS):
        _make_part(folder, part, int(start[-1]))


def _make_part(folder: Path, part: int, rows: int) -> None:
    """Build one of the stores that ``parts`` opens; its clips keep their rows."""
    path = _part(folder, part)
    store.Writer(path, PROVENANCE).close()
    index = Index(path / "index.sqlite", writable=True)
    index.connection.execute("ATTACH ? AS whole", (str(folder / "x.store" / "index.sqlite"),))
    with index.transaction():
        index.connection.execute("INSERT INTO session SELECT * FROM whole.session")
        index.connection.execute(
            "INSERT INTO clip SELECT * FROM whole.clip WHERE start % ? = ?", (PARTS, part)
        )
        index.set_meta(rows=rows)
    index.close()
    arrays = Arrays(Paths(path).arrays, "float16", writable=True)
    arrays.resize(rows)
    arrays.sync()


def _part(folder: Path, part: int) -> Path:
    return folder / f"part{part}.store"


def _records(videos: Path, frames: Any, start: Any) -> Iterator[list[Any]]:
    for i, n in enumerate(frames.tolist()):
        file = videos / clip_id(i)
        if i % 1000 == 0:
            file.parent.mkdir(parents=True)
        os.mknod(file)
        record = ClipRecord(
            clip_id(i),
            Status.OK,
            frames=n,
            valid_frames=n - 1,
            claimed_frames=n,
            fps=30.0,
            duration_s=n / 30,
            width=576,
            height=1024,
            decoder="opencv",
            content_sha256=hashlib.sha256(str(i).encode()).hexdigest(),
            mtime_ns=os.stat(file).st_mtime_ns,
            start=int(start[i]),
            rows_sha256=hashlib.sha256(str(-i).encode()).hexdigest(),
            session=1,
        )
        yield to_columns(record)


def _shards_of_the_first_blocks(path: Path, shard_rows: int) -> list[int]:
    """Say which shards the loader will read: a batch takes about three blocks, others ahead."""
    loader, order = _loader(path)
    shards = set()
    for block in order[:8]:
        spans = loader.blocks[block]
        last = spans[-1].start + spans[-1].frames - 1
        shards |= set(range(spans[0].start // shard_rows, last // shard_rows + 1))
    return sorted(shards)


def _loader(path: Path) -> tuple[Any, list[int]]:
    from stages.fit.loader import ClipLoader
    from stages.fit.spans import span_table

    source = store.open(path)
    loader = ClipLoader(source, span_table(source))
    order = np.arange(len(loader.blocks))
    np.random.default_rng((0, 0)).shuffle(order)
    return loader, order.tolist()


def open_(folder: Path) -> dict[str, Any]:
    """Open the store and ask how much it holds, as a person does first."""
    s = store.open(folder / "x.store")
    return {"rows": s.n_rows, "clips": len(s)}


def parts(folder: Path) -> dict[str, Any]:
    """Open several stores as one, and ask the same."""
    s = store.open([_part(folder, part) for part in range(PARTS)])
    return {"rows": s.n_rows, "clips": len(s)}


def resume(folder: Path) -> dict[str, Any]:
    """List what is new among the files: nothing is."""
    from stages.extract.run import ExtractOptions, plan

    found = plan(ExtractOptions([folder / "videos"], folder / "x.store"))
    return {"todo": len(found.todo), "done": len(found.done)}


def block(folder: Path) -> dict[str, Any]:
    """Draw the first batch of a shuffled epoch."""
    from stages.fit.loader import ClipLoader
    from stages.fit.spans import span_table

    source = store.open(folder / "x.store")
    loader = ClipLoader(source, span_table(source))
    batch = next(loader.batches(BATCH, shuffle=True))
    return {"batch": list(batch.appearance.shape), "blocks": len(loader.blocks)}


def _peak_kib() -> int:
    # Not ru_maxrss: that begins with what the parent process had.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


MEASURED = {"open": open_, "parts": parts, "resume": resume, "block": block}


def main() -> None:
    """Do one thing and tell its cost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=["make", *MEASURED])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--rows", type=Path)
    given = parser.parse_args()
    if given.what == "make":
        make(given.folder, given.clips, given.rows)
        return
    if given.what == "resume":
        import stages.extract.run  # noqa: F401
    elif given.what == "block":
        import dask.array  # noqa: F401

        import stages.fit.loader  # noqa: F401
    begin, cpu = time.perf_counter(), time.process_time()
    told = MEASURED[given.what](given.folder)
    told |= {
        "seconds": round(time.perf_counter() - begin, 4),
        "cpu_seconds": round(time.process_time() - cpu, 4),
        "peak_rss_mib": _peak_kib() // 1024,
    }
    print(json.dumps(told), flush=True)
    os._exit(0)  # blocks that are being read ahead are nobody's business


if __name__ == "__main__":
    sys.exit(main())
