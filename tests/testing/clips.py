"""Tiny clips for tests: bright squares on dark ground, which the tiny pack takes for faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

Square = tuple[float, float, float]  # x, y of the centre, side, in pixels

SIZE = (320, 240)


def picture(
    squares: Sequence[Square], size: tuple[int, int] = SIZE, ground: int = 20
) -> np.ndarray:
    """Draw squares with some texture, so that their crops differ."""
    image = np.full((size[1], size[0], 3), ground, np.uint8)
    for k, (x, y, side) in enumerate(squares):
        h = side / 2
        low, high = (round(x - h), round(y - h)), (round(x + h), round(y + h))
        cv2.rectangle(image, low, high, (200, 215, 230), -1)
        spot = (round(x - h / 2 + k * h / 3), round(y - h / 3))
        cv2.circle(image, spot, max(2, round(side / 12)), (150, 150, 160), -1)
    return image


def write_video(path: Path, frames: Sequence[np.ndarray], fps: float = 25.0) -> Path:
    """Write frames as a video that OpenCV reads back frame by frame."""
    h, w = frames[0].shape[:2]
    fourcc = cv2.VideoWriter.fourcc(*"mp4v" if path.suffix != ".avi" else "MJPG")
    writer = cv2.VideoWriter(str(path), fourcc, fps, (w, h))
    assert writer.isOpened(), path
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def moving_square(
    path: Path, frames: int = 20, start: Square = (90, 110, 80), step: tuple[float, float] = (3, 1)
) -> Path:
    """Write a video of one square that moves by ``step`` pixels a frame."""
    x, y, side = start
    drawn = [picture([(x + i * step[0], y + i * step[1], side)]) for i in range(frames)]
    return write_video(path, drawn)


def tagged(path: Path, matrix: tuple[int, int, int, int], box: bytes = b"tkhd") -> Path:
    """Put a display matrix (a, b, c, d) into the header of an MP4's track or of the whole movie."""
    fixed = [65536 * v for v in (*matrix[:2], 0, *matrix[2:], 0, 0, 0)]
    identity = b"".join(v.to_bytes(4, "big") for v in (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30))
    data = bytearray(path.read_bytes())
    at = data.index(identity, data.index(box))
    data[at : at + 36] = b"".join((v % 2**32).to_bytes(4, "big") for v in (*fixed, 1 << 30))
    path.write_bytes(data)
    return path
