"""What runs are made with in tests; a fitted one in a second, from clips of moving squares."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from stages.extract.device import Device
from stages.extract.run import ExtractOptions
from tests.testing.clips import moving_square, picture, write_video

QUICK = ["train.epochs=2", "train.batch_size=8", "model.channels=8", "bootstrap=100"]


def mixed_videos(folder: Path, good: int) -> Path:
    """Write so many clips of a face, one without any, and one that is none."""
    for i in range(good):
        moving_square(folder / f"clip{i}.mp4", frames=12 + i, step=(2 + i / 2, 1))
    write_video(folder / "nobody.mp4", [picture([])] * 8)
    (folder / "broken.mp4").write_text("not a video")
    return folder


def options(videos: Path, home: Path, pack: Path, **changes: object) -> ExtractOptions:
    """Extract with two workers on the CPU into ``home``/f.store."""
    given = {"device": Device.CPU, "workers": 2, **changes}
    return ExtractOptions([videos], home / "f.store", str(pack), **given)  # type: ignore[arg-type]


def labelled_videos(folder: Path, clips: int = 24, frames: int = 10) -> Path:
    """Write clips of squares that move by more or less, and ``labels.csv`` with how much."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(clips):
        reach = float(rng.uniform(2, 30))
        xs = 150 + reach * np.sin(np.arange(frames))
        write_video(folder / f"{i:02d}.mp4", [picture([(x, 120, 80)]) for x in xs])
        rows.append([f"{i:02d}.mp4", f"{reach:.2f}", f"p{i % 8}"])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["clip", "score", "person"], *rows])
    return folder
