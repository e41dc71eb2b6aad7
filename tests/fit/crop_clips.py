"""Stores that hold crops, in which the answer is painted: how red a face is, and in what frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

import store
from store.schema import ClipCrops
from tests.fit.fit_clips import PROVENANCE, clip_rows, record

SIDE = 80
SHADES = {"light": 230, "dark": 20}


def painted(rng: np.random.Generator, red: int, frame: int, k: int) -> np.ndarray:
    """k noisy pictures with a red middle and a grey frame: (k, SIDE, SIDE, 3) uint8."""
    images = np.full((k, SIDE, SIDE, 3), frame, np.int64)
    images[:, 20:60, 20:60] = (red, 60, 60)
    return np.clip(images + rng.integers(-20, 21, images.shape), 0, 255).astype(np.uint8)


def make_pictures(folder: Path, clips: int = 24, seed: int = 0) -> tuple[Path, Path]:
    """Write a store of clips with 1 to 3 crops and its labels: clip, score, person, frame.

    The score is the red of the middle, over 100.
    """
    rng = np.random.default_rng(seed)
    lines, path = ["clip,score,person,frame"], folder / "features.store"
    told = PROVENANCE | {"recipe": {"every": 1, "crops": 3, "crop_size": SIDE}}
    with store.Writer(path, told, crop_size=SIDE) as writer:
        for n in range(clips):
            red, shade = int(rng.integers(20, 230)), list(SHADES)[n % 2]
            rows = clip_rows(rng, 6, 3.0)
            k = 1 + n % 3
            images = painted(rng, red, SHADES[shade], k)
            crops = ClipCrops(np.arange(0, 2 * k, 2), images)
            name = f"p{n % 8}/clip{n:02d}.mp4"
            writer.append(record(name, rows), replace(rows, crops=crops))
            lines.append(f"{name},{red / 100},p{n % 8},{shade}")
        writer.flush()
    labels = folder / "labels.csv"
    labels.write_text("\n".join(lines) + "\n")
    return path, labels
