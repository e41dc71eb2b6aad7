"""What the store costs, against one file a clip as people do today and against the disk itself.

Real features repeated, all ways in turn within each repeat, medians: rows/s and bytes a row of
writing all arrays; ms to read two arrays of a random clip; seconds of a shuffled epoch, clip by
clip (of batches, and of the loader, see benchmarks/load.py). Then the table of benchmarks/scale.py
for stores of more and more clips. Ends with one line of JSON; leaves with 1
where it falls short of the floors below.

    python benchmarks/storage.py [STORE] [--clips 440] [--sizes 1000 30000 1000000] [--out FILE]
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from machine import judge, leave, machine, tell
from machine import real_clips as demo_clips

import store as features
from stages.extract.run import ExtractOptions, extract
from store.schema import ClipRecord, ClipRows, Status, array_specs

PROVENANCE = {"pack": {"name": "lite", "fingerprint": "0" * 64}, "recipe": {"every": 5}}
VERSIONS = ("facepipe", "dask", "h5py", "numpy", "torch", "zarr")
TWO = ("appearance", "landmark")
CLIP_ROWS = 300
FLOORS = {"write_rows_per_s": 40_000}
CEILINGS = {
    "bytes_a_row": 2500,
    "random_clip_ms": 5.0,
    "open_s": 2.0,
    "parts_s": 2.0,
    "resume_s": 30.0,
    "block_s": 3.0,
    "peak_rss_mib": 1024,
}
Clips = list[tuple[str, dict[str, Any]]]


def real_clips(path: Path, count: int) -> Clips:
    """Cut ``count`` clips of 300 rows out of a store's rows, round and round."""
    source = features.open(path)
    found = [source.clip(r.clip) for r in source.records(Status.OK)]
    rows = {name: np.concatenate([clip[name] for clip in found]) for name in found[0]}
    room = len(rows["valid"]) - CLIP_ROWS
    clips: Clips = []
    first = 0
    while len(clips) < count:
        first = (first + 97) % room
        clip = {name: values[first : first + CLIP_ROWS].copy() for name, values in rows.items()}
        clip["timestamp"] = np.arange(CLIP_ROWS) / 30
        if clip["valid"].any():
            clips.append((f"clip{len(clips):06d}.mp4", clip))
    return clips


def as_extracted(clip: dict[str, Any]) -> ClipRows:
    """Return a clip as the nets make it: features in float32."""
    return ClipRows(**{**clip, **{name: clip[name].astype(np.float32) for name in _FEATURES}})


def write_ours(path: Path, clips: Clips) -> None:
    """Append every clip, each durable on return."""
    with features.Writer(path, PROVENANCE) as writer:
        for name, clip in clips:
            faces = int(clip["valid"].sum())
            record = ClipRecord(name, Status.OK, frames=CLIP_ROWS, valid_frames=faces)
            writer.append(record, clip["rows"])


def write_zarr(path: Path, clips: Clips) -> None:
    """Write one Zarr group a clip."""
    root = zarr.open_group(path, mode="w")
    for name, clip in clips:
        group = root.create_group(name)
        for key, values in clip.items():
            group.create_array(key, data=values)


def write_hdf5(path: Path, clips: Clips) -> None:
    """Write one HDF5 file a clip, compressed as h5py's page says."""
    path.mkdir()
    for name, clip in clips:
        with h5py.File(path / f"{name}.h5", "w") as file:
            for key, values in clip.items():
                file.create_dataset(key, data=values, compression="lzf", shuffle=True)


def write_npz(path: Path, clips: Clips) -> None:
    """Write one .npz a clip, not compressed."""
    path.mkdir()
    for name, clip in clips:
        np.savez(path / f"{name}.npz", **clip)


def write_memmap(path: Path, clips: Clips) -> None:
    """Write the bare bytes of the two arrays: the floor of reading."""
    path.mkdir()
    for key in TWO:
        np.save(path / f"{key}.npy", np.concatenate([clip[key] for _, clip in clips]))


WRITERS: dict[str, Callable[[Path, Clips], None]] = {
    "ours": write_ours,
    "zarr_groups": write_zarr,
    "hdf5_files": write_hdf5,
    "npz_files": write_npz,
    "memmap": write_memmap,
}
_FEATURES = [spec.name for spec in array_specs() if spec.dtype == "float16"]


def readers(folder: Path) -> dict[str, Callable[[int, str], list[Any]]]:
    """Return how each way reads the two arrays of a clip, opened once."""
    ours = features.open(folder / "ours")
    group = zarr.open_group(folder / "zarr_groups", mode="r")
    maps = [np.load(folder / "memmap" / f"{key}.npy", mmap_mode="r") for key in TWO]

    def hdf5(i: int, name: str) -> list[Any]:
        with h5py.File(folder / "hdf5_files" / f"{name}.h5") as file:
            return [file[key][:] for key in TWO]

    def npz(i: int, name: str) -> list[Any]:
        with np.load(folder / "npz_files" / f"{name}.npz") as file:
            return [file[key] for key in TWO]

    def memmap(i: int, name: str) -> list[Any]:
        return [np.array(m[i * CLIP_ROWS : (i + 1) * CLIP_ROWS]) for m in maps]

    return {
        "ours": lambda i, name: list(ours.clip(name, arrays=TWO).values()),
        "zarr_groups": lambda i, name: [group[f"{name}/{key}"][:] for key in TWO],
        "hdf5_files": hdf5,
        "npz_files": npz,
        "memmap": memmap,
    }


def scale(size: int, rows: Path) -> dict[str, Any]:
    """Measure a store of ``size`` clips, each thing in a process of its own."""
    program = [sys.executable, str(Path(__file__).with_name("scale.py"))]
    found: dict[str, Any] = {"clips": size, "peak_rss_mib": 0}
    with tempfile.TemporaryDirectory(prefix="facepipe-bench-") as folder:
        made = [*program, "make", folder, "--clips", str(size), "--rows", str(rows)]
        subprocess.run(made, check=True)
        for what in ("open", "parts", "resume", "block"):
            done = subprocess.run(
                [*program, what, folder], check=True, stdout=subprocess.PIPE, text=True
            )
            told = json.loads(done.stdout)
            found[f"{what}_s"], found[f"{what}_cpu_s"] = told["seconds"], told["cpu_seconds"]
            found["peak_rss_mib"] = max(found["peak_rss_mib"], told["peak_rss_mib"])
    return found


def timed(do: Callable[..., Any], *args: Any) -> float:
    """Return the seconds that it takes."""
    begin = time.perf_counter()
    do(*args)
    return time.perf_counter() - begin


def main() -> int:
    """Run it all, print tables and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("store", type=Path, nargs="?", help="real rows; else the demo's clips")
    parser.add_argument("--clips", type=int, default=440)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 30_000, 1_000_000])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    took: dict[str, dict[str, list[float]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    size: dict[str, float] = {}
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="facepipe-bench-") as scratch:
        rows = given.store or Path(scratch) / "real.store"
        if given.store is None:
            extract(ExtractOptions([demo_clips()], rows), echo=print)
        clips = real_clips(rows, given.clips)
        extracted = [(name, {**clip, "rows": as_extracted(clip)}) for name, clip in clips]
        for turn in range(given.repeats):
            folder = Path(scratch) / str(turn)
            folder.mkdir()
            for name, write in WRITERS.items():
                # Ours casts to float16 itself; the others are given that.
                given_clips = extracted if name == "ours" else clips
                took[name]["write"].append(timed(write, folder / name, given_clips))
                files = [p for p in (folder / name).rglob("*") if p.is_file()]
                size[name] = sum(p.stat().st_size for p in files) / len(clips) / CLIP_ROWS
            order = rng.permutation(len(clips)).tolist()
            for name, read in readers(folder).items():
                each = [timed(read, i, clips[i][0]) for i in order]
                took[name]["clip"].append(statistics.median(each))
                took[name]["epoch"].append(sum(each))
        table = [scale(n, rows) for n in given.sizes]
    middle = {k: {m: statistics.median(v) for m, v in d.items()} for k, d in took.items()}
    print(f"{'':14s}{'write rows/s':>14s}{'B a row':>10s}{'clip ms':>10s}{'epoch s':>10s}")
    for name in WRITERS:
        m = middle[name]
        per_s = f"{len(clips) * CLIP_ROWS / m['write']:14.0f}{size[name]:10.0f}"
        print(f"{name:14s}{per_s}{1e3 * m['clip']:10.2f}{m['epoch']:10.2f}")
    figures = {
        "write_rows_per_s": len(clips) * CLIP_ROWS / middle["ours"]["write"],
        "bytes_a_row": size["ours"],
        "random_clip_ms": 1e3 * middle["ours"]["clip"],
    }
    if table:
        print(" ".join(f"{key:>14s}" for key in table[0]))
        for line in table:
            print(" ".join(f"{value:14.6g}" for value in line.values()))
        figures |= {key: table[-1][key] for key in CEILINGS if key in table[-1]}
    short = judge(figures, FLOORS, CEILINGS)
    told = {
        "benchmark": "store",
        **machine(VERSIONS),
        "clips": len(clips),
        "rows_a_clip": CLIP_ROWS,
        "repeats": given.repeats,
        "seconds": {
            k: {m: [round(x, 5) for x in v] for m, v in d.items()} for k, d in took.items()
        },
        "bytes_a_row": {k: round(v, 1) for k, v in size.items()},
        "scale": table,
        "figures": {k: round(v, 4) for k, v in figures.items()},
        "short_of": short,
    }
    tell(told, given.out)
    return 1 if short else 0


if __name__ == "__main__":
    leave(main)
