"""Landmarks in units of the face: position, size and roll taken out, motion left in."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

LandmarkMode = Literal["clip", "frame", "none"]
FIRST_EYE, SECOND_EYE = slice(36, 42), slice(42, 48)  # iBUG-68: left in the picture, then right


def normalise_landmarks(
    landmark: npt.NDArray[np.floating],
    valid: npt.NDArray[np.bool_],
    mode: LandmarkMode = "clip",
) -> npt.NDArray[np.float32]:
    """Move the eyes' centre to 0, their distance to 1 and the line between them to horizontal.

    An eye is the mean of its six points. ``clip`` takes the medians over the clip's valid frames,
    so that one transform holds for the whole clip and head motion survives. ``frame`` treats every
    frame by itself, which leaves expression alone. ``none`` keeps pixels. Where the eyes coincide
    (no scale, no direction), the points' root mean square distance from the eyes' centre is the
    unit and the roll stays; where all points coincide, the result is 0.

    Parameters
    ----------
    landmark : (n, 136) floating
        x0, y0, x1, y1, ... pixels; NaN where not valid.
    valid : (n,) bool
    mode : "clip", "frame" or "none"

    Returns
    -------
    (n, 136) float32
        0 in frames that are not valid.
    """
    if mode not in get_args(LandmarkMode):
        raise ValueError(f"mode must be one of {get_args(LandmarkMode)}, not {mode!r}")
    out = np.zeros((len(landmark), 136), np.float32)
    if not valid.any():
        return out
    points = landmark[valid].reshape(-1, 68, 2).astype(np.float64)  # (v, 68, 2)
    if mode == "none":
        out[valid] = points.reshape(-1, 136)
        return out
    first, second = points[:, FIRST_EYE].mean(axis=1), points[:, SECOND_EYE].mean(axis=1)  # (v, 2)
    centre, across = (first + second) / 2, second - first  # (v, 2)
    distance = np.hypot(across[:, 0], across[:, 1])  # (v,)
    if mode == "clip":
        centre = np.median(centre, axis=0, keepdims=True)  # (1, 2)
        across = np.median(across, axis=0, keepdims=True)  # (1, 2)
        distance = np.median(distance, keepdims=True)  # (1,)
    # x and y by themselves: NumPy takes several times as long over a last axis of two.
    x, y = points[..., 0] - centre[:, :1], points[..., 1] - centre[:, 1:]  # (v, 68) each
    spread = np.sqrt((x**2 + y**2).mean(axis=1))  # (v,)
    if mode == "clip":
        spread = np.median(spread, keepdims=True)  # (1,)
    seen = distance > 1e-3 * spread
    scale = np.where(seen, distance, np.where(spread > 0, spread, 1.0))
    roll = np.where(seen, np.arctan2(across[:, 1], across[:, 0]), 0.0)
    cos, sin = np.cos(roll)[:, None] / scale[:, None], np.sin(roll)[:, None] / scale[:, None]
    turned = np.stack([x * cos + y * sin, y * cos - x * sin], axis=2)  # (v, 68, 2)
    out[valid] = turned.reshape(-1, 136)
    return out
