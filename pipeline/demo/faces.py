"""One upright portrait and 68 landmarks of every person in a handful of photos.

The photos are turned level and cut so that every face is about equally large and has background
around it: what is rendered from the portraits then differs between persons in who is seen, not in
framing.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.demo.sources import Photo
from store.errors import FacepipeError

PORTRAIT_SIZE = 320
"""Side of a portrait in pixels: a quarter more than a rendered frame, so that crops can vary."""

FACE_FRACTION = 0.42
"""Width of the face (of its landmarks) over the side of the portrait."""

SAME_PERSON = 0.4
"""Cosine of two lite embeddings above which they show one person (same 0.61 +- 0.12, different
0.01 +- 0.09 over 8 persons x 5 portraits)."""


class PortraitError(FacepipeError, ValueError):
    """A photo of the demo does not show the face that it is known to show."""

    exit_code = 1


@dataclass(frozen=True, eq=False)
class Portrait:
    """One person, upright, with background around the face.

    Attributes
    ----------
    person : str
        ``p00``, ``p01``, … in the order of the photos.
    image : NDArray, (PORTRAIT_SIZE, PORTRAIT_SIZE, 3) uint8
        BGR.
    landmarks : NDArray, (68, 2) float32
        iBUG-68 order, pixels of ``image``.
    source : str
        Which photo it was cut from, and where in it.
    """

    person: str
    image: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    source: str


def cut_portraits(photos: Iterable[Photo], pack: Path) -> list[Portrait]:
    """Cut out one portrait of each person in ``photos``.

    A face that shows a person already seen (embedding cosine above ``SAME_PERSON``) is left out:
    the first photo of a person stands for them, so one person never gets two names.

    Parameters
    ----------
    photos : iterable of Photo
        Files with the centres of the faces to use.
    pack : Path
        Folder of a model pack with 68 landmarks and an embedding, loaded by insightface.

    Returns
    -------
    list of Portrait
        In the order of the photos and of the faces in them.

    Raises
    ------
    PortraitError
        If a photo cannot be read or shows no face where one should be.
    """
    analysis = _analysis(pack)
    portraits: list[Portrait] = []
    known: list[NDArray[np.float32]] = []
    for photo in photos:
        decoded = cv2.imdecode(np.fromfile(photo.path, np.uint8), cv2.IMREAD_COLOR)
        if decoded is None:
            raise PortraitError(f"{photo.path}: expected a photo, found nothing OpenCV can read")
        image = np.asarray(decoded, np.uint8)
        found = _detect(analysis, image)
        for x, y in photo.faces:
            face = _nearest(found, (x, y), photo.path)
            upright = level(image, face.landmark_2d_68)
            centre = (PORTRAIT_SIZE / 2, PORTRAIT_SIZE / 2)
            # The landmark net is most accurate on a level face, so it gets a second look.
            again = _nearest(_detect(analysis, upright), centre, photo.path)
            embedding = again.normed_embedding
            if any(float(embedding @ other) > SAME_PERSON for other in known):
                continue
            known.append(embedding)
            portraits.append(
                Portrait(
                    person=f"p{len(portraits):02d}",
                    image=upright,
                    landmarks=np.asarray(again.landmark_2d_68, np.float32),
                    source=f"{photo.name} at {x},{y}",
                )
            )
    return portraits


def level(
    image: NDArray[np.uint8],
    landmarks: NDArray[np.float32],
    size: int = PORTRAIT_SIZE,
    fraction: float = FACE_FRACTION,
) -> NDArray[np.uint8]:
    """Turn a face level and cut a square around it.

    Parameters
    ----------
    image : NDArray, (H, W, 3) uint8
    landmarks : NDArray, (68, 2)
        iBUG-68 order, pixels of ``image``.
    size : int
        Side of the result in pixels.
    fraction : float
        Width of the landmarks over ``size`` in the result (a narrow, turned face counts with
        0.85 of its height).

    Returns
    -------
    NDArray, (size, size, 3) uint8
        Beyond the edge of the photo its last pixels are repeated (a mirror image would show a
        second mouth under a chin).
    """
    eyes = landmarks[42:48].mean(0) - landmarks[36:42].mean(0)
    angle = math.atan2(float(eyes[1]), float(eyes[0]))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    turned = landmarks @ turn.T
    low, high = turned.min(0), turned.max(0)
    width, height = high - low
    scale = size * fraction / max(float(width), 0.85 * float(height))
    # Brows to chin are the lower part of a head: the middle of a head lies a little higher.
    centre = (low + high) / 2 - np.array([0.0, 0.1 * height])
    while scale < 0.5:  # halve by area first: sampling alone would alias
        image = np.asarray(cv2.pyrDown(image), np.uint8)
        centre, scale = centre / 2, scale * 2
    matrix = np.empty((2, 3))
    matrix[:, :2] = scale * turn
    matrix[:, 2] = size / 2 - scale * centre
    out = cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(out, np.uint8)


def _analysis(pack: Path) -> Any:
    """Open the pack with insightface, whose progress lines are of no use to our users."""
    from insightface.app import FaceAnalysis  # slow to import, and only the demo needs it

    with contextlib.redirect_stdout(io.StringIO()):
        analysis = FaceAnalysis(name=str(pack), providers=["CPUExecutionProvider"])
        analysis.prepare(ctx_id=-1, det_size=(640, 640))
    return analysis


def _detect(analysis: Any, image: NDArray[np.uint8]) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of scikit-image, inside insightface
        return list(analysis.get(image))


def _nearest(found: Sequence[Any], centre: tuple[float, float], path: Path) -> Any:
    """Return the face whose box holds ``centre``, the nearest of several."""
    at = np.asarray(centre, float)
    holding = [f for f in found if (f.bbox[:2] <= at).all() and (at <= f.bbox[2:]).all()]
    if not holding:
        raise PortraitError(
            f"{path}: expected a face around {centre[0]:.0f},{centre[1]:.0f}, "
            f"found {len(found)} elsewhere",
            "the model pack does not find this face: 'pipeline packs verify lite'",
        )
    return min(holding, key=lambda f: float(np.abs((f.bbox[:2] + f.bbox[2:]) / 2 - at).sum()))
