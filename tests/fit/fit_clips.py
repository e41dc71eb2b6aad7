"""Small stores in which the answer is known, for the tests of stage two."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import store
from store.schema import ClipRecord, ClipRows, Status

PROVENANCE = {
    "pack": {"name": "tiny", "fingerprint": "a" * 64},
    "recipe": {"every": 1},
    "versions": {"facepipe": "0.1.0"},
    "providers": ["CPUExecutionProvider"],
}


def face(rng: np.random.Generator) -> np.ndarray:
    """68 points around (200, 150), eyes 60 px apart: (68, 2)."""
    points = rng.normal(size=(68, 2)) * 20 + (200, 150)
    points[36:42] = (170, 140) + rng.normal(size=(6, 2))
    points[42:48] = (230, 140) + rng.normal(size=(6, 2))
    return points


def clip_rows(rng: np.random.Generator, n: int, amplitude: float, missing: int = 0) -> ClipRows:
    """n frames of a mouth that opens and closes by ``amplitude`` px; some frames without a face."""
    points = np.repeat(face(rng)[None], n, axis=0)
    time = np.arange(n) / 25
    points[:, 48:68, 1] += amplitude * np.sin(2 * np.pi * 2 * time + rng.uniform(0, 6))[:, None]
    landmark = (points + rng.normal(size=points.shape) * 0.1).reshape(n, 136)
    features = rng.normal(size=(1, 512)) + rng.normal(size=(n, 512)) * 0.1
    valid = np.ones(n, bool)
    if missing:
        valid[rng.choice(np.arange(1, n), size=missing, replace=False)] = False
    box = np.tile([100.0, 50.0, 300.0, 250.0], (n, 1))
    score = np.full(n, 0.9)
    for array in (landmark, features, box, score):
        array[~valid] = np.nan
    return ClipRows(
        embedding=features.astype(np.float16),
        appearance=features.astype(np.float16),
        landmark=landmark.astype(np.float32),
        timestamp=time,
        box=box.astype(np.float32),
        score=score.astype(np.float32),
        valid=valid,
    )


def record(clip: str, rows: ClipRows) -> ClipRecord:
    valid = int(rows.valid.sum())
    return ClipRecord(
        clip,
        Status.OK if valid else Status.NO_FACE,
        frames=len(rows),
        valid_frames=valid,
        fps=25.0,
        duration_s=len(rows) / 25,
        width=400,
        height=300,
        decoder="made",
        content_sha256="0" * 64,
    )


def make_store(
    path: Path, clips: int = 36, persons: int = 12, pack: str = "a", seed: int = 0
) -> list[tuple[str, float, str]]:
    """Write a store and return (clip, score, person); the score is the motion's amplitude.

    Beside the labelled clips it holds ``none/no_face.mp4`` and ``none/broken.mp4``.
    """
    rng = np.random.default_rng(seed)
    provenance = PROVENANCE | {"pack": {"name": f"pack-{pack}", "fingerprint": pack * 64}}
    labels = []
    with store.Writer(path, provenance) as writer:
        for k in range(clips):
            amplitude = float(rng.uniform(1, 12))
            rows = clip_rows(rng, int(rng.integers(12, 20)), amplitude, missing=k % 3)
            name = f"p{k % persons:02d}/clip{k:03d}.mp4"
            writer.append(record(name, rows), rows)
            labels.append((name, amplitude, f"p{k % persons:02d}"))
        empty = ClipRows.empty(np.arange(5) / 25)
        writer.append(record("none/no_face.mp4", empty), empty)
        writer.append(ClipRecord("none/broken.mp4", Status.UNREADABLE, message="zero bytes"), None)
        writer.flush()
    return labels


def write_labels(path: Path, labels: list[tuple[str, float, str]]) -> Path:
    lines = ["clip,score,person", *(f"{c},{s:.6f},{p}" for c, s, p in labels)]
    path.write_text("\n".join(lines) + "\n")
    return path
