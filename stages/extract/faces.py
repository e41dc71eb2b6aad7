"""From landmarks to aligned faces to vectors (insightface: face_align.py, arcface_onnx.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages.extract.batches import BATCHES, F32, in_batches
from stages.extract.feeds import Feed
from stages.extract.video import Image

F64 = npt.NDArray[np.float64]

CROP = 112  # side of an aligned face in pixels
# Where the eyes, the nose and the mouth's corners lie in it (insightface, utils/face_align.py).
TEMPLATE: F64 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
     [70.7299, 92.2041]]
)  # fmt: skip


def five_points(landmark: npt.NDArray[np.floating]) -> F64:
    """Reduce 68 points (..., 68, 2) to the template's five (..., 5, 2).

    The eyes are the means of points 37, 38, 40, 41 and 43, 44, 46, 47 (from 0), the nose is 30, the
    mouth's corners the means of 48, 60 and 54, 64: steadier than a detector's own five points.
    """
    return np.asarray(_FIVE @ np.asarray(landmark, np.float64), np.float64)


def _means(groups: Sequence[Sequence[int]]) -> F64:
    """Return the matrix (m, 68) that takes 68 values to the means of m groups of them."""
    matrix = np.zeros((len(groups), 68))
    for row, group in zip(matrix, groups, strict=True):
        row[list(group)] = 1 / len(group)
    return matrix


_FIVE = _means(((37, 38, 40, 41), (43, 44, 46, 47), (30,), (48, 60), (54, 64)))


def similarity(source: F64, target: F64) -> F64:
    """Return the (2, 3) rotation, scale and shift that takes points (n, 2) nearest to others.

    Least squares without reflection (Umeyama, PAMI 1991), in the closed form of the plane.
    """
    # In plain numbers: for five points a tenth of what NumPy's calls cost.
    a, b = source.tolist(), target.tolist()
    n = len(a)
    (ax, ay), (bx, by) = ([sum(column) / n for column in zip(*points, strict=True)]
                          for points in (a, b))  # fmt: skip
    spread = dot = cross = 0.0
    for (x, y), (u, v) in zip(a, b, strict=True):
        x, y, u, v = x - ax, y - ay, u - bx, v - by
        spread += x * x + y * y
        dot += x * u + y * v
        cross += x * v - y * u
    if spread < 1e-12:
        raise ValueError("points coincide: no similarity transform is defined")
    c, s = dot / spread, cross / spread
    return np.array([[c, -s, bx - c * ax + s * ay], [s, c, by - s * ax - c * ay]])


def align(image: Image, landmark: F32, size: int = CROP) -> Image:
    """Cut the aligned face (size, size, 3) uint8 BGR out of a picture by its landmarks (68, 2)."""
    matrix = similarity(five_points(landmark), TEMPLATE * (size / CROP))
    return np.asarray(cv2.warpAffine(image, matrix, (size, size), borderValue=0), np.uint8)


class RecognitionNet:
    """Two vectors of an aligned face from one pass: its embedding and its appearance.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Input (n, 3, 112, 112) RGB; outputs ``embedding`` (n, 512), then ``appearance`` (n, 512).
    feed : Feed
        What its input looks like.
    batches : sequence of int
        Sizes of batches, the largest first.
    """

    def __init__(self, session: Any, feed: Feed, batches: Sequence[int] = BATCHES) -> None:
        self._session, self._feed, self._batches = session, feed, batches
        self._input = session.get_inputs()[0].name

    def __call__(self, crops: Sequence[Image]) -> tuple[F32, F32]:
        """Return embedding and appearance, (n, 512) float32 each, of crops (112, 112, 3) BGR."""
        # A batch's input at a time: 150 kB a face, of a whole clip more than everything else.
        size = self._batches[0]
        parts = [
            in_batches(self._run, self._feed.blob(crops[start : start + size]), self._batches)
            for start in range(0, len(crops), size)
        ]
        embedding, appearance = (np.concatenate(column) for column in zip(*parts, strict=True))
        return embedding, appearance

    def _run(self, blob: F32) -> Sequence[F32]:
        return self._session.run(None, {self._input: blob})  # type: ignore[no-any-return]
