"""The face of a stream, frame by frame, with nothing read ahead: for cameras.

`clip.py` looks at a clip as a whole: it interpolates between detections before and after a frame
and chooses the main face when all are known. Here a frame is done before the next one is there. A
face is followed by its own landmarks; the detector looks at every k-th frame, and wherever none is
held or the landmarks lose theirs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from stages.extract.batches import F32
from stages.extract.detector import Faces
from stages.extract.faces import F64, align
from stages.extract.inputs import InputError
from stages.extract.landmarks import crops_of_boxes, drift
from stages.extract.locate import ASTRAY, NEAR, face_like, middle_in
from stages.extract.nets import Nets
from stages.extract.tracks import JOIN_COSINE, LEAST_IOU, SURE_SCORE, iou
from stages.extract.video import Frame, Image


@dataclass(frozen=True)
class LiveFace:
    """The face that is followed, in one frame.

    ``box`` (4,) float32 x1, y1, x2, y2 and ``landmark`` (68, 2) float32 in pixels; ``score``: the
    detector's when it last looked; ``embedding``, ``appearance`` (512,) float32; ``someone_new``:
    whether it is another person than the one who was followed before.
    """

    box: F32
    score: float
    landmark: F32
    embedding: F32
    appearance: F32
    someone_new: bool = False


@dataclass(frozen=True)
class _Held:
    """Where the face was, and the crop (4,) in which to look for it next."""

    box: F32
    score: float
    crop: F64
    landmark: F32


class LiveExtractor:
    """Follows one face through a stream and embeds it in every frame.

    The face that is held stays the one that is followed. Where none is held it is the largest that
    the detector is sure of, and the embedding tells whether that is the same person again.

    Parameters
    ----------
    nets : Nets
    every : int
        The detector looks at least at every so many-th frame.
    follows : bool
        Whether the pack's landmarks tell where to look next (`packs.Pack.refine`); if not, the
        detector looks at every frame.
    """

    def __init__(self, nets: Nets, every: int, follows: bool = True) -> None:
        self._nets = nets
        self._every = every if follows else 1
        self._since = 0  # frames since the detector looked
        self._held: _Held | None = None
        self._person: F32 | None = None  # sum of the unit embeddings of the one who is followed

    def look(self, image: Image) -> LiveFace | None:
        """Find the face in the next frame; None where there is none.

        Parameters
        ----------
        image : (h, w, 3) uint8 BGR
        """
        before = self._held
        held = None
        self._since += 1
        if before is not None and self._since < self._every:
            held = self._landmarks(image, before.crop, before)
        if held is None:
            held = self._detected(image, before)
        self._held = held
        if held is None:
            return None
        embedding, appearance = self._nets.recognition([align(image, held.landmark)])
        new = self._is_new(embedding[0], lost=before is None)
        return LiveFace(held.box, held.score, held.landmark, embedding[0], appearance[0], new)

    def _detected(self, image: Image, before: _Held | None) -> _Held | None:
        """Look with the detector; the face held before where it is still there, else the largest.

        A face that goes on is looked for where its landmarks say first: they are the steadier.
        """
        self._since = 0
        (faces,) = self._nets.detector.detect_many([image])
        at = _chosen(faces, before)
        if at is None:
            return None
        start = _Held(
            faces.box[at],
            float(faces.score[at]),
            crops_of_boxes(faces.box[at : at + 1], faces.points[at : at + 1])[0],
            np.full((68, 2), np.nan, np.float32),
        )
        if before is not None and float(iou(before.box[None], start.box[None])[0, 0]) >= LEAST_IOU:
            found = self._landmarks(image, before.crop, start)
            if found is not None:
                return found
        return self._landmarks(image, start.crop, start)

    def _landmarks(self, image: Image, crop: F64, known: _Held) -> _Held | None:
        """Look at a crop, and again where the landmarks ask for another; None if they are lost."""
        landmark, asked = self._nets.landmark([image], crop[None])
        if not face_like(landmark, known.box[None], [image])[0]:
            return None
        if drift(crop[None], asked)[0] > NEAR:
            crop = asked[0]
            landmark, asked = self._nets.landmark([image], crop[None])
            if not face_like(landmark, known.box[None], [image])[0]:
                return None
        if not drift(crop[None], asked)[0] <= ASTRAY:
            return None
        box = known.box
        if np.isfinite(known.landmark).all():
            box = _moved(box, known.landmark, landmark[0])
        if not middle_in(landmark[0], box):
            return None
        return _Held(box, known.score, asked[0], landmark[0])

    def _is_new(self, embedding: F32, lost: bool) -> bool:
        """Whether this is another person; asked only where the face was out of sight before."""
        unit = embedding / max(float(np.linalg.norm(embedding)), 1e-9)
        if self._person is None:
            self._person = unit
            return False
        length = max(float(np.linalg.norm(self._person)), 1e-9)
        if lost and float(unit @ self._person) / length < JOIN_COSINE:
            self._person = unit
            return True
        self._person = self._person + unit
        return False


def _chosen(faces: Faces, before: _Held | None) -> int | None:
    """Which of the faces found is followed, by its number."""
    if not len(faces):
        return None
    if before is not None:
        overlap = iou(before.box[None], faces.box)[0]
        best = int(overlap.argmax())
        if overlap[best] >= LEAST_IOU:
            return best
    area = np.prod(faces.box[:, 2:] - faces.box[:, :2], axis=1)
    area = np.where(faces.score >= SURE_SCORE, area, -1.0)
    best = int(area.argmax())
    return best if area[best] >= 0 else None


def _moved(box: F32, before: F32, after: F32) -> F32:
    """Move and scale a box as the landmarks (68, 2) did from one frame to the next."""
    old, new = before.mean(axis=0), after.mean(axis=0)
    scale = float(np.sqrt(after.var(axis=0).sum() / max(float(before.var(axis=0).sum()), 1e-9)))
    corners = (box.reshape(2, 2) - old) * scale + new
    return np.asarray(corners.reshape(4), np.float32)


def camera(number: int) -> Iterator[Frame]:
    """Yield the frames of a camera until it ends, timed from the first of them.

    Raises
    ------
    InputError
        There is no such camera, or it gives no frame.
    """
    capture = cv2.VideoCapture(number)
    try:
        first: float | None = None
        while True:
            got, image = capture.read() if capture.isOpened() else (False, None)
            if not got or image is None:
                break
            now = time.monotonic()
            first = now if first is None else first
            yield Frame(now - first, np.asarray(image, np.uint8))
        if first is None:
            raise InputError(
                f"camera {number} gives no picture", "give another --source, or the path of a video"
            )
    finally:
        capture.release()
