"""A clip as one vector: its time average, or statistics of its features and their motion."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from stages.fit.batches import ClipData

FloatArray = npt.NDArray[np.float64]
Streams = Literal["both", "appearance", "landmarks"]
QUANTILES = (0.1, 0.5, 0.9)
# A longer step than so many usual ones is a gap: what happened in it is not known.
GAP = 2.5
# A shorter one than this share of it is none: two frames of one time, of which stage one moved one.
TWIN = 0.1


def time_average(clip: ClipData, streams: Streams = "both") -> list[FloatArray]:
    """Mean over the valid frames: one (Da + 136,), (Da,) or (136,); NaN for a clip without any."""
    parts = []
    if streams != "landmarks":
        parts.append(_mean(clip.appearance[clip.valid]))
    if streams != "appearance":
        parts.append(_mean(clip.landmark[clip.valid]))
    return [np.concatenate(parts)]


def statistics(clip: ClipData, streams: Streams = "both") -> list[FloatArray]:
    """How the valid frames of a clip are distributed, and how fast the landmarks move.

    Of every channel the mean, the standard deviation and the quantiles 0.1, 0.5, 0.9, one after the
    other: of the appearance, of the landmarks' positions, velocities and accelerations (in face
    units per s and per s^2, see derivatives). Where a clip has no pair of frames to tell a velocity
    from, or no three for an acceleration, these are 0: a still does not move.

    Returns
    -------
    list of (5 C,) float64
        Appearance, positions, velocities, accelerations; of one stream the first or the others.
            NaN for a clip without a valid frame.
    """
    parts = []
    if streams != "landmarks":
        parts.append(_distribution(clip.appearance[clip.valid].astype(np.float64)))
    if streams != "appearance":
        position = clip.landmark.astype(np.float64)
        velocity, acceleration = derivatives(position, clip.valid, clip.timestamp)
        parts.append(_distribution(position[clip.valid]))
        for motion in (velocity, acceleration):
            still = np.zeros((1, position.shape[1]))
            parts.append(_distribution(motion if len(motion) else still))
        if not clip.valid.any():
            parts = [np.full_like(part, np.nan) for part in parts]
    return parts


def derivatives(
    x: FloatArray, valid: npt.NDArray[np.bool_], timestamp: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Velocities between frames that follow each other, accelerations between such velocities.

    By the timestamps, so that the frame rate, even a variable one, changes nothing. No difference
    is taken across a gap: a frame that is not valid, a step of more than
    2.5 times the clip's median step, or of less than a tenth of it.

    Parameters
    ----------
    x : (n, C) float64
    valid : (n,) bool
    timestamp : (n,) float64 s

    Returns
    -------
    (v, C) float64 per s, (a, C) float64 per s^2
        v <= n - 1 and a <= n - 2; neither need have a row.
    """
    step = np.diff(timestamp)  # (n - 1,)
    forward = step[step > 0]
    usual = float(np.median(forward)) if len(forward) else 0.0
    joined = valid[1:] & valid[:-1] & (step > TWIN * usual) & (step <= GAP * usual)  # (n - 1,)
    safe = np.where(joined, step, 1.0)
    velocity = np.diff(x, axis=0) / safe[:, None]  # (n - 1, C)
    chained = joined[1:] & joined[:-1]  # (n - 2,)
    # A velocity belongs to the middle of its step.
    apart = (safe[1:] + safe[:-1]) / 2
    acceleration = np.diff(velocity, axis=0) / apart[:, None]  # (n - 2, C)
    return velocity[joined], acceleration[chained]


def _mean(x: npt.NDArray[np.floating]) -> FloatArray:
    if not len(x):
        return np.full(x.shape[1], np.nan)
    mean: FloatArray = x.mean(axis=0, dtype=np.float64)
    return mean


def _distribution(x: FloatArray) -> FloatArray:
    """(n, C) -> (5 C,): mean, standard deviation and quantiles of every channel; NaN if n is 0."""
    if not len(x):
        return np.full(5 * x.shape[1], np.nan)
    quantiles = np.quantile(x, QUANTILES, axis=0)  # (3, C)
    return np.concatenate([x.mean(axis=0), x.std(axis=0), *quantiles])
