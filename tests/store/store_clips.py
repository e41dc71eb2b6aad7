"""Clips made up for the tests of the store."""

from __future__ import annotations

import dataclasses

import numpy as np

from store.layout import Layout
from store.schema import ClipCrops, ClipRecord, ClipRows, Status

TINY = Layout(chunk_rows=4, shard_rows=8, flush_rows=12, crop_shard_rows=3, crop_flush_rows=7)
CROP = 6  # side of a crop
PROVENANCE = {"pack": {"name": "lite", "fingerprint": "f" * 64}, "recipe": {"every": 1}}


def rows(n: int, seed: int = 0, invalid: float = 0.2) -> ClipRows:
    """Return n frames of noise; a share of them holds no face, the first always one."""
    rng = np.random.default_rng(seed)
    valid = rng.random(n) >= invalid
    valid[0] = True
    corner = rng.uniform(0, 50, (n, 2))
    arrays = {
        "embedding": rng.standard_normal((n, 512)),
        "appearance": rng.standard_normal((n, 512)) * 4,
        "landmark": rng.uniform(0, 100, (n, 136)),
        "box": np.hstack([corner, corner + rng.uniform(1, 50, (n, 2))]),
        "score": rng.random(n),
    }
    arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
    for values in arrays.values():
        values[~valid] = np.nan
    return ClipRows(timestamp=np.cumsum(rng.uniform(0.01, 0.05, n)), valid=valid, **arrays)


def with_crops(clip_rows: ClipRows, k: int = 2, seed: int = 0, size: int = CROP) -> ClipRows:
    """Return the rows with crops of the first k frames that hold a face."""
    frames = np.flatnonzero(clip_rows.valid)[:k]
    images = np.random.default_rng(seed).integers(1, 255, (len(frames), size, size, 3), np.uint8)
    return dataclasses.replace(clip_rows, crops=ClipCrops(frames, images) if len(frames) else None)


def same_crops(read: tuple[np.ndarray, np.ndarray], given: ClipRows) -> bool:
    """Whether frames and pictures are those that were given."""
    if given.crops is None:
        return len(read[0]) == len(read[1]) == 0
    return (
        read[0].tolist() == given.crops.frames.tolist()
        and (read[1].shape, read[1].dtype) == (given.crops.images.shape, np.uint8)
        and read[1].tobytes() == given.crops.images.tobytes()
    )


def no_face(n: int) -> ClipRows:
    return ClipRows.empty(np.arange(n) / 30)


def record(clip: str, clip_rows: ClipRows | None, **fields: object) -> ClipRecord:
    """Return the record that fits the rows; without rows, a failed one."""
    n = 0 if clip_rows is None else len(clip_rows)
    faces = 0 if clip_rows is None else int(clip_rows.valid.sum())
    status = Status.FAILED if clip_rows is None else Status.OK if faces else Status.NO_FACE
    made = ClipRecord(
        clip, status, frames=n, valid_frames=faces, width=100, height=100, fps=30.0,
        content_sha256="c" * 64, details={"seed": 1},
    )  # fmt: skip
    return dataclasses.replace(made, **fields)


def stored(clip_rows: ClipRows, feature_dtype: str = "float16") -> dict[str, np.ndarray]:
    """Return the arrays as they should be read back."""
    arrays = clip_rows.as_dict()
    for name in ("embedding", "appearance"):
        arrays[name] = arrays[name].astype(feature_dtype)
    return arrays


def same(read: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Whether names, dtypes, shapes and bits agree."""
    return read.keys() == expected.keys() and all(
        read[k].dtype == expected[k].dtype
        and read[k].shape == expected[k].shape
        and np.ascontiguousarray(read[k]).tobytes() == np.ascontiguousarray(expected[k]).tobytes()
        for k in expected
    )
