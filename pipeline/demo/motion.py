"""How a face moves in a rendered clip, and the label that only the motion explains.

How far and how fast is drawn for each clip and makes the label; everything else (who, which parts
move, pose, expression, phase, framing, light, sharpness) is drawn independently of it. Every
channel of the motion has mean zero over the clip, so the label is not in the average frame: only
to second order, through the blur that averaging a larger motion makes.

All lengths are in units of the distance between the eyes' centres (IOD) unless they are pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.faces import Portrait

HEAD = ("nod", "turn", "tilt")
PARTS = ("brows", "mouth_open", "mouth_wide")
CHANNELS = HEAD + PARTS

AMPLITUDE = (0.02, 0.12)
"""Root mean square displacement of the 68 landmarks about their mean, in IOD: smallest, largest."""

FREQUENCY = (0.6, 3.0)
"""Cycles a second: slowest, fastest."""

OFFSET = np.array([0.08, 0.08, 0.08, 0.012, 0.012, 0.012])
"""Largest lasting displacement of each channel, in IOD."""

RATING_NOISE = 0.1
"""Standard deviation of what is added to a score, on its scale from 1 to 5."""

FPS = 25.0
FRAMES = 50
SIZE = 256


@dataclass(frozen=True, eq=False)
class Motion:
    """What happens in one clip.

    Attributes
    ----------
    clip, person : str
        File name; whose portrait moves.
    amplitude, frequency : float
        IOD and Hz, the two causes of the label.
    score : float
        The label, 1 to 5.
    offset : NDArray, (C,)
        Lasting pose and expression, IOD, in the order of ``CHANNELS``.
    path : NDArray, (T, C)
        Displacement about ``offset``, IOD; each column has mean zero.
    framing : NDArray, (2, 3)
        From pixels of a frame to pixels of the portrait.
    light : tuple of float
        Gain, gamma and blur (sigma, pixels).
    """

    clip: str
    person: str
    amplitude: float
    frequency: float
    score: float
    offset: NDArray[np.float64]
    path: NDArray[np.float64]
    framing: NDArray[np.float64]
    light: tuple[float, float, float]


def describe_label() -> str:
    """Say what the planted label means, in two sentences."""
    return (
        "The planted label says how strongly and how fast the face moves in a rendered clip "
        "(the logarithms of amplitude and frequency in equal parts, plus a little noise, on a "
        "scale from 1 to 5); who it is, the pose and the look of any single frame say nothing "
        "about it. It is not attractiveness and no person rated anything: the demo shows that "
        "the pipeline finds a signal in time that an average over time misses, and nothing more."
    )


def displacements(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return how each channel moves the landmarks of a level face.

    Parameters
    ----------
    landmarks : NDArray, (68, 2)
        iBUG-68 order, pixels, eyes level.

    Returns
    -------
    NDArray, (C, 68, 2) float64
        Unit displacements: the root mean square length over the 68 points is 1. Positive: nod
        down, turn to the image's right, tilt clockwise, brows up, mouth open, mouth wide.
    """
    points = np.asarray(landmarks, float)
    unit = iod(points)
    eyes = (points[36:42].mean(0) + points[42:48].mean(0)) / 2
    place = (points - eyes) / unit
    # What is nearer the camera moves farther: the nose most, the ears least.
    depth = 0.6 + 0.4 * np.exp(-((place[:, 0] / 0.8) ** 2))
    depth[27:36] += 0.25
    field = np.zeros((len(CHANNELS), 68, 2))
    field[0, :, 1] = depth
    field[1, :, 0] = depth
    neck = place[8] + np.array([0.0, 0.5])
    field[2, :, 0] = -(place - neck)[:, 1]
    field[2, :, 1] = (place - neck)[:, 0]
    field[3, 17:27, 1] = -1.0
    # The jaw swings about the ears: the chin goes almost as far as the lower lip, its sides less.
    jaw = np.array([0.0, 0.0, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.9])
    field[4, :17, 1] = np.concatenate([jaw, jaw[-2::-1]])
    field[4, [54, 48], 1] = 0.3
    field[4, [55, 56, 57, 58, 59, 65, 66, 67], 1] = [0.7, 0.95, 1.0, 0.95, 0.7, 1.0, 1.0, 1.0]
    field[4, [50, 51, 52, 61, 62, 63], 1] = -0.15
    field[4, [60, 64], 1] = 0.3
    mouth = place[48:68, 0] - place[48:68, 0].mean()
    field[5, 48:68, 0] = mouth / np.abs(mouth).max()
    field[5, [48, 54], 1] = -0.25
    size = np.sqrt((field**2).sum(2).mean(1))
    return np.asarray(field / size[:, None, None])


def plan(
    portraits: Sequence[Portrait],
    clips: int,
    seed: int,
    frames: int = FRAMES,
    fps: float = FPS,
    size: int = SIZE,
) -> list[Motion]:
    """Draw what happens in each clip.

    Every person gets the same number of clips (or one more), and within a person amplitudes and
    frequencies are spread evenly over their ranges (a Latin square), so that persons do not differ
    in their labels.

    Parameters
    ----------
    portraits : sequence of Portrait
    clips : int
        How many in all.
    seed : int
        Same seed, same plan.
    frames, size : int
        Frames a clip; side of a frame in pixels.
    fps : float
        Frames a second.

    Returns
    -------
    list of Motion
        Person by person.
    """
    motions = []
    for index, portrait in enumerate(portraits):
        count = clips // len(portraits) + (index < clips % len(portraits))
        # Two streams: nothing that is drawn for the looks can depend on the label.
        label_rng = np.random.default_rng([seed, index, 0])
        looks_rng = np.random.default_rng([seed, index, 1])
        strong = _strata(count, label_rng)
        fast = _strata(count, label_rng)
        noise = label_rng.normal(0, RATING_NOISE, count)
        unit = displacements(portrait.landmarks)
        for k in range(count):
            amplitude = AMPLITUDE[0] * (AMPLITUDE[1] / AMPLITUDE[0]) ** strong[k]
            frequency = FREQUENCY[0] * (FREQUENCY[1] / FREQUENCY[0]) ** fast[k]
            score = 1 + 2 * strong[k] + 2 * fast[k] + noise[k]
            path = _path(amplitude, frequency, unit, frames, fps, looks_rng)
            motions.append(
                Motion(
                    clip=f"{portrait.person}_{k:02d}.mp4",
                    person=portrait.person,
                    amplitude=float(amplitude),
                    frequency=float(frequency),
                    score=round(float(np.clip(score, 1, 5)), 3),
                    offset=looks_rng.uniform(-1, 1, len(CHANNELS)) * OFFSET,
                    path=path,
                    framing=_framing(portrait.image.shape[0], size, looks_rng),
                    light=(
                        float(looks_rng.uniform(0.8, 1.15)),
                        float(looks_rng.uniform(0.85, 1.2)),
                        float(looks_rng.uniform(0.3, 1.0)),
                    ),
                )
            )
    return motions


def _strata(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return one number in each of ``count`` equal parts of [0, 1], in random order."""
    return np.asarray((rng.permutation(count) + rng.uniform(size=count)) / count)


def _path(
    amplitude: float,
    frequency: float,
    unit: NDArray[np.float64],
    frames: int,
    fps: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Draw which parts move, and when; scale the whole to ``amplitude`` exactly."""
    share = np.zeros(len(CHANNELS))
    head = rng.choice(len(HEAD), rng.integers(1, len(HEAD) + 1), replace=False)
    part = rng.choice(len(PARTS), rng.integers(1, len(PARTS)), replace=False) + len(HEAD)
    # Brows and mouth are few of the 68 points: a small share of the energy moves them visibly, and
    # more would push brows into eyes and lips through each other.
    small = rng.uniform(0.02, 0.1)
    share[head] = (1 - small) * rng.dirichlet(np.full(len(head), 3.0))
    share[part] = small * rng.dirichlet(np.full(len(part), 3.0))
    rate = frequency * rng.uniform(0.9, 1.1, len(CHANNELS))
    phase = rng.uniform(0, 2 * math.pi, len(CHANNELS))
    time = np.arange(frames)[:, None] / fps
    path = np.sqrt(share) * np.sin(2 * math.pi * rate * time + phase)
    path = path - path.mean(0)  # a broken cycle would leave a mean that depends on the frequency
    moved = np.tensordot(path, unit, 1)  # (T, 68, 2)
    return np.asarray(path * (amplitude / np.sqrt((moved**2).sum(2).mean())))


def _framing(portrait: int, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw zoom, roll and shift: a map from pixels of a frame to pixels of the portrait."""
    zoom = rng.uniform(0.9, 1.12)
    roll = math.radians(rng.uniform(-5, 5))
    turn = zoom * np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
    slack = max(0.0, (portrait - zoom * size) / 2) * 0.5
    centre = (portrait - 1) / 2 + rng.uniform(-slack, slack, 2)
    return np.column_stack([turn, centre - turn @ np.full(2, (size - 1) / 2)])


def iod(landmarks: NDArray[np.floating]) -> float:
    """Return the distance between the eyes' centres in the unit of ``landmarks``."""
    return float(np.linalg.norm(landmarks[42:48].mean(0) - landmarks[36:42].mean(0)))
