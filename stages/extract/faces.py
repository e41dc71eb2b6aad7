"""From boxes to landmarks, aligned faces, embeddings: geometry and the two batched nets.

The protocols are insightface's (model_zoo/landmark.py, arcface_onnx.py, utils/face_align.py), so
that any of its packs serves; what differs is that crops are levelled by the eyes, go through the
net in batches and are refined by a second pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages.extract.batches import F32, in_batches, to_blob
from stages.extract.packs import Refine
from stages.extract.video import Image

F64 = npt.NDArray[np.float64]

CROP = 112  # side of an aligned face in pixels
# Where the eyes, the nose and the mouth's corners lie in it (insightface, utils/face_align.py).
TEMPLATE: F64 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
     [70.7299, 92.2041]]
)  # fmt: skip

_LANDMARK_MARGIN = 1.5  # side of a landmark crop over the longer side of the box (insightface)


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


def align(image: Image, landmark: F32) -> Image:
    """Cut the aligned face (112, 112, 3) uint8 BGR out of a picture by its landmarks (68, 2)."""
    matrix = similarity(five_points(landmark), TEMPLATE)
    return np.asarray(cv2.warpAffine(image, matrix, (CROP, CROP), borderValue=0), np.uint8)


def roll(eyes: npt.NDArray[np.floating]) -> F64:
    """Angle in radians of the line from the left to the right point of pairs (m, 2, 2)."""
    step = np.asarray(eyes, np.float64)[:, 1] - eyes[:, 0]
    return np.asarray(np.arctan2(step[:, 1], step[:, 0]), np.float64)


class LandmarkNet:
    """68 landmarks of faces given by boxes.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Input (n, 3, s, s) RGB, output (n, 136), or (n, 3309) whose last 68 triples count; values in
        -1 to 1 of the crop.
    mean, std : float
        Input scaling.
    refine : Refine or None
        Crop of the second pass; None for a pack whose net was not checked with one.
    """

    def __init__(self, session: Any, mean: float, std: float, refine: Refine | None) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._side = int(session.get_inputs()[0].shape[2])
        self._mean, self._std, self._refine = mean, std, refine

    def __call__(self, images: Sequence[Image], box: F32, angle: F64) -> F32:
        """Return landmarks (m, 68, 2) float32 in pixels.

        Parameters
        ----------
        images : sequence of m pictures
        box : (m, 4) float32
            One face a picture: x1, y1, x2, y2 in pixels.
        angle : (m,) float64
            Roll of each face in radians.
        """
        centre = np.asarray(box[:, :2] + box[:, 2:], np.float64) / 2
        side = np.asarray((box[:, 2:] - box[:, :2]).max(1), np.float64)
        landmark = self._once(images, centre, side, angle)
        if self._refine is None:
            return landmark
        angle = roll(five_points(landmark)[:, :2])
        down = np.stack([-np.sin(angle), np.cos(angle)], -1)
        right = np.stack([np.cos(angle), np.sin(angle)], -1)
        x = np.einsum("mpc,mc->mp", landmark, right)
        y = np.einsum("mpc,mc->mp", landmark, down)
        side = self._refine.scale * np.maximum(np.ptp(x, axis=1), np.ptp(y, axis=1))
        mid_x = (x.max(1) + x.min(1)) / 2
        mid_y = (y.max(1) + y.min(1)) / 2 + self._refine.shift * side
        centre = mid_x[:, None] * right + mid_y[:, None] * down
        return self._once(images, centre, side, angle)

    def _once(self, images: Sequence[Image], centre: F64, side: F64, angle: F64) -> F32:
        crops, inverse = [], []
        for picture, middle, width, turn in zip(images, centre, side, angle, strict=True):
            scale = self._side / (max(float(width), 1.0) * _LANDMARK_MARGIN)
            c, s = scale * np.cos(turn), scale * np.sin(turn)
            linear = np.array([[c, s], [-s, c]])  # levels the face
            matrix = np.hstack([linear, (self._side / 2 - linear @ middle)[:, None]])
            crops.append(_warp(picture, matrix, self._side))
            inverse.append(cv2.invertAffineTransform(matrix))
        blob = to_blob(crops, self._mean, self._std)
        (out,) = in_batches(lambda part: self._session.run(None, {self._input: part}), blob)
        depth = 3 if out.shape[1] >= 3000 else 2
        point = out.reshape(len(out), -1, depth)[:, -68:, :2].astype(np.float64)
        point = (point + 1) * (self._side // 2)
        back = np.stack(inverse)
        upright = np.einsum("mij,mpj->mpi", back[:, :, :2], point) + back[:, None, :, 2]
        return np.asarray(upright, np.float32)


class RecognitionNet:
    """Two vectors of an aligned face from one pass: its embedding and its appearance.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Input (n, 3, 112, 112) RGB; outputs ``embedding`` (n, 512), then ``appearance`` (n, 512).
    mean, std : float
        Input scaling.
    """

    def __init__(self, session: Any, mean: float, std: float) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._mean, self._std = mean, std

    def __call__(self, crops: Sequence[Image]) -> tuple[F32, F32]:
        """Return embedding and appearance, (n, 512) float32 each, of crops (112, 112, 3) BGR."""
        blob = to_blob(crops, self._mean, self._std)
        embedding, appearance = in_batches(
            lambda part: self._session.run(None, {self._input: part}), blob
        )
        return embedding, appearance


def _warp(image: Image, matrix: F64, side: int) -> Image:
    """Warp to (side, side), blurring first where the picture is shrunk to less than half."""
    scale = max(float(np.hypot(matrix[0, 0], matrix[1, 0])), 1e-6)
    halvings = max(0, math.floor(-math.log2(scale)))
    if not halvings:
        return np.asarray(cv2.warpAffine(image, matrix, (side, side)), np.uint8)
    # Only the part that the crop shows is shrunk: whole 8K frames would cost more than the nets. By
    # halves, of sides that are whole multiples: 15 times faster in OpenCV than any other ratio.
    shrink = 2**halvings
    inverse = cv2.invertAffineTransform(matrix)
    square = np.array([[0, 0], [side, 0], [0, side], [side, side]])
    corners = square @ np.asarray(inverse[:, :2], np.float64).T + inverse[:, 2]
    h, w = image.shape[:2]
    x0, y0 = np.clip(np.floor(corners.min(0)), 0, (max(w - shrink, 0), max(h - shrink, 0)))
    x0, y0 = int(x0), int(y0)
    x1, y1 = np.clip(np.ceil(corners.max(0)), (x0 + shrink, y0 + shrink), (w, h)).astype(int)
    size = (int(x1 - x0) // shrink, int(y1 - y0) // shrink)
    part = image[y0 : y0 + size[1] * shrink, x0 : x0 + size[0] * shrink]
    small = part
    for _ in range(halvings):
        half = (small.shape[1] // 2, small.shape[0] // 2)
        small = np.asarray(cv2.resize(small, half, interpolation=cv2.INTER_AREA), np.uint8)
    # small pixel u is the mean of picture pixels x0 + shrink * u .. x0 + shrink * u + shrink - 1
    middle = np.array([x0, y0]) + (shrink - 1) / 2
    offset = matrix[:, :2] @ middle + matrix[:, 2]
    fine = np.hstack([matrix[:, :2] * shrink, offset[:, None]])
    return np.asarray(cv2.warpAffine(small, fine, (side, side)), np.uint8)
