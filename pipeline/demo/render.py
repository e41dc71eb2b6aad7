"""Render short clips in which a real face moves, and write their planted labels.

A portrait is warped by smooth displacement fields: the head nods, turns and tilts against a
background that stays, the brows rise, the mouth opens and widens. What moves, how far and how fast
is drawn in ``pipeline.demo.motion``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

from pipeline.demo.faces import Portrait
from pipeline.demo.motion import (
    CHANNELS,
    FPS,
    FRAMES,
    SIZE,
    Motion,
    describe_label,
    displacements,
    iod,
    plan,
)
from store.errors import FacepipeError
from store.tables import write_csv

__all__ = ["RenderError", "dense_fields", "describe_label", "frames_of", "render_clips"]


class RenderError(FacepipeError, OSError):
    """A clip could not be written."""

    exit_code = 1
    __str__ = Exception.__str__


def dense_fields(landmarks: NDArray[np.floating], size: int, step: int = 8) -> NDArray[np.float32]:
    """Spread the landmarks' displacements smoothly over a portrait.

    A thin-plate spline through the landmarks and through a ring of points around the head that do
    not move; outside the ring nothing moves.

    Parameters
    ----------
    landmarks : NDArray, (68, 2)
        Pixels of the portrait.
    size : int
        Side of the portrait in pixels.
    step : int
        The spline is evaluated every ``step`` pixels and interpolated between.

    Returns
    -------
    NDArray, (C, size, size, 2) float32
        Displacement in pixels (x, y) for a channel's value of 1 IOD.
    """
    points = np.asarray(landmarks, float)
    unit = iod(points)
    centre = (points.min(0) + points.max(0)) / 2 - np.array([0.0, 0.35 * unit])
    radius = np.array([0.46 * size, 0.48 * size])
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = centre + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    moved = displacements(points).transpose(1, 0, 2).reshape(68, -1)
    # Lips that touch cannot go apart without a tear: smoothing lets close neighbours give way.
    spline = RBFInterpolator(
        np.vstack([points, ring]) / unit,
        np.vstack([moved, np.zeros((len(ring), moved.shape[1]))]),
        kernel="thin_plate_spline",
        smoothing=0.03,
    )
    axis = np.arange(0, size + step, step, dtype=float)
    grid = np.stack(np.meshgrid(axis, axis), -1)
    coarse = spline(grid.reshape(-1, 2) / unit).reshape(len(axis), len(axis), -1)
    out = np.sqrt((((grid - centre) / radius) ** 2).sum(-1, keepdims=True))
    ramp = np.clip((1.0 - out) / 0.12, 0, 1)
    coarse = (coarse * ramp * ramp * (3 - 2 * ramp) * unit).astype(np.float32)
    # Node k of the grid belongs to pixel k * step exactly.
    at = (np.arange(size, dtype=np.float32) / step).astype(np.float32)
    x, y = np.meshgrid(at, at)
    fine = [
        cv2.remap(np.ascontiguousarray(coarse[:, :, 2 * c : 2 * c + 2]), x, y, cv2.INTER_CUBIC)
        for c in range(len(CHANNELS))
    ]
    return np.stack(fine).astype(np.float32)


def frames_of(
    portrait: Portrait, motion: Motion, fields: NDArray[np.float32], size: int = SIZE
) -> Iterator[NDArray[np.uint8]]:
    """Render one clip.

    Parameters
    ----------
    portrait : Portrait
    motion : Motion
        Of this portrait's person.
    fields : NDArray, (C, H, W, 2) float32
        ``dense_fields`` of the portrait.
    size : int
        Side of a frame in pixels.

    Yields
    ------
    NDArray, (size, size, 3) uint8
        BGR, one for each row of ``motion.path``.
    """
    gain, gamma, blur = motion.light
    table = 255 * np.clip(gain * (np.arange(256) / 255) ** gamma, 0, 1)
    source = cv2.LUT(
        cv2.GaussianBlur(portrait.image, (0, 0), blur), np.round(table).astype(np.uint8)
    )
    axis = np.arange(size, dtype=np.float32)
    grid = np.stack([*np.meshgrid(axis, axis), np.ones((size, size), np.float32)])  # (3, S, S)
    x, y = np.tensordot(motion.framing, grid, 1).astype(np.float32)
    # A frame shows at x what the portrait has at x - displacement: the fields are smooth and
    # small, so taking them at x instead of at the source is the same warp, slightly reshaped.
    basis = np.stack(
        [cv2.remap(f, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for f in fields]
    ).transpose(3, 0, 1, 2)
    across, down = np.ascontiguousarray(basis).reshape(2, len(fields), -1)
    for values in (motion.offset + motion.path).astype(np.float32):
        at_x, at_y = x - (values @ across).reshape(x.shape), y - (values @ down).reshape(y.shape)
        image = cv2.remap(source, at_x, at_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        yield np.asarray(image, np.uint8)


def render_clips(
    portraits: Sequence[Portrait],
    folder: Path,
    clips: int = 120,
    seed: int = 0,
    frames: int = FRAMES,
    fps: float = FPS,
    size: int = SIZE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Motion]:
    """Write the clips and ``labels.csv`` (columns ``clip,score,person``) into ``folder``.

    Parameters
    ----------
    portraits : sequence of Portrait
        One a person, at least one.
    folder : Path
        Made if it is not there; files of the same names are replaced.
    clips, frames, size : int
        How many clips; frames in each; side of a frame in pixels.
    seed : int
        Same portraits and seed, same clips.
    fps : float
        Frames a second.
    progress : callable, optional
        Told how many clips are written, and of how many.

    Returns
    -------
    list of Motion
        What was rendered, in the order of ``labels.csv``.

    Raises
    ------
    RenderError
        If OpenCV cannot write a clip.
    """
    folder.mkdir(parents=True, exist_ok=True)
    motions = plan(portraits, clips, seed, frames, fps, size)
    done = 0
    for portrait in portraits:
        fields = dense_fields(portrait.landmarks, portrait.image.shape[0])
        for motion in motions:
            if motion.person == portrait.person:
                _write(folder / motion.clip, frames_of(portrait, motion, fields, size), fps, size)
                done += 1
                progress(done, len(motions))
    rows = [[m.clip, f"{m.score:.3f}", m.person] for m in motions]
    write_csv(pd.DataFrame(rows, columns=["clip", "score", "person"]), folder / "labels.csv")
    return motions


def _write(path: Path, images: Iterator[NDArray[np.uint8]], fps: float, size: int) -> None:
    """Write one clip under another name first, so that no half clip is left behind."""
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*"mp4v"), fps, (size, size))
    if not writer.isOpened():
        raise RenderError(
            f"{path}: OpenCV cannot write an MPEG-4 clip there",
            "check that the folder can be written to and that the disk is not full",
        )
    count = 0
    try:
        for image in images:
            writer.write(image)
            count += 1
    finally:
        writer.release()
    written = cv2.VideoCapture(str(part)).get(cv2.CAP_PROP_FRAME_COUNT)  # write() tells nothing
    if written != count:
        part.unlink(missing_ok=True)
        raise RenderError(
            f"{path}: expected {count} frames, {written:.0f} were written", "is the disk full?"
        )
    part.replace(path)
