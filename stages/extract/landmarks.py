"""68 landmarks of faces, looked at once or twice: where the crop was off, from a better one.

The protocol is insightface's (model_zoo/landmark.py), so that any of its packs serves; what differs
is that crops are levelled by the eyes, go through the net in batches, and follow the landmarks.

A crop is a row (x, y, side, angle): centre and side of a square in pixels, and its roll in radians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages.extract.batches import BATCHES, F32, in_batches
from stages.extract.faces import F64, five_points
from stages.extract.feeds import Channels, Feed, grey
from stages.extract.packs import Refine
from stages.extract.video import Image

_MARGIN = 1.5  # side of what insightface shows the net over the longer side of the box


def roll(eyes: npt.NDArray[np.floating]) -> F64:
    """Angle in radians of the line from the left to the right point of pairs (m, 2, 2)."""
    step = np.asarray(eyes, np.float64)[:, 1] - eyes[:, 0]
    return np.asarray(np.arctan2(step[:, 1], step[:, 0]), np.float64)


def crops_of_boxes(box: F32, points: F32) -> F64:
    """Return the crops (m, 4) of faces as a detector finds them.

    Parameters
    ----------
    box : (m, 4) float32
        x1, y1, x2, y2 in pixels.
    points : (m, 5, 2) float32
        The eyes first.
    """
    middle = (box[:, :2] + box[:, 2:]) / 2
    side = (box[:, 2:] - box[:, :2]).max(1)
    return np.column_stack([middle, side, roll(points[:, :2])]).astype(np.float64)


def between(a: F64, b: F64, t: float) -> F64:
    """Return the crop (4,) at 0 <= t <= 1 of the way from one crop to another."""
    step = b - a
    step[3] = math.remainder(step[3], math.tau)  # the short way round
    return np.asarray(a + t * step, np.float64)


def drift(crop: F64, better: F64) -> F64:
    """How far apart crops (m, 4) are: the largest of shift / side, log of scale, and turn."""
    shift = np.hypot(*(better[:, :2] - crop[:, :2]).T) / np.maximum(crop[:, 2], 1)
    scale = np.abs(np.log(np.maximum(better[:, 2], 1) / np.maximum(crop[:, 2], 1)))
    turn = better[:, 3] - crop[:, 3]
    turn = np.abs((turn + np.pi) % (2 * np.pi) - np.pi)
    return np.asarray(np.max([shift, scale, turn], axis=0), np.float64)


def follow(crop: F64, expected: F64, found: F64) -> F64:
    """Return the crops (m, 4) moved, scaled and turned as others were from expected to found."""
    moved = crop + (found - expected)
    moved[:, 2] = crop[:, 2] * found[:, 2] / np.maximum(expected[:, 2], 1)
    return np.asarray(moved, np.float64)


class LandmarkNet:
    """68 landmarks of faces given by crops.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Output (n, 136), or (n, 3309) whose last 68 triples count; values in -1 to 1 of the
        protocol's picture.
    side : int
        Side of the protocol's picture, of which the net's input may be a part.
    feed : Feed
        What its input looks like.
    refine : Refine or None
        Crop of a second look; None for a pack whose net was not checked with one.
    batches : sequence of int
        Sizes of batches, the largest first.
    """

    def __init__(
        self,
        session: Any,
        side: int,
        feed: Feed,
        refine: Refine | None,
        batches: Sequence[int] = BATCHES,
    ) -> None:
        self._session, self._side, self._feed, self._refine = session, side, feed, refine
        self._batches = batches
        self._input = session.get_inputs()[0].name
        self._height, self._width = session.get_inputs()[0].shape[2:4]

    def __call__(self, images: Sequence[Image], crop: F64) -> tuple[F32, F64]:
        """Look at m faces once.

        Parameters
        ----------
        images : sequence of m pictures
        crop : (m, 4) float64

        Returns
        -------
        landmark : (m, 68, 2) float32
            Pixels of the pictures.
        better : (m, 4) float64
            The crops that these landmarks ask for; ``crop`` itself without ``refine``.
        """
        seen, back = [], np.empty((len(images), 2, 3))
        for i, (picture, (x, y, side, angle)) in enumerate(zip(images, crop.tolist(), strict=True)):
            scale = self._side / (max(side, 1.0) * _MARGIN)
            c, s = scale * math.cos(angle), scale * math.sin(angle)
            dx = self._side / 2 - self._feed.left - (c * x + s * y)
            dy = self._side / 2 - self._feed.top - (c * y - s * x)
            matrix = np.array([[c, s, dx], [-s, c, dy]])  # levels the face
            seen.append(self._cut(picture, matrix))
            back[i] = cv2.invertAffineTransform(matrix)
        blob = self._feed.blob(seen)
        (out,) = in_batches(self._run, blob, self._batches)
        depth = 3 if out.shape[1] >= 3000 else 2
        point = out.reshape(len(out), -1, depth)[:, -68:, :2].astype(np.float64)
        point = (point + 1) * (self._side // 2) - (self._feed.left, self._feed.top)
        landmark = (point @ back[:, :, :2].swapaxes(1, 2) + back[:, None, :, 2]).astype(np.float32)
        return landmark, self._better(landmark) if self._refine else crop

    def _run(self, blob: F32) -> Sequence[F32]:
        return self._session.run(None, {self._input: blob})  # type: ignore[no-any-return]

    def _better(self, landmark: F32) -> F64:
        assert self._refine is not None
        angle = roll(five_points(landmark)[:, :2])
        right = np.stack([np.cos(angle), np.sin(angle)], -1)
        down = np.stack([-right[:, 1], right[:, 0]], -1)
        along = landmark @ np.stack([right, down], -1)  # in the face's own directions
        low, high = along.min(1), along.max(1)
        side = self._refine.scale * (high - low).max(1)
        middle = (low + high) / 2
        middle[:, 1] += self._refine.shift * side
        centre = middle[:, :1] * right + middle[:, 1:] * down
        return np.column_stack([centre, side, angle])

    def _cut(self, image: Image, matrix: F64) -> Image:
        """Warp to the net's input, blurring first where the picture shrinks to less than half.

        Only the part that is shown is made grey and shrunk: whole 8K frames would cost more than
        the nets. By halves, of sides that are whole multiples: 15 times faster in OpenCV than any
        other ratio.
        """
        size = (self._width, self._height)
        scale = math.hypot(matrix[0, 0], matrix[1, 0])
        h, w = image.shape[:2]
        halvings = max(0, math.floor(-math.log2(max(scale, 1e-6))))
        halvings = min(halvings, min(h, w).bit_length() - 1)
        shrink = 2**halvings
        # The input's corners in the picture: its centre +- half its sides, turned back.
        inverse = cv2.invertAffineTransform(matrix)
        (a, b, x), (c, d, y) = inverse.tolist()
        xs = [x, x + a * size[0], x + b * size[1], x + a * size[0] + b * size[1]]
        ys = [y, y + c * size[0], y + d * size[1], y + c * size[0] + d * size[1]]
        x0 = min(max(math.floor(min(xs)), 0), w - shrink)
        y0 = min(max(math.floor(min(ys)), 0), h - shrink)
        x1 = min(max(math.ceil(max(xs)) + 1, x0 + shrink), w)
        y1 = min(max(math.ceil(max(ys)) + 1, y0 + shrink), h)
        wide, high = (x1 - x0) // shrink, (y1 - y0) // shrink
        part = image[y0 : y0 + high * shrink, x0 : x0 + wide * shrink]
        if self._feed.channels is Channels.GREY:
            part = grey(part)
        for _ in range(halvings):
            half = (part.shape[1] // 2, part.shape[0] // 2)
            part = np.asarray(cv2.resize(part, half, interpolation=cv2.INTER_AREA), np.uint8)
        # pixel u of the part is the mean of the picture's x0 + shrink * u .. + shrink - 1
        middle = np.array([x0, y0]) + (shrink - 1) / 2
        fine = np.column_stack([matrix[:, :2] * shrink, matrix[:, :2] @ middle + matrix[:, 2]])
        return np.asarray(cv2.warpAffine(part, fine, size), np.uint8)
