"""From landmarks to aligned faces to vectors (insightface: face_align.py, arcface_onnx.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages.extract.batches import F32, in_batches
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
    groups = ((37, 38, 40, 41), (43, 44, 46, 47), (30,), (48, 60), (54, 64))
    return np.stack(
        [np.asarray(landmark, np.float64)[..., group, :].mean(-2) for group in groups], -2
    )


def similarity(source: F64, target: F64) -> F64:
    """Return the (2, 3) rotation, scale and shift that takes points (n, 2) nearest to others.

    Least squares without reflection (Umeyama, PAMI 1991), in the closed form of the plane.
    """
    a, b = source - source.mean(0), target - target.mean(0)
    spread = float((a * a).sum())
    if spread < 1e-12:
        raise ValueError("points coincide: no similarity transform is defined")
    c = float((a * b).sum()) / spread
    s = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / spread
    linear = np.array([[c, -s], [s, c]])
    return np.hstack([linear, (target.mean(0) - linear @ source.mean(0))[:, None]])


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
    """

    def __init__(self, session: Any, feed: Feed) -> None:
        self._session, self._feed = session, feed
        self._input = session.get_inputs()[0].name

    def __call__(self, crops: Sequence[Image]) -> tuple[F32, F32]:
        """Return embedding and appearance, (n, 512) float32 each, of crops (112, 112, 3) BGR."""
        blob = self._feed.blob(crops)
        embedding, appearance = in_batches(
            lambda part: self._session.run(None, {self._input: part}), blob
        )
        return embedding, appearance
