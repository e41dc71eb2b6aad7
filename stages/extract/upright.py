"""Pictures as a person would see them: upright, not mirrored by a tag, with square pixels.

Decoders are told not to turn anything themselves: whether they do by default differs between
versions of OpenCV, and none of them undoes a mirror.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

_TILT = 0.1  # sine of the angle up to which a matrix counts as one of the eight upright ones
_SQUARE = 0.01  # pixels less off square than this are: encoders round widths to even numbers
_MAX_ASPECT = 4.0  # anamorphic film has 2; beyond this the header is broken


class Matrix(NamedTuple):
    """The linear part of a display matrix: x' = a x + c y, y' = b x + d y, y downwards.

    Source: ISO/IEC 14496-12, 6.2.2 (``tkhd``).
    """

    a: float
    b: float
    c: float
    d: float

    @classmethod
    def turn(cls, degrees: float) -> Matrix:
        """Return the matrix that turns a picture clockwise."""
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        return cls(cos, sin, -sin, cos)

    def __matmul__(self, then: Matrix) -> Matrix:
        """Return the matrix that applies this one and then the other."""
        return Matrix(
            self.a * then.a + self.b * then.c,
            self.a * then.b + self.b * then.d,
            self.c * then.a + self.d * then.c,
            self.c * then.b + self.d * then.d,
        )


class Upright:
    """Turns decoded pictures of one stream upright.

    Parameters
    ----------
    matrix : Matrix or None
        The stream's display matrix. One that is not a multiple of 90 degrees, with or without a
        mirror, is left alone: nobody films so, it comes from a broken header.
    aspect : float
        Width of a stored pixel / its height; nonsense counts as 1.

    Attributes
    ----------
    rotation : int
        Degrees clockwise that pictures are turned by: 0, 90, 180 or 270.
    mirrored : bool
        Whether left and right are swapped before they are turned.
    """

    def __init__(self, matrix: Matrix | None = None, aspect: float = 1.0) -> None:
        a, b, c, d = _nearest(matrix) if matrix is not None else (1, 0, 0, 1)
        self.rotation = {(0, 1): 0, (-1, 0): 90, (0, -1): 180, (1, 0): 270}[c, d]
        self.mirrored = a * d - b * c < 0
        self._transpose = a == 0
        # After the transpose the remaining signs say which axes are flipped; 0: x axis, 1: y axis.
        flip_x, flip_y = (c < 0, b < 0) if self._transpose else (a < 0, d < 0)
        self._flip = {(True, True): -1, (True, False): 1, (False, True): 0}.get((flip_x, flip_y))
        usable = math.isfinite(aspect) and 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT
        self._aspect = aspect if usable and abs(aspect - 1) > _SQUARE else 1.0

    def __call__(self, image: Image) -> Image:
        """Return the picture (h, w, 3) as it is meant to be seen."""
        picture: npt.NDArray[np.integer | np.floating] = image
        if self._aspect != 1.0:
            picture = resized(image, round(image.shape[1] * self._aspect), image.shape[0])
        if self._transpose:
            picture = cv2.transpose(picture)
        if self._flip is not None:
            picture = cv2.flip(picture, self._flip)
        return np.asarray(picture, np.uint8)


def resized(image: Image, width: int, height: int) -> Image:
    """Return the picture scaled to a size, averaging where it shrinks."""
    shrinks = width <= image.shape[1] and height <= image.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    size = (max(1, width), max(1, height))
    return np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)


def _nearest(matrix: Matrix) -> tuple[int, int, int, int]:
    """Return the one of the eight upright matrices that this is up to scale, else the identity."""
    size = max(map(abs, matrix))
    if not 0 < size < math.inf:
        return 1, 0, 0, 1
    a, b, c, d = (round(v / size) if abs(v) > _TILT * size else 0 for v in matrix)
    straight = abs(matrix.a) > 0 and abs(matrix.d) > 0 and b == c == 0
    turned = abs(matrix.b) > 0 and abs(matrix.c) > 0 and a == d == 0
    if straight:
        return int(math.copysign(1, matrix.a)), 0, 0, int(math.copysign(1, matrix.d))
    if turned:
        return 0, int(math.copysign(1, matrix.b)), int(math.copysign(1, matrix.c)), 0
    return 1, 0, 0, 1
