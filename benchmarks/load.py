"""How fast 2stcn trains from a store, against features in memory and against files per clip.

A store of the size of VFAP (1,430 clips, 449,503 rows, made-up features) is written to a scratch
folder once. Then whole training epochs take turns, with the same batches and the same steps:

(a) all clips prepared beforehand and kept as one tensor an array: no loading at all
(b) the loader, with a budget for all
(c) the loader, with a budget of a quarter
(d) torch's DataLoader over one .npz a clip, 2 workers that stay, as many people train today

One epoch of each goes before and is not counted: (a) to (c) are as from the second epoch on. What
the first one costs stands beside it. Then, without a model, a shuffled epoch through the loader,
budget 0, against the same clips read one at a time into the same batches.

Medians, ratios of medians, one line of JSON at the end; leaves with 1 where it falls short of the
floors below. Torch has one thread, as in `pipeline fit`.

    python benchmarks/load.py [--clips 1430] [--repeats 3] [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import collections
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import judge, tell, training_machine
from torch.utils.data import DataLoader, Dataset

import store
from stages.fit import models
from stages.fit.batches import Batch, ClipData, collate, prepare
from stages.fit.config import TrainConfig
from stages.fit.loader import Budget, ClipLoader
from stages.fit.reproducible import reproducible
from stages.fit.spans import span_table
from stages.fit.trainer import refit
from store.schema import ClipRecord, ClipRows, Status

VFAP_CLIPS, VFAP_ROWS = 1430, 449_503
NPZ_WORKERS = 2
ARRAYS = ("appearance", "landmark", "valid", "timestamp")
FLOORS = {
    "all_of_memory": 0.95,
    "quarter_of_memory": 0.7,
    "all_over_npz": 1.0,
    "quarter_over_npz": 1.0,
    "loader_over_one_at_a_time": 2.5,
}
VERSIONS = ("facepipe", "torch", "numpy", "dask", "zarr")
CONFIG = TrainConfig()
Order = list[list[str]]  # clips of one batch after the other


def lengths_of(clips: int, rng: np.random.Generator) -> list[int]:
    """Frames of each clip: VFAP's mean, 314, and a spread of 60 around it."""
    rows = round(VFAP_ROWS * clips / VFAP_CLIPS)
    lengths = np.clip(rng.normal(rows / clips, 60, clips), 60, None).astype(int)
    while (short := rows - int(lengths.sum())) != 0:
        lengths[rng.choice(clips, min(abs(short), clips), replace=False)] += np.sign(short)
    return [int(n) for n in lengths]


def make_inputs(folder: Path, clips: int, npz: bool = True) -> tuple[Path, Path]:
    """Write the store and, unless told not to, .npz files of the same rows; return where."""
    rng = np.random.default_rng(0)
    lengths = lengths_of(clips, rng)
    # Windows of one long walk, moved by a vector a clip: drawing them anew would take minutes.
    pool = 2 * max(lengths) + 4096
    walk = rng.standard_normal((pool, 512), dtype=np.float32) * 0.3
    face = rng.normal(0, 40, 136) + 200
    face[72:84:2], face[84:96:2] = 170, 230  # two eyes, 60 px apart
    points = (face + rng.normal(0, 2, (pool, 136))).astype(np.float32)
    files = folder / "npz"
    files.mkdir()
    with store.Writer(folder / "features.store", {"pack": {"fingerprint": "made"}}) as writer:
        for k, n in enumerate(lengths):
            first = int(rng.integers(pool - n))
            part = slice(first, first + n)
            person = rng.standard_normal((1, 512), dtype=np.float32)
            appearance = (walk[part] + person).astype(np.float16)
            rows = ClipRows(
                embedding=appearance[:, ::-1].copy(),
                appearance=appearance,
                landmark=points[part],
                timestamp=np.arange(n) / 30,
                box=np.tile(np.float32([100, 50, 300, 250]), (n, 1)),
                score=np.full(n, 0.9, np.float32),
                valid=np.ones(n, np.bool_),
            )
            record = ClipRecord(
                f"{k:05d}.mp4",
                Status.OK,
                frames=n,
                valid_frames=n,
                fps=30.0,
                duration_s=n / 30,
                width=400,
                height=300,
                decoder="made",
                content_sha256="0" * 64,
            )
            writer.append(record, rows)
            if npz:
                held = rows.as_dict()
                np.savez(files / f"{record.clip}.npz", **{name: held[name] for name in ARRAYS})
    return folder / "features.store", files


class InMemory:
    """Way (a)."""

    def __init__(self, clips: Sequence[ClipData], scores: dict[str, float]) -> None:
        self._tensors = {
            n: torch.from_numpy(np.concatenate([getattr(c, n) for c in clips])) for n in ARRAYS
        }
        stops = np.cumsum([len(c) for c in clips])
        self._rows = {
            c.clip: slice(stop - len(c), stop) for c, stop in zip(clips, stops, strict=True)
        }
        self._scores = scores
        self.order: Order = []

    def _clip(self, clip: str) -> ClipData:
        rows = self._rows[clip]
        return ClipData(clip, *(self._tensors[n][rows].numpy() for n in ARRAYS))

    def batches(self, *_: object, **__: object) -> Iterator[Batch]:
        """Batches in the order that was set."""
        for clips in self.order:
            yield collate([self._clip(c) for c in clips], self._scores)


class NpzClips(Dataset[ClipData]):
    """One .npz a clip, read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, clip: Any) -> ClipData:
        with np.load(self._folder / f"{clip}.npz") as held:
            return prepare(clip, *(held[name] for name in ARRAYS))


class Padded:
    """collate with the labels; a class, so that it can be sent to a worker."""

    def __init__(self, scores: dict[str, float]) -> None:
        self._scores = scores

    def __call__(self, clips: list[ClipData]) -> Batch:
        """Pad."""
        return collate(clips, self._scores)


class Npz:
    """Way (d)."""

    def __init__(self, folder: Path, scores: dict[str, float]) -> None:
        self.order: Order = []
        self._loader = DataLoader(
            NpzClips(folder),
            batch_sampler=self,
            num_workers=NPZ_WORKERS,
            collate_fn=Padded(scores),
            persistent_workers=True,
        )

    def __iter__(self) -> Iterator[list[str]]:
        return iter(self.order)

    def batches(self, *_: object, **__: object) -> Iterator[Batch]:
        """Batches in the order that was set."""
        yield from self._loader


def one_at_a_time(
    source: store.Store | store.Stores, order: Order, scores: dict[str, float]
) -> Iterator[Batch]:
    """Batches of clips that are read from the store clip by clip."""
    for clips in order:
        read = [(c, source.clip(c, arrays=ARRAYS)) for c in clips]
        yield collate([prepare(c, *(rows[n] for n in ARRAYS)) for c, rows in read], scores)


def order_of(loader: ClipLoader, seed: int) -> Order:
    """Return the batches of epoch 1, which is the one that `refit` trains first."""
    batches = loader.batches(
        CONFIG.batch_size, shuffle=True, seed=seed, epoch=1, bucket=CONFIG.bucket
    )
    return [list(batch.clips) for batch in batches]


def seconds_to_train(clips: Any, loader: ClipLoader, seed: int) -> float:
    """Train one epoch, as `pipeline fit` does; return seconds."""
    with reproducible(seed):
        model = models.create("2stcn", max_frames=loader.longest())
        begin = time.perf_counter()
        refit(model, clips, 1, CONFIG, seed)
        return time.perf_counter() - begin


def seconds_to_read(batches: Iterator[Batch]) -> float:
    """Draw all batches; return seconds."""
    begin = time.perf_counter()
    for batch in batches:
        del batch
    return time.perf_counter() - begin


def measure(folder: Path, clips: int, repeats: int) -> dict[str, Any]:
    """Run everything; return seconds by way and what was found beside them."""
    begin = time.perf_counter()
    path, files = make_inputs(folder, clips)
    print(f"written in {time.perf_counter() - begin:.0f} s")
    source = store.open(path)
    spans = span_table(source)
    scores = {
        s.clip: float(x)
        for s, x in zip(spans, np.random.default_rng(1).normal(size=len(spans)), strict=True)
    }

    npz = Npz(files, scores)
    prepared = list(ClipLoader(source, spans, budget=Budget(0)).iter_clips())
    size = sum(c.nbytes for c in prepared)
    memory = InMemory(prepared, scores)
    del prepared
    whole = ClipLoader(source, spans, scores, budget=Budget(2 * size))
    budget = Budget(size // 4)
    quarter = ClipLoader(source, spans, scores, budget=budget)
    uncached = ClipLoader(source, spans, scores, budget=Budget(0))
    ways = {"npz": npz, "memory": memory, "all": whole, "quarter": quarter}

    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for turn in range(repeats + 1):
        npz.order = memory.order = order_of(uncached, turn)
        names = list(ways)
        names = names[turn % 4 :] + names[: turn % 4]  # nobody is always the first
        for name in names:
            spent = seconds_to_train(ways[name], whole, turn)
            seconds[name if turn else f"{name}_first_epoch"].append(spent)
        for name in ("loader", "one_at_a_time"):
            batches = (
                one_at_a_time(source, memory.order, scores)
                if name == "one_at_a_time"
                else uncached.batches(
                    CONFIG.batch_size, shuffle=True, seed=turn, epoch=1, bucket=CONFIG.bucket
                )
            )
            if turn:
                seconds[name].append(seconds_to_read(batches))
        print(f"turn {turn}: " + ", ".join(f"{k} {v[-1]:.2f} s" for k, v in seconds.items()))
    frames = {s.clip: s.frames for s in spans}
    padded = sum(len(batch) * max(frames[c] for c in batch) for batch in memory.order)
    return {
        "seconds": dict(seconds),
        "bytes": size,
        "quarter_kept_bytes": size // 4 - budget.left,
        "padding": padded / sum(frames.values()) - 1,
        "rows": sum(frames.values()),
    }


def main() -> int:
    """Run it all, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--clips", type=int, default=VFAP_CLIPS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--scratch", type=Path, help="where 2.3 GB can be written; a tempdir if not given"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    about = training_machine(VERSIONS)
    with tempfile.TemporaryDirectory(dir=given.scratch, prefix="facepipe-load-") as scratch:
        found = measure(Path(scratch), given.clips, given.repeats)
    seconds = found.pop("seconds")
    rate = {name: given.clips / statistics.median(values) for name, values in seconds.items()}
    figures = {f"{name}_clips_per_s": value for name, value in rate.items()}
    figures |= {
        "all_of_memory": rate["all"] / rate["memory"],
        "quarter_of_memory": rate["quarter"] / rate["memory"],
        "all_over_npz": rate["all"] / rate["npz"],
        "quarter_over_npz": rate["quarter"] / rate["npz"],
        "loader_over_one_at_a_time": rate["loader"] / rate["one_at_a_time"],
        "padding": found.pop("padding"),
    }
    short = judge(figures, FLOORS)
    told = {
        "benchmark": "load",
        **about,
        "clips": given.clips,
        **found,
        "batch_size": CONFIG.batch_size,
        "npz_workers": NPZ_WORKERS,
        "repeats": given.repeats,
        "seconds": {name: [round(s, 2) for s in values] for name, values in seconds.items()},
        "figures": {name: round(value, 4) for name, value in figures.items()},
        "short_of": short,
    }
    tell(told, given.out)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
