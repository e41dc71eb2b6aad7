"""Face detection with nets of the SCRFD protocol: batches of pictures in, boxes out.

The protocol (insightface, model_zoo/scrfd.py): input (1, 3, h, w), RGB, (x - 127.5) / 128; for
each stride a score (a, 1), the distances from the anchor to the four sides (a, 4) and five key
points (a, 10), both in strides; anchors lie on a grid, two a cell for three strides, one for five.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages.extract.video import Image

F32 = npt.NDArray[np.float32]

_STRIDES = {9: ((8, 16, 32), 2), 15: ((8, 16, 32, 64, 128), 1)}
_NMS_IOU = 0.4


@dataclass(frozen=True)
class Faces:
    """Faces found in one picture, best first.

    ``box`` (m, 4) float32 x1, y1, x2, y2 and ``points`` (m, 5, 2) float32 (eyes, nose, mouth
    corners) in pixels of the picture; ``score`` (m,) float32 in 0 to 1.
    """

    box: F32
    score: F32
    points: F32

    def __len__(self) -> int:
        return len(self.score)


class Detector:
    """Detect faces at one or more input sizes, joined by non-maximum suppression.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        A net of the SCRFD protocol with key points (9 or 15 outputs).
    sizes : sequence of int
        Longest side in pixels to which pictures are scaled. Nets of this kind lose faces that fill
        the picture at a large size and small ones at a small size.
    threshold : float
        Least score of a face.
    max_faces : int
        At most so many faces a picture, the largest.
    """

    def __init__(
        self, session: Any, sizes: Sequence[int], threshold: float = 0.5, max_faces: int = 8
    ) -> None:
        self._session = session
        inputs, outputs = session.get_inputs()[0], session.get_outputs()
        self._input = inputs.name
        self._outputs = [output.name for output in outputs]
        self._strides, self._anchors = _STRIDES[len(outputs)]
        height, width = inputs.shape[2:4]
        fixed = isinstance(height, int) and isinstance(width, int)
        self._fixed: tuple[int, int] | None = (height, width) if fixed else None
        self.sizes = (max(height, width),) if fixed else tuple(sizes)
        self._threshold = threshold
        self._max_faces = max_faces

    def detect(self, image: Image) -> Faces:
        """Find the faces of one picture (h, w, 3) uint8 BGR."""
        found = [self._at_size(image, size) for size in self.sizes]
        box, score, points = (np.concatenate(part) for part in zip(*found, strict=True))
        if not len(score):
            return Faces(box, score, points)
        corner = np.hstack([box[:, :2], box[:, 2:] - box[:, :2]])
        keep = np.asarray(
            cv2.dnn.NMSBoxes(corner.tolist(), score.tolist(), self._threshold, _NMS_IOU), np.int64
        ).reshape(-1)
        if len(keep) > self._max_faces:
            area = np.prod(corner[keep, 2:], axis=1)
            keep = keep[np.sort(np.argsort(-area, kind="stable")[: self._max_faces])]
        return Faces(box[keep], score[keep], points[keep])

    def _at_size(self, image: Image, size: int) -> tuple[F32, F32, F32]:
        h, w = image.shape[:2]
        scale = size / max(h, w)
        if self._fixed:
            net_h, net_w = self._fixed
            scale = min(net_h / h, net_w / w)
        new_w, new_h = max(1, round(w * scale)), max(1, round(h * scale))
        if not self._fixed:  # no wider than the picture needs: a 9:16 clip costs half a square
            net_w, net_h = (-(-new_w // 32) * 32, -(-new_h // 32) * 32)
        method = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
        canvas = np.zeros((net_h, net_w, 3), np.uint8)
        canvas[:new_h, :new_w] = cv2.resize(image, (new_w, new_h), interpolation=method)
        blob = cv2.dnn.blobFromImage(canvas, 1 / 128, (net_w, net_h), (127.5,) * 3, swapRB=True)
        outputs = self._session.run(self._outputs, {self._input: blob})
        levels = len(self._strides)
        boxes, scores, points = [], [], []
        for level, stride in enumerate(self._strides):
            score = outputs[level].reshape(-1)
            hit = np.flatnonzero(score >= self._threshold)
            centre = _anchors(net_h // stride, net_w // stride, stride, self._anchors)[hit]
            side = outputs[level + levels].reshape(-1, 4)[hit] * stride
            point = outputs[level + 2 * levels].reshape(-1, 5, 2)[hit] * stride
            boxes.append(np.hstack([centre - side[:, :2], centre + side[:, 2:]]))
            points.append(centre[:, None] + point)
            scores.append(score[hit])
        back = np.array([w / new_w, h / new_h], np.float32)
        box = np.concatenate(boxes) * np.tile(back, 2)
        return box, np.concatenate(scores), np.concatenate(points) * back


@lru_cache(maxsize=64)
def _anchors(rows: int, columns: int, stride: int, per_cell: int) -> F32:
    """Return anchor centres (rows * columns * per_cell, 2) in pixels, cell by cell."""
    y, x = np.mgrid[:rows, :columns].astype(np.float32) * stride
    return np.repeat(np.stack([x, y], -1).reshape(-1, 2), per_cell, axis=0)
