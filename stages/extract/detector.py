"""Face detection with nets of the SCRFD protocol: batches of pictures in, boxes out.

The protocol (insightface, model_zoo/scrfd.py): input (1, 3, h, w), RGB, (x - 127.5) / 128; for
each stride a score (a, 1), the distances from the anchor to the four sides (a, 4) and five key
points (a, 10), both in strides; anchors lie on a grid, two a cell for three strides, one for five.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from stages.extract.batches import BATCHES, F32, in_batches
from stages.extract.feeds import Feed
from stages.extract.video import Image

_STRIDES = {9: ((8, 16, 32), 2), 15: ((8, 16, 32, 64, 128), 1)}
_NMS_IOU = 0.4
_LARGE = (0.25, 0.7)  # of a picture's longest side: a face that needs no look at a smaller size
# Sides of the net's input are multiples of this, where a quarter of it would do for most nets:
# clips of all sizes then come in few shapes, for each of which a GPU has to prepare.
_STEP = 128
INSIGHTFACE = Feed.normalised(127.5, 128.0)

Found = tuple[F32, F32, F32]  # boxes (m, 4), scores (m,) and points (m, 5, 2)


@dataclass(frozen=True)
class Sighting:
    """One face in one frame: its tracklet, ``box`` (4,), ``score`` and ``points`` (5, 2).

    ``detected``: whether the detector saw it there, or it was interpolated.
    """

    tracklet: int
    box: F32
    score: float
    points: F32
    detected: bool = True


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

    def sighting(self, i: int, tracklet: int) -> Sighting:
        """Return the i-th face as one of a tracklet."""
        return Sighting(tracklet, self.box[i], float(self.score[i]), self.points[i])


class Detector:
    """Detect faces at one or more input sizes, joined by non-maximum suppression.

    The first size is looked at always. Nets of this kind lose faces that fill the picture at a
    large size, or break them in two, and small ones at a small size. So a smaller size is looked at
    as well unless the largest face so far is from a quarter to 0.7 of the picture's longest side,
    and a larger one where none was found at all (`benchmarks/detector_sizes.py` measures what that
    finds and costs).

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        A net of the SCRFD protocol with key points (9 or 15 outputs).
    sizes : sequence of int
        Longest sides in pixels to which pictures are scaled, in the order of the looks.
    threshold : float
        Least score of a face.
    max_faces : int
        At most so many faces a picture, the largest.
    feed : Feed
        What the net's input looks like.
    """

    def __init__(
        self,
        session: Any,
        sizes: Sequence[int],
        threshold: float = 0.5,
        max_faces: int = 8,
        feed: Feed = INSIGHTFACE,
    ) -> None:
        self._session, self._feed = session, feed
        inputs, outputs = session.get_inputs()[0], session.get_outputs()
        self._input = inputs.name
        self._outputs = [output.name for output in outputs]
        self._strides, self._anchors = _STRIDES[len(outputs)]
        height, width = inputs.shape[2:4]
        fixed = isinstance(height, int) and isinstance(width, int)
        self._fixed: tuple[int, int] | None = (height, width) if fixed else None
        self.sizes = (max(height, width),) if fixed else tuple(sizes)
        # Nets whose outputs keep the batch apart (n, rows, c); those of SCRFD's first export mix it
        # into the rows, and give wrong boxes for more than one picture at a time.
        batched = len(outputs[0].shape) == 3 and not isinstance(inputs.shape[0], int)
        self._batches = BATCHES if batched else (1,)
        self._threshold = threshold
        self._max_faces = max_faces

    def at(self, sizes: Sequence[int]) -> Detector:
        """Return a detector with this one's net and other sizes."""
        other = copy.copy(self)
        other.sizes = self.sizes if self._fixed else tuple(sizes)
        return other

    def detect(self, image: Image) -> Faces:
        """Find the faces of one picture (h, w, 3) uint8 BGR."""
        return self.detect_many([image])[0]

    def detect_many(self, images: Sequence[Image]) -> list[Faces]:
        """Find the faces of pictures of any sizes; those of one size share the net's batches."""
        found: list[list[Found]] = [[] for _ in images]
        for size in self.sizes:
            some = [k for k, image in enumerate(images) if self._looks(image, size, found[k])]
            views = [self._view(images[k], size) for k in some]
            for k, one in zip(some, self._found(views), strict=True):
                found[k].append(one)
        return [self._joined(one) for one in found]

    def _looks(self, image: Image, size: int, found: Sequence[Found]) -> bool:
        """Whether a picture is looked at in one more size, after what was found in it so far."""
        if not found:
            return True
        first, longest = self.sizes[0], max(image.shape[:2])
        if size > first:
            return longest > first and not any(len(box) for box, _, _ in found)
        side = max(float((box[:, 2:] - box[:, :2]).max(initial=0)) for box, _, _ in found)
        return longest > size and not _LARGE[0] <= side / longest <= _LARGE[1]

    def _found(self, views: Sequence[_View]) -> list[Found]:
        """Run the net on views, those of one size in the net's batches."""
        same: dict[tuple[int, ...], list[int]] = {}
        for i, view in enumerate(views):
            same.setdefault(view.canvas.shape, []).append(i)
        found: dict[int, Found] = {}
        for members in same.values():
            blob = self._feed.blob([views[i].canvas for i in members])
            outputs = in_batches(self._run, blob, self._batches)
            for row, i in enumerate(members):
                found[i] = self._decode([out[row] for out in outputs], views[i])
        return [found[i] for i in range(len(views))]

    def _run(self, blob: F32) -> list[F32]:
        """Run the net; every output comes as (n, rows, c)."""
        outputs = self._session.run(self._outputs, {self._input: blob})
        return [out.reshape(len(blob), -1, out.shape[-1]) for out in outputs]

    def _view(self, image: Image, size: int) -> _View:
        """Scale a picture to a longest side and lay it into the top left of the net's input."""
        h, w = image.shape[:2]
        halvings = 0
        while max(h, w) >= 2 * size and min(h, w) >= 2:
            h, w = h // 2, w // 2  # halving is many times faster than any other ratio
            even = image[: 2 * h, : 2 * w]
            image = np.asarray(cv2.resize(even, (w, h), interpolation=cv2.INTER_AREA), np.uint8)
            halvings += 1
        if self._fixed:
            net_h, net_w = self._fixed
            scale = min(net_h / h, net_w / w)
        else:
            scale = min(1.0, size / max(h, w))  # enlarging costs time and shows nothing new
        new_w, new_h = max(1, round(w * scale)), max(1, round(h * scale))
        if not self._fixed:  # no wider than the picture needs: a 9:16 clip costs half a square
            net_w, net_h = -(-new_w // _STEP) * _STEP, -(-new_h // _STEP) * _STEP
        if (new_h, new_w) != (h, w):
            image = np.asarray(
                cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR), np.uint8
            )
        canvas = image
        if (net_h, net_w) != (new_h, new_w):
            canvas = np.zeros((net_h, net_w, 3), np.uint8)
            canvas[:new_h, :new_w] = image
        back = np.array([w / new_w, h / new_h], np.float32) * np.float32(2**halvings)
        return _View(canvas, back)

    def _decode(self, outputs: Sequence[F32], view: _View) -> Found:
        """Turn one picture's outputs, each (rows, c), into boxes, scores and points."""
        net_h, net_w = view.canvas.shape[:2]
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
        box = np.concatenate(boxes) * np.tile(view.back, 2)
        return box, np.concatenate(scores), np.concatenate(points) * view.back

    def _joined(self, found: Sequence[Found]) -> Faces:
        """Suppress what was found twice, at one size or at several."""
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


@dataclass(frozen=True)
class _View:
    """A picture as the net sees it, and the factors (x, y) that lead back to its pixels."""

    canvas: Image
    back: F32


@lru_cache(maxsize=64)
def _anchors(rows: int, columns: int, stride: int, per_cell: int) -> F32:
    """Return anchor centres (rows * columns * per_cell, 2) in pixels, cell by cell."""
    y, x = np.mgrid[:rows, :columns].astype(np.float32) * stride
    return np.repeat(np.stack([x, y], -1).reshape(-1, 2), per_cell, axis=0)
