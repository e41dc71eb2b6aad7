"""Landmarks through a clip: from the detector's boxes where it looked, in between from both sides.

The crops that landmarks ask for are steadier than boxes, so those of frames between two detections
lie between the crops of these, and one look of the net is enough there as a rule. A face is looked
at again where its landmarks ask for another crop than was expected. Where they leave the face's
box, or are still not content, the detector looks at that frame, too.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stages.extract.batches import F32
from stages.extract.detector import Sighting
from stages.extract.faces import F64
from stages.extract.landmarks import between, crops_of_boxes, drift, follow
from stages.extract.requests import Answer, Detect, FindLandmarks, Request
from stages.extract.tracks import LEAST_IOU, Seen, match
from stages.extract.video import Image

NEAR = 0.05  # crops that differ by less (see `drift`) show the net the same
ASTRAY = 0.3  # landmarks that still ask for so different a crop have no hold of a face


@dataclass
class Located:
    """A face in a frame.

    ``crop`` (4,): where the net looks for it, and at last looked; ``expected`` (4,): the crop that
    its landmarks should ask for, and at last asked for; ``landmark`` (68, 2) float32 pixels;
    ``like``: whether they look like a face's.
    """

    seen: Seen
    sighting: Sighting
    crop: F64
    expected: F64
    landmark: F32
    like: bool = False
    astray: bool = False


class Locator:
    """Finds the landmarks of a clip's faces, a run of frames at a time."""

    def __init__(self) -> None:
        # Of each tracklet: the last frame in which the detector found it, and its crop there.
        self._anchors: dict[int, _Anchor] = {}

    def locate(self, run: Sequence[Seen]) -> Generator[Request, Answer, list[Located]]:
        """Yield requests; return the faces of the frames that have landmarks, frame by frame."""
        faces = [_start(seen, s) for seen in run for s in seen.sightings]
        detected = [face for face in faces if face.sighting.detected]
        yield from _look(detected)
        between_them = [face for face in faces if not face.sighting.detected]
        self._interpolate(between_them, detected)
        yield from _look(between_them)
        yield from _look_for([face for face in between_them if _lost(face)], faces)
        return [face for face in faces if face.like]

    def _interpolate(self, faces: Iterable[Located], detected: Iterable[Located]) -> None:
        """Take crops from the detections before and after; these become the last ones."""
        known = {name: [anchor] for name, anchor in self._anchors.items()}
        for face in detected:
            name = face.sighting.tracklet
            self._anchors[name] = anchor = _Anchor(face.seen.index, face.crop, face.expected)
            known.setdefault(name, []).append(anchor)
        for face in faces:
            index, anchors = face.seen.index, known.get(face.sighting.tracklet, [])
            a = max((a for a in anchors if a.index < index), default=None)
            b = min((a for a in anchors if a.index > index), default=None)
            if a and b:
                t = (index - a.index) / (b.index - a.index)
                face.crop = between(a.crop, b.crop, t)
                face.expected = between(a.expected, b.expected, t)


@dataclass(order=True)
class _Anchor:
    """A frame in which the detector found a face; crops as of `Located`."""

    index: int
    crop: F64 = field(compare=False)
    expected: F64 = field(compare=False)


def _start(seen: Seen, sighting: Sighting) -> Located:
    (crop,) = crops_of_boxes(sighting.box[None], sighting.points[None])
    return Located(seen, sighting, crop, crop, np.full((68, 2), np.nan, np.float32))


def _look(faces: Sequence[Located]) -> Generator[Request, Answer, None]:
    """Find landmarks in the faces' crops; look again where these are not where expected."""
    again = yield from _look_once(faces)
    for face, crop in again:
        face.crop = crop
    yield from _look_once([face for face, _ in again])


def _look_once(
    faces: Sequence[Located],
) -> Generator[Request, Answer, list[tuple[Located, F64]]]:
    """Find landmarks; return the faces that are to be looked at again, with crops for that."""
    if not faces:
        return []
    crop, expected = np.array([f.crop for f in faces]), np.array([f.expected for f in faces])
    landmarks, asked = yield FindLandmarks([face.seen.image for face in faces], crop)
    off, moved = drift(expected, asked), follow(crop, expected, asked)
    boxes = np.stack([face.sighting.box for face in faces])
    like = face_like(landmarks, boxes, [face.seen.image for face in faces])
    again = []
    for i, face in enumerate(faces):
        face.landmark, face.like, face.astray = landmarks[i], bool(like[i]), not off[i] <= ASTRAY
        if face.like:
            face.expected = asked[i]
            if off[i] > NEAR:
                again.append((face, moved[i]))
    return again


def _look_for(
    lost: Sequence[Located], faces: Sequence[Located]
) -> Generator[Request, Answer, None]:
    """Detect the faces of frames in which landmarks lost theirs; those not found are given up."""
    for index in sorted({face.seen.index for face in lost}):
        there = [face for face in faces if face.seen.index == index]
        detected = yield Detect(there[0].seen.image)
        boxes = np.stack([face.sighting.box for face in there])
        pairs = dict(match(boxes, detected.box, LEAST_IOU))
        found = []
        for i, face in enumerate(there):
            if face not in lost:
                continue
            face.landmark, face.like = np.full_like(face.landmark, np.nan), False
            if i in pairs:
                face.sighting = detected.sighting(pairs[i], face.sighting.tracklet)
                face.crop = face.expected = _start(face.seen, face.sighting).crop
                found.append(face)
        yield from _look(found)


def _lost(face: Located) -> bool:
    """Whether landmarks lie about another place than the box, or have no hold."""
    return face.astray or not face.like or not middle_in(face.landmark, face.sighting.box)


def middle_in(landmark: F32, box: F32) -> bool:
    """Whether the middle of landmarks (68, 2) lies in a box (4,)."""
    middle = (landmark.min(0) + landmark.max(0)) / 2
    return bool((middle > box[:2]).all() and (middle < box[2:]).all())


def face_like(landmark: F32, box: F32, images: Sequence[Image]) -> npt.NDArray[np.bool_]:
    """Whether the net saw faces (m,): points that spread out, within a frame's size of the frame.

    ``landmark`` (m, 68, 2), NaN for none; ``box`` (m, 4); ``images``: m pictures.
    """
    size = np.array([image.shape[1::-1] for image in images], np.float32)[:, None]
    low, high = landmark.min(1, keepdims=True), landmark.max(1, keepdims=True)
    inside = ((low > -size) & (high < 2 * size)).all((1, 2))  # False for NaN as well
    spread = (high - low).min((1, 2)) > 1
    return np.asarray(inside & spread & (box[:, 2:] > box[:, :2]).all(1), np.bool_)
