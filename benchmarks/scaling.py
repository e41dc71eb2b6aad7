"""Worker processes of our own against a Dask LocalCluster: clips/s, and bytes/s at the writer.

Runs of both take turns, so that what else the machine does meets both alike; each extracts the same
clips into a new store. Ends with one line of JSON.

    python benchmarks/scaling.py CLIPS_FOLDER --clips 4 --runs 3 --out benchmarks/results
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import store
from stages.extract import cluster
from stages.extract import run as extraction
from stages.extract.device import Device
from stages.extract.inputs import find_clips
from stages.extract.run import ExtractOptions
from store.schema import ClipRecord, ClipRows

VERSIONS = ("dask", "distributed", "numpy", "onnxruntime", "opencv-python", "zarr")
WAYS = {"processes": None, "dask": cluster.LOCAL}


class Meter(store.Writer):
    """A writer that notes how long it writes, and how many bytes of rows."""

    seconds = 0.0
    bytes = 0

    def append(self, record: ClipRecord, rows: ClipRows | None, *, replace: bool = False) -> None:
        """Write, and take the time."""
        begin = time.perf_counter()
        super().append(record, rows, replace=replace)
        Meter.seconds += time.perf_counter() - begin
        Meter.bytes += sum(a.nbytes for a in rows.as_dict().values()) if rows is not None else 0

    def flush(self) -> None:
        """Write, and take the time."""
        begin = time.perf_counter()
        super().flush()
        Meter.seconds += time.perf_counter() - begin


def measure(
    clips: list[Path], way: str, pack: str, workers: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Extract once; return what was measured, and the store's digest."""
    Meter.seconds, Meter.bytes = 0.0, 0
    with tempfile.TemporaryDirectory(prefix="facepipe-bench-") as folder:
        path = Path(folder) / "f.store"
        begin = time.perf_counter()
        options = ExtractOptions(
            clips, path, pack, Device.CPU, workers, scheduler=WAYS[way], overwrite=True
        )
        summary = extraction.extract(options)
        whole = time.perf_counter() - begin
        digest = dict(store.digest(path))
    n = sum(summary.statuses.values())
    return {
        "seconds": summary.seconds,
        "seconds_with_start_and_end": whole,
        "clips_per_s": n / summary.seconds,
        "frames_per_s": summary.frames / summary.seconds,
        "bytes": Meter.bytes,
        "arriving_bytes_per_s": Meter.bytes / summary.seconds,
        "writer_bytes_per_s": Meter.bytes / Meter.seconds,
    }, digest


def cpu_model() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="clips")
    parser.add_argument("--clips", type=int, help="only so many, the smallest files")
    parser.add_argument("--runs", type=int, default=3, help="of each way")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pack", default="lite")
    parser.add_argument("--out", type=Path, help="folder for the result, a dated JSON file")
    given = parser.parse_args()
    extraction.store.Writer = Meter  # type: ignore[misc]
    clips = sorted((s.path for s in find_clips([given.folder])), key=lambda p: p.stat().st_size)
    clips = clips[: given.clips]
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    digests = []
    for i in range(given.runs):
        for way in WAYS if i % 2 == 0 else reversed(WAYS):
            measured, digest = measure(clips, way, given.pack, given.workers)
            digests.append(digest)
            runs[way].append(measured)
            print(way, {k: round(v, 2) for k, v in measured.items()}, flush=True)
    if any(digest != digests[0] for digest in digests):
        raise SystemExit("the ways gave different features")
    told = {
        "benchmark": "scaling",
        "date": date.today().isoformat(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load_after": os.getloadavg()[0],
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "pack": given.pack,
        "workers": given.workers,
        "clips": len(clips),
        "runs": given.runs,
        "same_digest": True,
        **{
            way: {key: statistics.median(run[key] for run in found) for key in found[0]}
            for way, found in runs.items()
        },
    }
    line = json.dumps(told)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / f"scaling-{told['date']}.json").write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
