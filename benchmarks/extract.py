"""How fast stage one is, against the loop that a user would otherwise write, and how good.

Interleaved runs over the same clips, medians:

(a) insightface: ``for frame in cv2.VideoCapture: FaceAnalysis.get(frame)``, as it comes, all cores
(b) ours, ONNX Runtime on the CPU, 2 workers
(c) ours, OpenVINO, 2 workers, where it is installed; in bf16, too, where the CPU has it
(d) the bare nets: the pack's files as they are, in the same batches, nothing else, 2 processes
(e) the same for the graphs that ours makes of them: what is left to gain outside the nets
(f) what else no run can do without: 2 processes started, nets opened, the clips decoded. So
    (d) / ((d) + (f)) is the fraction of (d) that a run could reach whose own work took no time

and the quality of (b) against (a'), ours with the detector on every frame. Ends with one line of
JSON; leaves with 1 where it falls short of the floors below.

    python benchmarks/extract.py FOLDER [--repeats 3] [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib.util
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import judge, leave, machine, real_clips, tell
from peak_memory import PeakMemory

import store
from stages.extract import packs
from stages.extract.device import Device, DeviceError, Precision
from stages.extract.inputs import Source, find_clips
from stages.extract.run import ExtractOptions, extract
from stages.extract.sessions import resolve_device

WORKERS = 2
NETS = ("detector", "landmark", "recognition")
VERSIONS = ("facepipe", "insightface", "onnxruntime", "openvino", "opencv-python", "numpy")
FLOORS = {
    "ort_over_loop": 4.0,
    "openvino_over_loop": 7.0,
    "ort_of_limit": 0.85,
    "openvino_of_limit": 0.75,
    "two_workers_over_one": 1.7,
    "median_cosine": 0.999,
    "p5_cosine": 0.99,
    "faces_found": 1.0,
}
CEILINGS = {"median_landmark_percent": 0.5, "peak_rss_gib": 2.0, "memory_growth": 1.05}


def insightface_loop(clips: list[Path], pack: packs.Pack) -> int:
    """Run (a), one process, a frame at a time, at our first detector size; return frames."""
    import cv2
    from insightface.app import FaceAnalysis

    size = pack.detection.sizes[0]
    analysis = FaceAnalysis(name=str(pack.folder), providers=["CPUExecutionProvider"])
    analysis.prepare(ctx_id=-1, det_size=(size, size))
    frames = 0
    for path in clips:
        capture = cv2.VideoCapture(str(path))
        while True:
            got, image = capture.read()
            if not got:
                break
            analysis.get(image)
            frames += 1
    return frames


def ours(
    folder: Path,
    where: Path,
    device: str,
    precision: str = "f32",
    every: int | None = None,
    workers: int = WORKERS,
) -> int:
    """Run (b) or (c), workers' start included; return frames."""
    options = ExtractOptions(
        [folder],
        where,
        device=Device(device),
        workers=workers,
        every=every,
        precision=Precision(precision),
    )
    return extract(options).frames


class _Counting:
    """A session that counts its calls by the shape of their input."""

    def __init__(self, session: Any, calls: collections.Counter[tuple[int, ...]]) -> None:
        self._session, self._calls = session, calls

    def run(self, outputs: Any, feed: dict[str, Any]) -> Any:
        self._calls[next(iter(feed.values())).shape] += 1
        return self._session.run(outputs, feed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


Calls = dict[str, dict[tuple[int, ...], int]]  # net: shape of the pack's own input: calls


def count_calls(sources: list[Source], pack: packs.Pack) -> Calls:
    """Extract once in this process and count every net's calls by shape."""
    from stages.extract.engine import Engine
    from stages.extract.nets import open_nets
    from stages.extract.recipe import Recipe

    recipe = Recipe(detector_sizes=pack.detection.sizes)
    nets = open_nets(pack, Device.CPU, recipe, flush_denormals=True)
    counters: dict[str, collections.Counter[tuple[int, ...]]] = {}
    for name in NETS:
        counters[name] = collections.Counter()
        net = getattr(nets, name)
        net._session = _Counting(net._session, counters[name])
    for _ in Engine(nets, recipe).run(sources):
        pass
    calls: Calls = {}
    for name, counter in counters.items():
        tail = own_input(pack, name)
        calls[name] = {(n, 3, *(tail or size)): count for (n, _, *size), count in counter.items()}
    return calls


def own_input(pack: packs.Pack, net: str) -> tuple[int, ...]:
    """Height and width of the input of a pack's file, () where it takes any."""
    from stages.extract import graphs

    shape = graphs.dims(graphs.real_inputs(graphs.load(getattr(pack, net)))[0])[2:]
    return tuple(size for size in shape if size is not None)


def bare(calls: Calls, device: str, share: float, rewritten: bool) -> float:
    """Run a share of (d) or (e) in this process, 1 thread, on random input; return seconds."""
    from stages.extract.nets import open_nets
    from stages.extract.recipe import Recipe
    from stages.extract.sessions import open_session

    pack = packs.resolve("lite")
    recipe = Recipe(detector_sizes=pack.detection.sizes)
    if rewritten:
        nets = open_nets(pack, Device(device), recipe, flush_denormals=True)
        sessions = {name: getattr(nets, name)._session for name in NETS}
    else:
        sessions = {
            name: open_session(getattr(pack, name), Device(device), flush_denormals=True)
            for name in NETS
        }
    rng = np.random.default_rng(0)
    jobs = []
    for name, shapes in calls.items():
        session = sessions[name]
        port = session.get_inputs()[0]
        for shape, count in shapes.items():
            own = [got if isinstance(size, str | None) else size
                   for size, got in zip(port.shape[1:], shape[1:], strict=True)]  # fmt: skip
            blob = rng.normal(0, 0.5, (shape[0], *own)).astype(np.float32)
            jobs.append((session, port.name, blob, round(count * share)))
            session.run(None, {port.name: blob})  # warm
    begin = time.perf_counter()
    for session, name, blob, count in jobs:
        for _ in range(count):
            session.run(None, {name: blob})
    return time.perf_counter() - begin


def limit(calls: Calls, device: str, rewritten: bool) -> float:
    """Seconds of (d) or (e) with all workers busy."""
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        return max(pool.starmap(bare, [(calls, device, 1 / WORKERS, rewritten)] * WORKERS))


def beside(clips: list[Path], device: str) -> float:
    """Seconds of (f), the longest clips first."""
    order = sorted(clips, key=lambda clip: clip.stat().st_size, reverse=True)
    begin = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with context.Pool(WORKERS, initializer=open_worker, initargs=(device,)) as pool:
        pool.map(decode, order, chunksize=1)
    return time.perf_counter() - begin


def open_worker(device: str) -> None:
    """Make ready a process as extraction does."""
    from stages.extract.recipe import Recipe
    from stages.extract.workers import WorkerSetup, engine_here

    pack = packs.resolve("lite")
    recipe = Recipe(detector_sizes=pack.detection.sizes)
    engine_here(WorkerSetup(str(pack.folder), Device(device), recipe))


def decode(clip: Path) -> int:
    """Read a clip's upright frames as extraction does; return their number, 0 if it has none."""
    from stages.extract.video import ClipReader, UnreadableClipError

    try:
        with ClipReader(clip) as frames:
            return sum(1 for _ in frames)
    except UnreadableClipError:
        return 0


def memory(clips: list[Path], home: Path, device: str, copies: int = 1) -> int:
    """Peak bytes of the command and its workers, each clip listed so many times under other names.

    A process of its own: this one has held all kinds of nets.
    """
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        folder = Path(scratch) / "clips"
        folder.mkdir()
        for turn in range(copies):
            for clip in clips:
                shutil.copyfile(clip, folder / f"{turn}-{clip.name}")
        options = ["--device", device, "--workers", str(WORKERS), "--store", f"{scratch}/a.store"]
        command = [sys.executable, "-m", "pipeline", "extract", str(folder), *options]
        with (
            subprocess.Popen(command, stdout=subprocess.DEVNULL) as run,
            PeakMemory(run.pid) as peak,
        ):
            run.wait()
    if run.returncode:
        sys.exit(f"error: {' '.join(command)}: exit code {run.returncode}")
    print(f"{device}, each clip {copies} times: peak {peak.bytes / 2**20:.0f} MiB")
    return peak.bytes


def quality(sparse: Path, dense: Path) -> dict[str, float]:
    """Compare every frame that has a face in both; landmarks in percent of the eyes' distance."""
    a, b = store.open(sparse), store.open(dense)
    cosines, moved, found, expected = [], [], 0, 0
    for record in a.records():
        if not record.status.has_rows:
            continue
        x, y = a.clip(record.clip), b.clip(record.clip)
        found, expected = found + int(x["valid"].sum()), expected + int(y["valid"].sum())
        both = x["valid"] & y["valid"]
        if not both.any():
            continue
        e, f = (c["embedding"][both].astype(np.float64) for c in (x, y))
        cosines.append((e * f).sum(1) / np.linalg.norm(e, axis=1) / np.linalg.norm(f, axis=1))
        p, q = (c["landmark"][both].reshape(-1, 68, 2) for c in (x, y))
        eyes = np.linalg.norm(q[:, 36:42].mean(1) - q[:, 42:48].mean(1), axis=1)
        moved.append(100 * np.linalg.norm(p - q, axis=2).mean(1) / eyes)
    cosine, distance = np.concatenate(cosines), np.concatenate(moved)
    return {
        "median_cosine": float(np.median(cosine)),
        "p5_cosine": float(np.percentile(cosine, 5)),
        "median_landmark_percent": float(np.median(distance)),
        "faces_found": found / expected,
    }


def main() -> int:
    """Run it all, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, nargs="?", help="[default: the demo's]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--copies", type=int, default=0, help="also run with each clip listed so many times"
    )
    given = parser.parse_args()
    pack = packs.resolve(packs.install("lite", lambda line: None))
    folder = given.folder or real_clips()
    sources = find_clips([folder])
    clips = [source.path for source in sources]
    devices = {"ort": ("cpu", "f32")}
    if importlib.util.find_spec("openvino"):
        devices["openvino"] = ("openvino", "f32")
        with contextlib.suppress(DeviceError):
            resolve_device(Device.OPENVINO, pack.landmark, Precision.BF16)
            devices["openvino_bf16"] = ("openvino", "bf16")
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    frames = 0
    calls = count_calls(sources, pack)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        for turn in range(given.repeats):
            begin = time.perf_counter()
            frames = insightface_loop(clips, pack)
            seconds["loop"].append(time.perf_counter() - begin)
            for name, (device, precision) in devices.items():
                begin = time.perf_counter()
                ours(folder, home / f"{name}-{turn}.store", device, precision)
                seconds[name].append(time.perf_counter() - begin)
                if precision != "f32":
                    continue
                seconds[f"{name}_limit"].append(limit(calls, device, rewritten=False))
                seconds[f"{name}_rewritten"].append(limit(calls, device, rewritten=True))
                seconds[f"{name}_beside"].append(beside(clips, device))
            begin = time.perf_counter()
            ours(folder, home / f"one-{turn}.store", "cpu", workers=1)
            seconds["one_worker"].append(time.perf_counter() - begin)
            print(
                f"turn {turn + 1}: " + ", ".join(f"{k} {v[-1]:.1f} s" for k, v in seconds.items())
            )
        ours(folder, home / "dense.store", "cpu", every=1)
        good = quality(home / "ort-0.store", home / "dense.store")
        kinds = {device for device, _ in devices.values()}
        peaks = {device: memory(clips, home, device) for device in sorted(kinds)}
        good["peak_rss_gib"] = max(peaks.values()) / 2**30
        if given.copies:
            good["memory_growth"] = memory(clips, home, "cpu", given.copies) / peaks["cpu"]
    median = {name: statistics.median(values) for name, values in seconds.items()}
    figures: dict[str, float] = {f"{n}_frames_per_s": frames / s for n, s in median.items()}
    for name in devices:
        figures[f"{name}_over_loop"] = median["loop"] / median[name]
        if f"{name}_limit" not in median:
            continue
        figures[f"{name}_of_limit"] = median[f"{name}_limit"] / median[name]
        figures[f"{name}_of_rewritten"] = median[f"{name}_rewritten"] / median[name]
        nets = median[f"{name}_limit"]
        figures[f"{name}_reachable_of_limit"] = nets / (nets + median[f"{name}_beside"])
    figures["two_workers_over_one"] = median["one_worker"] / median["ort"]
    figures |= good
    short = judge(figures, FLOORS, CEILINGS)
    told = {
        "benchmark": "extract",
        **machine(VERSIONS),
        "clips": len(clips),
        "frames": frames,
        "workers": WORKERS,
        "repeats": given.repeats,
        "seconds": {name: [round(s, 2) for s in values] for name, values in seconds.items()},
        "figures": {name: round(value, 5) for name, value in figures.items()},
        "short_of": short,
    }
    tell(told, given.out)
    return 1 if short else 0


if __name__ == "__main__":
    leave(main)
