"""OpenFace's CSV files of faces that move by planted intensities of two action units."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.fit.fit_clips import face

UNITS = ("AU04_r", "AU12_r")


def write_openface(
    folder: Path, clips: int = 8, frames: int = 80, seed: int = 0
) -> dict[str, np.ndarray]:
    """Write one file a clip and person; return the intensities (frames, 2), NaN where unknown."""
    rng = np.random.default_rng(seed)
    shapes = np.zeros((2, 68, 2))
    shapes[0, 17:27, 1] = 1.5  # brows down
    shapes[1, 48:68] = rng.normal(size=(20, 2))  # mouth
    folder.mkdir(parents=True)
    header = ["frame", "face_id", "timestamp", "confidence", "success"]
    header += [f"x_{k}" for k in range(68)] + [f"y_{k}" for k in range(68)] + [*UNITS, "AU12_c"]
    planted = {}
    for clip in range(clips):
        time = np.arange(frames) / 25
        phase, pace = rng.uniform(0, 6, 2), rng.uniform(0.3, 1.0, 2)
        intensity = 2.5 + 2.5 * np.sin(2 * np.pi * pace * time[:, None] + phase)  # (n, 2)
        moved = face(rng) + np.einsum("nu,upc->npc", intensity, shapes)
        moved = moved + rng.normal(size=(1, 1, 2)) * 5 * np.sin(time)[:, None, None]  # the head
        points = moved + rng.normal(size=moved.shape) * 0.1
        success = np.ones(frames, int)
        success[5] = 0
        lines = [", ".join(header)]
        for k in range(frames):
            cells = [k + 1, 0, f"{time[k]:.3f}", 0.95, success[k]]
            cells += [f"{v:.2f}" for v in [*points[k, :, 0], *points[k, :, 1], *intensity[k]]]
            lines.append(", ".join(map(str, [*cells, 1])))
        name = f"p{clip:02d}/talk"
        (folder / f"{name}.csv").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
        intensity = np.round(intensity, 2)
        intensity[5] = np.nan
        planted[name] = intensity
    return planted
